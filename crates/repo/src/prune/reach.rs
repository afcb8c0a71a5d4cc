use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use rekindle_block::BlockHash;

use crate::id::PackId;
use crate::map::walk::MapWalk;
use crate::{MapId, PointManifest, RepoError, Repository};

/// Leaves that are remembered: 7 million of 17 bytes in a table filled to 7/8 are 140 MB. Beyond, they are read
/// again.
const MAX_LEAVES: usize = 7_000_000;

/// What points refer to. A pack takes 8 bytes, so 64 TiB of them 10 MB.
#[derive(Default)]
pub(super) struct Reach {
    pub(super) packs: HashSet<PackId>,
    pub(super) maps: HashSet<MapId>,
    /// Leaves that were read, by the first half of their hash: points of one VM share most, and each is read once.
    leaves: HashSet<[u8; 16]>,
}

impl Reach {
    /// Goes through the maps of `point`. What cannot be read is an error: nobody knows what it needs.
    pub(super) fn add(
        &mut self,
        repository: &Repository,
        point: &PointManifest,
        cancel: &AtomicBool,
    ) -> Result<(), RepoError> {
        let (store, seal) = (repository.store(), repository.seal());
        for disk in &point.disks {
            self.maps.insert(disk.map.clone());
            let map = MapWalk::open(store, seal, repository.block_size(), disk)?;
            for directory in map.directories() {
                for leaf in map.leaves(directory)? {
                    if cancel.load(Ordering::Relaxed) {
                        return Err(RepoError::Cancelled);
                    }
                    if self.leaves.contains(&half(&leaf.1.hash)) {
                        continue;
                    }
                    self.packs.extend(map.blocks(leaf)?.iter().map(|(_, block)| block.pack));
                    if self.leaves.len() < MAX_LEAVES {
                        self.leaves.insert(half(&leaf.1.hash));
                    }
                }
            }
        }
        Ok(())
    }
}

fn half(hash: &BlockHash) -> [u8; 16] {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}
