use std::ops::Range;

use rekindle_block::{BlockHash, BlockSize};

use super::{PageRef, Shape};
use crate::store::map_object;
use crate::{DiskManifest, RepoError};

/// Where a map's root is, as far as its disk's manifest tells.
pub(super) struct RootPlace {
    pub(super) object: String,
    pub(super) shape: Shape,
    pub(super) range: Range<u64>,
}

impl RootPlace {
    pub(super) fn of(disk: &DiskManifest, block_size: BlockSize) -> Result<Self, RepoError> {
        let object = map_object(&disk.map);
        let corrupt = |detail| RepoError::corrupt(&object, detail);
        let shape =
            Shape::new(block_size, disk.size_bytes).ok_or_else(|| corrupt("absurd size"))?;
        let start = disk.map_bytes.checked_sub(shape.root_bytes() as u64);
        let start = start.ok_or_else(|| corrupt("it is too short"))?;
        Ok(Self { object, shape, range: start..disk.map_bytes })
    }

    /// The directories, if `bytes` are what the manifest vouches for.
    pub(super) fn open(
        &self,
        disk: &DiskManifest,
        bytes: &[u8],
    ) -> Result<Vec<Option<PageRef>>, RepoError> {
        let corrupt = |detail| RepoError::corrupt(&self.object, detail);
        if BlockHash::of(bytes) != disk.map_hash {
            return Err(corrupt("its root does not match the manifest"));
        }
        self.shape.decode_root(bytes, disk.map_bytes).map_err(corrupt)
    }
}
