//! Recovery points: the repository's format, read and ingest.
mod codec;
mod error;
mod id;
mod manifest;
mod map;
mod repository;
mod store;

pub use error::RepoError;
pub use id::{MapId, ParseIdError, PointId, VmId};
pub use manifest::{
    DiskManifest, MAX_DISK_BYTES, MAX_DISKS, MAX_MANIFEST_BYTES, MAX_NVRAM_BYTES, PointManifest,
    VmIdentity,
};
pub use map::read::DiskMap;
pub use map::{BlockRef, MapEntry};
pub use repository::{CreateOptions, DamagedPoint, PointListing, Repository};
