//! Where a repository's objects live, and what they are called.

mod blocking;
mod bucket;
mod coming;
mod local;
mod local_writer;
mod location;
mod s3;
mod writer;

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use rekindle_block::Block;
use tokio::sync::Semaphore;

use bucket::Bucket;
pub(crate) use coming::Coming;
pub(crate) use local::LocalDir;
pub use location::{Location, Near};
pub(crate) use s3::{Chunks, ListedFile, S3File};
pub(crate) use s3::{Copying, Outage, PackState, S3Bucket, Thawed};
pub use s3::{S3Credentials, S3Location, S3Stats};
pub(crate) use writer::{NewObject, Writer};

use crate::codec::open_block;
use crate::id::PackId;
use crate::map::BlockRef;
use crate::seal::Seal;
use crate::tier::Tier;
use crate::{MapId, PointId, RepoError, VmId};

pub(crate) const REPOSITORY: &str = "repository.json";

pub(crate) fn point_object(vm: &VmId, point: &PointId) -> String {
    format!("points/{vm}/{point}.json")
}

pub(crate) fn map_object(map: &MapId) -> String {
    format!("maps/{map}.map")
}

pub(crate) fn key_object(id: &str) -> String {
    format!("keys/{id}.json")
}

pub(crate) fn pack_object(pack: PackId) -> String {
    let name = pack.to_string();
    format!("packs/{}/{name}.pack", &name[..2])
}

/// The pack that an object is.
pub(crate) fn pack_of(object: &str) -> Option<PackId> {
    let name = object.rsplit('/').next()?.strip_suffix(".pack")?;
    let id = (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?;
    id.map(PackId)
}

/// The point that an object below `points/` should be.
pub(crate) fn place_of(object: String) -> PointPlace {
    let parts = object.strip_prefix("points/").and_then(|rest| rest.split_once('/'));
    let ids = parts.and_then(|(vm, name)| {
        let point = name.strip_suffix(".json").and_then(|point| point.parse().ok());
        vm.parse().ok().zip(point)
    });
    PointPlace { object, ids }
}

/// A point by its place: what a listing finds without opening anything.
#[derive(Clone)]
pub(crate) struct PointPlace {
    pub(crate) object: String,
    /// `None` if the object's name is none that a point can have.
    pub(crate) ids: Option<(VmId, PointId)>,
}

/// A pack as a listing tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredPack {
    pub(crate) pack: PackId,
    pub(crate) len: u64,
    pub(crate) tier: Tier,
    pub(crate) written_at: Timestamp,
}

/// Where a repository's objects live. The set is closed: to add a kind, add a variant and the
/// compiler lists every place that must know.
#[derive(Clone)]
pub(crate) enum Store {
    /// A directory of this machine.
    Local(Arc<LocalDir>),
    /// A bucket of an S3-compatible store.
    S3(Bucket),
}

impl Store {
    /// Blocks on file I/O; sends no request.
    pub(crate) fn open(location: &Location) -> Result<Self, RepoError> {
        Ok(match location {
            Location::Local(dir) => Self::Local(Arc::new(LocalDir::new(dir.clone()))),
            Location::S3(place) => Self::S3(Bucket::new(S3Bucket::open(place)?)),
        })
    }

    /// A place that holds what others put there, and to which nothing is ever written.
    pub(crate) fn open_read_only(location: &Location) -> Result<Self, RepoError> {
        Ok(match location {
            Location::Local(dir) => Self::Local(Arc::new(LocalDir::read_only(dir.clone()))),
            Location::S3(place) => Self::S3(Bucket::new(S3Bucket::open_read_only(place)?)),
        })
    }

    /// The same without a hot copy, for whoever asks what the repository itself has.
    pub(crate) fn as_it_is(&self) -> Self {
        match self {
            Self::Local(dir) => Self::Local(dir.clone()),
            Self::S3(bucket) => Self::S3(bucket.as_it_is()),
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        match self {
            Self::Local(dir) => dir.is_read_only(),
            Self::S3(bucket) => bucket.is_read_only(),
        }
    }

    /// What a store beyond the network was asked and answered.
    pub(crate) fn s3_stats(&self) -> Option<S3Stats> {
        match self {
            Self::Local(_) => None,
            Self::S3(bucket) => Some(bucket.stats()),
        }
    }

    /// Lets go of what is held of packs that were deleted, so that their space is free.
    pub(crate) fn forget_packs(&self, packs: &[PackId]) {
        match self {
            Self::Local(dir) => dir.forget_packs(packs),
            Self::S3(_) => {}
        }
    }

    /// Room for reads of several blocks; `None` where each block is at hand and a large read of no use.
    pub(crate) fn room_for_runs(&self) -> Option<&Arc<Semaphore>> {
        match self {
            Self::Local(_) => None,
            Self::S3(bucket) => Some(bucket.room_for_runs()),
        }
    }

    /// Whether its objects are beyond the network.
    pub(crate) fn is_far(&self) -> bool {
        matches!(self, Self::S3(_))
    }

    /// Shows that a map is being copied, until dropped.
    pub(crate) fn show_copying(&self) -> Option<Copying> {
        match self {
            Self::Local(_) => None,
            Self::S3(bucket) => Some(bucket.show_copying()),
        }
    }

    /// Since when and why a store beyond the network does not answer.
    pub(crate) fn outage(&self) -> Option<Outage> {
        match self {
            Self::Local(_) => None,
            Self::S3(bucket) => bucket.outage(),
        }
    }

    /// Bytes `range` of an object that a verified manifest or map refers to, so that an object that is
    /// missing or short is corrupt; and what `check` makes of them. Where bytes travel and can be hurt on
    /// the way, what `check` calls corrupt is fetched again before it is believed.
    pub(crate) async fn read_range<T: Send + 'static>(
        &self,
        object: &str,
        range: Range<u64>,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Result<T, RepoError> {
        match self {
            Self::Local(dir) => {
                let (dir, object) = (dir.clone(), object.to_owned());
                blocking(move || check(dir.read_range(&object, range)?)).await
            }
            Self::S3(bucket) => {
                let check = Arc::new(check);
                if let Some(dir) = bucket.hot().cloned() {
                    let (object, range, check) = (object.to_owned(), range.clone(), check.clone());
                    let found = blocking(move || check(dir.read_range(&object, range)?)).await;
                    // Whatever is wrong with the copy, the bucket has it.
                    if found.is_ok() {
                        bucket.note_hot_read();
                        return found;
                    }
                }
                bucket.read_range(object, range, move |bytes| check(bytes)).result().await
            }
        }
    }

    /// The block, read, opened, decompressed and verified.
    pub(crate) async fn read_block(
        &self,
        seal: &Seal,
        block: &BlockRef,
    ) -> Result<Block, RepoError> {
        match self {
            Self::Local(dir) => {
                let (dir, seal, block) = (dir.clone(), seal.clone(), *block);
                blocking(move || open_block(&seal, &block, dir.read_stored(&block)?)).await
            }
            Self::S3(bucket) => {
                if let Some(block) = self.read_hot(seal, block).await {
                    return Ok(block);
                }
                let (object, seal, block) = (pack_object(block.pack), seal.clone(), *block);
                let open = move |stored: Vec<u8>| open_block(&seal, &block, stored);
                bucket.read_range(&object, block.stored_range(), open).result().await
            }
        }
    }

    /// The block, if a hot copy has it and it is sound there.
    pub(crate) async fn read_hot(&self, seal: &Seal, block: &BlockRef) -> Option<Block> {
        let Self::S3(bucket) = self else { return None };
        let (dir, seal, block) = (bucket.hot()?.clone(), seal.clone(), *block);
        let found = blocking(move || open_block(&seal, &block, dir.read_stored(&block)?)).await;
        found.inspect(|_| bucket.note_hot_read()).ok()
    }

    /// A whole object of at most `max` bytes, and what `check` makes of it.
    pub(crate) async fn read_all<T: Send + 'static>(
        &self,
        object: &str,
        max: u64,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Result<T, RepoError> {
        match self {
            Self::Local(dir) => {
                let (dir, object) = (dir.clone(), object.to_owned());
                blocking(move || check(dir.read_all(&object, max)?)).await
            }
            Self::S3(bucket) => bucket.read_all(object, max, check).result().await,
        }
    }

    pub(crate) async fn list_points(&self) -> Result<Vec<PointPlace>, RepoError> {
        match self {
            Self::Local(dir) => {
                let dir = dir.clone();
                blocking(move || dir.list_points()).await
            }
            Self::S3(bucket) => bucket.list_points().result().await,
        }
    }
}

/// Runs file I/O and decoding where they hold up no other task.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RepoError> + Send + 'static,
) -> Result<T, RepoError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(RepoError::Unavailable { what: "finish a read".into(), source: error.into() })
        }
    }
}
