use std::collections::BTreeSet;

use crate::id::PackId;
use crate::map::walk::MapWalk;
use crate::{PointManifest, RepoError, Repository};

/// The packs that a point's disks lie in. Blocks on I/O: reads all of its maps.
pub(crate) fn packs_of(
    repository: &Repository,
    point: &PointManifest,
) -> Result<BTreeSet<PackId>, RepoError> {
    let mut packs = BTreeSet::new();
    for disk in &point.disks {
        let map =
            MapWalk::open(repository.store(), repository.seal(), repository.block_size(), disk)?;
        for directory in map.directories() {
            for leaf in map.leaves(directory)? {
                packs.extend(map.blocks(leaf)?.iter().map(|(_, block)| block.pack));
            }
        }
    }
    Ok(packs)
}
