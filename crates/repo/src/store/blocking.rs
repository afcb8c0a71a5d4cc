//! A store's calls for threads that may block: ingest, check and prune.

use std::cmp::Reverse;
use std::ops::Range;

use rekindle_block::Block;

use super::{PointPlace, Store, StoredPack, pack_object};
use crate::RepoError;
use crate::codec::open_block;
use crate::id::PackId;
use crate::map::BlockRef;
use crate::seal::Seal;

impl Store {
    pub(crate) fn read_range_blocking<T: Send + 'static>(
        &self,
        object: &str,
        range: Range<u64>,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Result<T, RepoError> {
        match self {
            Self::Local(dir) => check(dir.read_range(object, range)?),
            Self::S3(bucket) => bucket.read_range_blocking(object, range, check),
        }
    }

    /// The last `len` bytes of an object, or all of it if it is shorter, and how long it is.
    pub(crate) fn read_end_blocking(
        &self,
        object: &str,
        len: u64,
    ) -> Result<(Vec<u8>, u64), RepoError> {
        match self {
            Self::Local(dir) => dir.read_end(object, len),
            Self::S3(bucket) => bucket.read_end_blocking(object, len),
        }
    }

    pub(crate) fn read_all_blocking<T: Send + 'static>(
        &self,
        object: &str,
        max: u64,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError> + Send + Sync + 'static,
    ) -> Result<T, RepoError> {
        match self {
            Self::Local(dir) => check(dir.read_all(object, max)?),
            Self::S3(bucket) => bucket.read_all_blocking(object, max, check),
        }
    }

    pub(crate) fn read_block_blocking(
        &self,
        seal: &Seal,
        block: &BlockRef,
    ) -> Result<Block, RepoError> {
        match self {
            Self::Local(dir) => open_block(seal, block, dir.read_stored(block)?),
            Self::S3(bucket) => {
                let (object, seal, block) = (pack_object(block.pack), seal.clone(), *block);
                let open = move |stored: Vec<u8>| open_block(&seal, &block, stored);
                bucket.read_range_blocking(&object, block.stored_range(), open)
            }
        }
    }

    pub(crate) fn list_points_blocking(&self) -> Result<Vec<PointPlace>, RepoError> {
        match self {
            Self::Local(dir) => dir.list_points(),
            Self::S3(bucket) => bucket.list_points_blocking(),
        }
    }

    /// The objects in a folder that has no folders in it, by name; none if there is no such folder.
    pub(crate) fn list_blocking(&self, folder: &str) -> Result<Vec<String>, RepoError> {
        match self {
            Self::Local(dir) => dir.list(folder),
            Self::S3(bucket) => bucket.list_blocking(folder),
        }
    }

    /// All packs, those written last first.
    pub(crate) fn list_packs_blocking(&self) -> Result<Vec<PackId>, RepoError> {
        let mut packs = self.stored_packs_blocking()?;
        packs.sort_unstable_by_key(|one| Reverse((one.written_at, one.pack)));
        Ok(packs.into_iter().map(|one| one.pack).collect())
    }

    /// All packs in no order, with what a listing tells of each.
    pub(crate) fn stored_packs_blocking(&self) -> Result<Vec<StoredPack>, RepoError> {
        match self {
            Self::Local(dir) => dir.stored_packs(),
            Self::S3(bucket) => bucket.stored_packs_blocking(),
        }
    }
}
