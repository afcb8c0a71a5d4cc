use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rekindle_block::BlockSize;
use serde::{Deserialize, Serialize};

use crate::id::random;
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::store::{Location, PointPlace, REPOSITORY, Store, Writer};
use crate::{DiskMap, PointId, PointManifest, RepoError, S3Stats};

/// The largest `repository.json`.
const MAX_RECORD_BYTES: u64 = 64 << 10;
const VERSION: u32 = 1;

/// An open repository. Cheap to clone; reading takes no lock.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    record: Record,
    location: Location,
    store: Store,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("location", &self.location()).finish_non_exhaustive()
    }
}

/// `repository.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    id: String,
    block_size: BlockSize,
    created_at: Timestamp,
    /// `null`: blocks, maps and manifests are not sealed. No other value exists in version 1.
    encryption: Option<serde_json::Value>,
}

/// How a repository is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Bytes in a block; 256 KiB if not said otherwise.
    pub block_size: BlockSize,
}

/// What a repository holds.
#[derive(Clone, Debug, Default)]
pub struct PointListing {
    /// The readable points, by VM and then by time.
    pub points: Vec<PointManifest>,
    /// What should be a point and cannot be read as one.
    pub damaged: Vec<DamagedPoint>,
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
    fn decode(&self, bytes: &[u8]) -> Result<PointManifest, RepoError> {
        let Some((vm, id)) = &self.ids else {
            return Err(RepoError::corrupt(&self.object, "its name is none of a point"));
        };
        let point = PointManifest::decode(&self.object, bytes)?;
        if point.id != *id || point.vm.id != *vm {
            return Err(RepoError::corrupt(&self.object, "it is another point's manifest"));
        }
        Ok(point)
    }
}

impl Repository {
    /// Makes a repository in a directory that is empty or does not exist, or below a prefix where there is none. Blocks
    /// on I/O.
    pub fn create(place: impl Into<Location>, options: &CreateOptions) -> Result<Self, RepoError> {
        let place = place.into();
        if let Location::Local(dir) = &place {
            make_directories(dir)?;
        }
        let store = Store::open(&place)?;
        let record = Record {
            version: VERSION,
            id: hex::encode(random::<16>()?),
            block_size: options.block_size,
            created_at: Timestamp::now(),
            encryption: None,
        };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|e| RepoError::refused(format!("cannot encode {REPOSITORY}: {e}")))?;
        let writer = Writer::begin(&store)?;
        // A store that keeps the condition refuses to write it twice; others are asked.
        if matches!(place, Location::S3(_)) && Self::read_record(&store, &place).is_ok() {
            return Err(RepoError::refused(format!("there is a repository in {place} already")));
        }
        writer.put(REPOSITORY, &text)?;
        Self::open(place)
    }

    /// Opens the repository at `place`. Blocks on I/O, and reads one small object whatever the repository holds.
    pub fn open(place: impl Into<Location>) -> Result<Self, RepoError> {
        let place = place.into();
        let store = Store::open(&place)?;
        let record = Self::read_record(&store, &place)?;
        Ok(Self(Arc::new(Inner { record, location: place, store })))
    }

    fn read_record(store: &Store, place: &Location) -> Result<Record, RepoError> {
        let decode = |bytes: Vec<u8>| decode_record(&bytes);
        store.read_all_blocking(REPOSITORY, MAX_RECORD_BYTES, decode).map_err(|error| match error {
            RepoError::NotFound { .. } => {
                RepoError::NotFound { what: format!("a repository in {place}") }
            }
            other => other,
        })
    }

    /// The repository's name for life: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.0.record.id
    }

    /// Bytes in a block of its disks.
    pub fn block_size(&self) -> BlockSize {
        self.0.record.block_size
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// What its store was asked and answered, if it is on S3.
    pub fn s3_stats(&self) -> Option<S3Stats> {
        self.0.store.s3_stats()
    }

    /// All points. One that cannot be read is listed as damaged and hides no other.
    pub async fn points(&self) -> Result<PointListing, RepoError> {
        let mut listing = PointListing::default();
        for place in self.0.store.list_points().await? {
            let point = self.read_point(&place).await;
            listing.add(place, point);
        }
        Ok(listing)
    }

    /// The same for a thread that may block.
    pub(crate) fn points_blocking(&self) -> Result<PointListing, RepoError> {
        let mut listing = PointListing::default();
        for place in self.0.store.list_points_blocking()? {
            let (object, decode) = (place.object.clone(), place.clone());
            let decode = move |bytes: Vec<u8>| decode.decode(&bytes);
            let point = self.0.store.read_all_blocking(&object, MAX_MANIFEST_BYTES, decode);
            listing.add(place, point);
        }
        Ok(listing)
    }

    /// The point of that id.
    pub async fn point(&self, id: &PointId) -> Result<PointManifest, RepoError> {
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

    /// Opens disk `index` of a point: one small read, whatever its size.
    pub async fn open_disk(
        &self,
        point: &PointManifest,
        index: usize,
    ) -> Result<DiskMap, RepoError> {
        let disk = point.disks.get(index).ok_or_else(|| RepoError::NotFound {
            what: format!("disk {index} of recovery point {}", point.id),
        })?;
        DiskMap::open(self.0.store.clone(), self.block_size(), disk).await
    }

    async fn read_point(&self, place: &PointPlace) -> Result<PointManifest, RepoError> {
        let decode = place.clone();
        let decode = move |bytes: Vec<u8>| decode.decode(&bytes);
        self.0.store.read_all(&place.object, MAX_MANIFEST_BYTES, decode).await
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }
}

fn make_directories(dir: &Path) -> Result<(), RepoError> {
    let io = |e| RepoError::io(format!("create a repository in {}", dir.display()), e);
    fs::create_dir_all(dir).map_err(io)?;
    if fs::read_dir(dir).map_err(io)?.next().is_some() {
        return Err(RepoError::refused(format!("{} is not empty", dir.display())));
    }
    for sub in ["tmp", "points", "maps", "packs"] {
        fs::create_dir(dir.join(sub)).map_err(io)?;
    }
    Ok(())
}

fn decode_record(bytes: &[u8]) -> Result<Record, RepoError> {
    let corrupt = |e: serde_json::Error| RepoError::corrupt(REPOSITORY, e.to_string());
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if version != VERSION {
        return Err(RepoError::refused(format!(
            "the repository has format version {version}; this build reads version {VERSION}"
        )));
    }
    let record: Record = serde_json::from_slice(bytes).map_err(corrupt)?;
    if record.encryption.is_some() {
        return Err(RepoError::refused(
            "the repository is encrypted, which this build cannot read",
        ));
    }
    if record.id.len() != 32 || !record.id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(RepoError::corrupt(REPOSITORY, "its id is no id"));
    }
    Ok(record)
}
