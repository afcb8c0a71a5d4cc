//! Where a repository's objects live, and what they are called.

mod local;
mod writer;

use std::ops::Range;
use std::sync::Arc;

use rekindle_block::Block;

pub(crate) use local::LocalDir;
pub(crate) use writer::{NewObject, Writer};

use crate::id::PackId;
use crate::map::BlockRef;
use crate::{MapId, PointId, RepoError, VmId};

pub(crate) const REPOSITORY: &str = "repository.json";

pub(crate) fn point_object(vm: &VmId, point: &PointId) -> String {
    format!("points/{vm}/{point}.json")
}

pub(crate) fn map_object(map: &MapId) -> String {
    format!("maps/{map}.map")
}

pub(crate) fn pack_object(pack: PackId) -> String {
    let name = pack.to_string();
    format!("packs/{}/{name}.pack", &name[..2])
}

/// A point by its place: what a listing finds without opening anything.
pub(crate) struct PointPlace {
    pub(crate) object: String,
    /// `None` if the object's name is none that a point can have.
    pub(crate) ids: Option<(VmId, PointId)>,
}

/// Where a repository's objects live. The set is closed: to add a kind, add a variant and the
/// compiler lists every place that must know.
#[derive(Clone)]
pub(crate) enum Store {
    /// A directory of this machine.
    Local(Arc<LocalDir>),
}

impl Store {
    /// Bytes `range` of an object that a verified manifest or map refers to, so that an object that is
    /// missing or short is corrupt.
    pub(crate) async fn read_range(
        &self,
        object: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, RepoError> {
        match self {
            Self::Local(dir) => {
                let (dir, object) = (dir.clone(), object.to_owned());
                blocking(move || dir.read_range(&object, range)).await
            }
        }
    }

    /// The block, read, decompressed and verified.
    pub(crate) async fn read_block(&self, block: &BlockRef) -> Result<Block, RepoError> {
        match self {
            Self::Local(dir) => {
                let (dir, block) = (dir.clone(), *block);
                blocking(move || dir.read_block(&block)).await
            }
        }
    }

    /// A whole object of at most `max` bytes.
    pub(crate) async fn read_all(&self, object: &str, max: u64) -> Result<Vec<u8>, RepoError> {
        match self {
            Self::Local(dir) => {
                let (dir, object) = (dir.clone(), object.to_owned());
                blocking(move || dir.read_all(&object, max)).await
            }
        }
    }

    pub(crate) async fn list_points(&self) -> Result<Vec<PointPlace>, RepoError> {
        match self {
            Self::Local(dir) => {
                let dir = dir.clone();
                blocking(move || dir.list_points()).await
            }
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
