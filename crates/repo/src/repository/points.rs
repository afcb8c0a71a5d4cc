use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::images::Images;
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::prune::condemned;
use crate::seal::Seal;
use crate::store::{PointPlace, Store, blocking};
use crate::{PointId, PointManifest, RepoError, Repository};

/// What a repository holds.
#[derive(Clone, Debug, Default)]
pub struct PointListing {
    /// The readable points, by VM and then by time.
    pub points: Vec<PointManifest>,
    /// What should be a point and cannot be read as one.
    pub damaged: Vec<DamagedPoint>,
    /// Points that a prune has let go and that are still there.
    pub condemned: Vec<CondemnedPoint>,
}

/// A point that a prune takes away later.
#[derive(Clone, Debug)]
pub struct CondemnedPoint {
    /// The point.
    pub point: PointManifest,
    /// From when on it goes.
    pub goes_after: Timestamp,
}

/// An object among the points that is none.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedPoint {
    /// Its name in the repository.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

impl PointListing {
    fn add(&mut self, place: PointPlace, point: Result<PointManifest, RepoError>) {
        match point {
            Ok(point) => self.points.push(point),
            // Removed since it was listed.
            Err(RepoError::NotFound { .. }) => {}
            Err(error) => {
                let reason = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                self.damaged.push(DamagedPoint { object: place.object, reason });
            }
        }
    }
}

impl PointPlace {
    /// The manifest that lies there, if it belongs there.
    fn decode(&self, seal: &Seal, bytes: &[u8]) -> Result<PointManifest, RepoError> {
        let Some((folder, id)) = &self.ids else {
            return Err(RepoError::corrupt(&self.object, "its name is none of a point"));
        };
        let point = PointManifest::decode_from(seal, &self.object, bytes)?;
        if point.id != *id || seal.folder(&point.vm.id)? != *folder {
            return Err(RepoError::corrupt(&self.object, "it is another point's manifest"));
        }
        Ok(point)
    }
}

impl Repository {
    /// All points. One that cannot be read is listed as damaged and hides no other; those that a prune has condemned
    /// are listed apart.
    pub async fn points(&self) -> Result<PointListing, RepoError> {
        if self.has_images() {
            return self.ask_images(Images::points).await;
        }
        let mut listing = PointListing::default();
        let condemned = self.condemned().await?;
        for place in self.0.store.list_points().await? {
            let goes_after =
                place.ids.as_ref().and_then(|(_, point)| condemned.get(point)).copied();
            match (self.read_point(&place).await, goes_after) {
                (Ok(point), Some(goes_after)) => {
                    listing.condemned.push(CondemnedPoint { point, goes_after });
                }
                // Damaged or gone: it goes anyway.
                (Err(_), Some(_)) => {}
                (point, None) => listing.add(place, point),
            }
        }
        Ok(listing)
    }

    /// When a point goes that a prune has condemned; `None` if it stays.
    pub async fn goes_after(&self, id: &PointId) -> Result<Option<Timestamp>, RepoError> {
        Ok(self.condemned().await?.get(id).copied())
    }

    /// The same for a thread that may block.
    pub(crate) fn goes_after_blocking(&self, id: &PointId) -> Result<Option<Timestamp>, RepoError> {
        Ok(self.condemned_blocking()?.get(id).copied())
    }

    /// All condemned points, with when they go.
    pub(crate) fn condemned_blocking(&self) -> Result<BTreeMap<PointId, Timestamp>, RepoError> {
        if self.has_images() {
            return Ok(BTreeMap::new());
        }
        goes_after(self.store(), self.seal())
    }

    async fn condemned(&self) -> Result<BTreeMap<PointId, Timestamp>, RepoError> {
        if self.has_images() {
            return Ok(BTreeMap::new());
        }
        let (store, seal) = (self.0.store.clone(), self.seal().clone());
        blocking(move || goes_after(&store, &seal)).await
    }

    /// All points, condemned or not, for a thread that may block.
    pub(crate) fn points_blocking(&self) -> Result<PointListing, RepoError> {
        if let Some(images) = &self.0.images {
            return images.points();
        }
        let mut listing = PointListing::default();
        for place in self.0.store.list_points_blocking()? {
            let point = self.read_point_blocking(&place);
            listing.add(place, point);
        }
        Ok(listing)
    }

    /// The point of that id, for a thread that may block.
    pub(crate) fn point_blocking(&self, id: &PointId) -> Result<PointManifest, RepoError> {
        if let Some(images) = &self.0.images {
            return images.point(id);
        }
        let places = self.0.store.list_points_blocking()?;
        let place = places
            .into_iter()
            .find(|place| place.ids.as_ref().is_some_and(|(_, found)| found == id))
            .ok_or_else(|| RepoError::NotFound { what: format!("recovery point {id}") })?;
        self.read_point_blocking(&place)
    }

    fn read_point_blocking(&self, place: &PointPlace) -> Result<PointManifest, RepoError> {
        let (of_place, seal) = (place.clone(), self.seal().clone());
        let decode = move |bytes: Vec<u8>| of_place.decode(&seal, &bytes);
        self.0.store.read_all_blocking(&place.object, MAX_MANIFEST_BYTES, decode)
    }

    /// The point of that id.
    pub async fn point(&self, id: &PointId) -> Result<PointManifest, RepoError> {
        if self.has_images() {
            let id = id.clone();
            return self.ask_images(move |images| images.point(&id)).await;
        }
        for place in self.0.store.list_points().await? {
            if place.ids.as_ref().is_some_and(|(_, found)| found == id) {
                return self.read_point(&place).await;
            }
        }
        Err(RepoError::NotFound { what: format!("recovery point {id}") })
    }

    /// The newest readable point of the VM of that name or id.
    pub async fn latest(&self, vm: &str) -> Result<PointManifest, RepoError> {
        let ours = |point: &PointManifest| point.vm.name == vm || point.vm.id.as_str() == vm;
        let points = self.points().await?.points.into_iter().filter(ours);
        let latest = points.max_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        latest.ok_or_else(|| RepoError::NotFound { what: format!("a recovery point of {vm:?}") })
    }

    async fn read_point(&self, place: &PointPlace) -> Result<PointManifest, RepoError> {
        let decode = (place.clone(), self.seal().clone());
        let decode = move |bytes: Vec<u8>| decode.0.decode(&decode.1, &bytes);
        self.0.store.read_all(&place.object, MAX_MANIFEST_BYTES, decode).await
    }
}

/// Points that are condemned, with when they go. A damaged list takes nothing away, and hides nothing either.
fn goes_after(store: &Store, seal: &Seal) -> Result<BTreeMap<PointId, Timestamp>, RepoError> {
    let lists = match condemned::read_all(store, seal) {
        Ok(lists) => lists,
        Err(error @ (RepoError::Corrupt { .. } | RepoError::Refused { .. })) => {
            tracing::warn!("a list of what is to be taken away cannot be read: {error}");
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error),
    };
    let points = lists.into_iter().flat_map(|(_, list)| {
        let delete_after = list.delete_after;
        list.points.into_iter().map(move |one| (one.point, delete_after))
    });
    Ok(points.collect())
}
