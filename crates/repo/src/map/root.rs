use std::ops::Range;

use rekindle_block::BlockSize;

use super::seal::MapSeal;
use super::{PageRef, Shape};
use crate::seal::Seal;
use crate::store::map_object;
use crate::{DiskManifest, RepoError};

/// Where a map's root is, as far as its disk's manifest tells.
pub(super) struct RootPlace {
    pub(super) object: String,
    pub(super) shape: Shape,
    pub(super) seal: MapSeal,
    pub(super) range: Range<u64>,
}

impl RootPlace {
    pub(super) fn of(
        seal: &Seal,
        disk: &DiskManifest,
        block_size: BlockSize,
    ) -> Result<Self, RepoError> {
        let object = map_object(&disk.map);
        let corrupt = |detail| RepoError::corrupt(&object, detail);
        let shape =
            Shape::new(block_size, disk.size_bytes).ok_or_else(|| corrupt("absurd size"))?;
        let seal = MapSeal::new(seal.clone(), disk.map.clone());
        let start = disk.map_bytes.checked_sub(seal.stored_len(shape.root_bytes()) as u64);
        let start = start.ok_or_else(|| corrupt("it is too short"))?;
        Ok(Self { object, shape, seal, range: start..disk.map_bytes })
    }

    /// The directories, if `bytes` are what the manifest vouches for.
    pub(super) fn open(
        &self,
        disk: &DiskManifest,
        bytes: Vec<u8>,
    ) -> Result<Vec<Option<PageRef>>, RepoError> {
        let root = self.seal.open(self.range.start, &disk.map_hash, bytes)?;
        let corrupt = |detail| RepoError::corrupt(&self.object, detail);
        self.shape.decode_root(&root, disk.map_bytes).map_err(corrupt)
    }
}
