//! A hot copy: what a recovery from a bucket needs, in a directory of this machine.
//!
//! # Layout
//!
//! ```text
//! hot.json             which repository's it is
//! hot/<point>.json     a point that is here: the objects it needs
//! maps/… packs/…       the bucket's own objects, as they are there
//! tmp/ lock            as in a repository
//! ```
//!
//! Whoever reads asks the copy first and, block by block, the bucket for what is not there or fails its check. So
//! nothing here needs to be trusted, and all of it may be deleted at any time.
//!
//! # Crash
//!
//! 1. copy maps and packs, each whole under its name or not there    crash here: the next copy finds them
//! 2. write `hot/<point>.json`                                       crash after: the point is here
//!
//! It is taken away the other way round. What no point names any more is deleted by whoever next needs its room, or
//! has copied all that is wanted.
//!
//! # Bounds
//!
//! A copy holds four pieces of 4 MiB and the lists of all points that are here, some 100 bytes for each pack of
//! 64 MiB. The directory has at most as many bytes as it may, and leaves a twentieth of its file system free: points
//! go, the oldest first.

mod copy;
mod newest;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{LocalDir, S3Bucket, Store, Writer};
use crate::{PointId, RepoError, Repository};

pub use copy::copy_hot;
pub use newest::copy_newest_hot;
pub use room::drop_hot;

const MARK: &str = "hot.json";
const MARK_MAX: u64 = 4096;
const VERSION: u32 = 1;
const FOLDER: &str = "hot/";
const FOLDERS: [&str; 4] = ["tmp", "hot", "maps", "packs"];
/// The longest list of a point: a disk of 62 TiB lies in a million packs of some 60 bytes each.
const LIST_MAX: u64 = 128 << 20;

/// What a copy may take.
#[derive(Clone, Copy, Debug)]
pub struct HotLimits {
    /// Bytes of the whole directory.
    pub max_bytes: u64,
    /// Bytes per second; 0 for no limit.
    pub max_bytes_per_second: u64,
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HotReport {
    /// Bytes that were copied.
    pub copied_bytes: u64,
    /// Bytes that were here already.
    pub there_bytes: u64,
    /// Points that went to make room.
    pub dropped: Vec<PointId>,
}

/// `hot/<point>.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HotPoint {
    point: PointId,
    copied_at: Timestamp,
    /// The objects it needs, with their bytes. Other points may need them too.
    objects: BTreeMap<String, u64>,
}

/// `hot.json`.
#[derive(Serialize, Deserialize)]
struct Mark {
    version: u32,
    repository: String,
}

/// Makes `dir` the place of a hot copy, or finds that it is this repository's. Cut short, it is made by the next.
pub(crate) fn prepare(dir: &Path, repository: &str) -> Result<Arc<LocalDir>, RepoError> {
    let local = Arc::new(LocalDir::new(dir.to_owned()));
    match local.read_all(MARK, MARK_MAX) {
        Ok(mark) => {
            let mark: Mark = serde_json::from_slice(&mark)
                .map_err(|e| RepoError::corrupt(MARK, e.to_string()))?;
            if mark.version != VERSION || mark.repository != repository {
                let why = format!("{} has the hot copy of another repository", dir.display());
                return Err(RepoError::refused(why));
            }
        }
        Err(RepoError::NotFound { .. }) => make(dir, &local, repository)?,
        Err(other) => return Err(other),
    }
    Ok(local)
}

fn make(dir: &Path, local: &Arc<LocalDir>, repository: &str) -> Result<(), RepoError> {
    let io = |e| RepoError::io(format!("use {} for hot copies", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(io)?;
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if !FOLDERS.iter().chain(&["lock"]).any(|ours| name == *ours) {
            let why = format!("{} is not empty and has no hot copy", dir.display());
            return Err(RepoError::refused(why));
        }
    }
    for folder in FOLDERS {
        std::fs::create_dir_all(dir.join(folder)).map_err(io)?;
    }
    let mark = Mark { version: VERSION, repository: repository.to_owned() };
    Writer::begin(&Store::Local(local.clone()))?.put(MARK, &encode(MARK, &mark)?)
}

fn encode(name: &str, what: &impl Serialize) -> Result<Vec<u8>, RepoError> {
    serde_json::to_vec(what).map_err(|e| RepoError::refused(format!("cannot encode {name}: {e}")))
}

/// A repository's hot copy.
struct HotCopy<'a> {
    repository: &'a Repository,
    bucket: &'a Arc<S3Bucket>,
    dir: Arc<LocalDir>,
}

impl<'a> HotCopy<'a> {
    fn of(repository: &'a Repository) -> Result<Self, RepoError> {
        let Store::S3(bucket) = repository.store() else {
            return Err(RepoError::refused("a directory is hot by itself"));
        };
        let dir = bucket.hot().cloned().ok_or_else(|| {
            RepoError::refused("no directory for hot copies is configured (hot_copy) or usable")
        })?;
        Ok(Self { repository, bucket, dir })
    }

    fn store(&self) -> Store {
        Store::Local(self.dir.clone())
    }

    /// The points that are here, the oldest first.
    fn points(&self) -> Result<Vec<HotPoint>, RepoError> {
        let mut points = Vec::new();
        for object in self.dir.list(FOLDER)? {
            let point = self.dir.read_all(&object, LIST_MAX).ok();
            // What cannot be read is not here: reads ask the bucket.
            points.extend(point.and_then(|text| serde_json::from_slice::<HotPoint>(&text).ok()));
        }
        points.sort_by(|a, b| a.point.cmp(&b.point));
        Ok(points)
    }

    /// All maps and packs that are here, with their bytes.
    fn objects(&self) -> Result<BTreeMap<String, u64>, RepoError> {
        let mut objects = self.dir.list("maps/")?;
        let packs = self.dir.stored_packs()?;
        objects.extend(packs.into_iter().map(|one| crate::store::pack_object(one.pack)));
        let len = |object: String| self.dir.len_of(&object).map(|len| (object, len));
        Ok(objects.into_iter().filter_map(len).collect())
    }
}

fn list_object(point: &PointId) -> String {
    format!("{FOLDER}{point}.json")
}

/// Which points are in the hot copy; none without one. Blocks on file I/O: one listing.
pub fn hot_points(repository: &Repository) -> Result<BTreeSet<PointId>, RepoError> {
    let Store::S3(bucket) = repository.store() else { return Ok(BTreeSet::new()) };
    let Some(dir) = bucket.hot() else { return Ok(BTreeSet::new()) };
    let id = |object: &String| object.strip_prefix(FOLDER)?.strip_suffix(".json")?.parse().ok();
    Ok(dir.list(FOLDER)?.iter().filter_map(id).collect())
}
