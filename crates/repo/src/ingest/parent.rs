use std::ops::Range;

use rekindle_block::BlockIdx;

use crate::map::walk::{MapWalk, Numbered};
use crate::map::{BlockRef, PAGE_ENTRIES};
use crate::{DiskManifest, PointManifest, RepoError};

/// The disk of an older point that a new one takes its unchanged blocks from. Its map is walked page by page: one
/// directory and one leaf are held.
pub(super) struct ParentBlocks<'a> {
    map: MapWalk<'a>,
    directories: Vec<Numbered>,
    /// The leaves of the directory of that number.
    leaves: (Option<u64>, Vec<Numbered>),
    /// The stored blocks of the leaf of that number.
    leaf: (Option<u64>, Vec<(BlockIdx, BlockRef)>),
}

impl<'a> ParentBlocks<'a> {
    pub(super) fn new(map: MapWalk<'a>) -> Self {
        let directories = map.directories().collect();
        Self { map, directories, leaves: (None, Vec::new()), leaf: (None, Vec::new()) }
    }

    /// Hands the stored blocks of `range` to `each`, in order; the others are zeros.
    pub(super) fn walk(
        &mut self,
        range: Range<u64>,
        mut each: impl FnMut(BlockIdx, &BlockRef) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let mut at = range.start;
        while at < range.end {
            let leaf = at / PAGE_ENTRIES;
            self.load_leaf(leaf)?;
            let blocks = self.leaf.1.iter().filter(|(idx, _)| range.contains(&idx.0));
            blocks.into_iter().try_for_each(|(idx, block)| each(*idx, block))?;
            at = (leaf + 1) * PAGE_ENTRIES;
        }
        Ok(())
    }

    fn load_leaf(&mut self, number: u64) -> Result<(), RepoError> {
        if self.leaf.0 == Some(number) {
            return Ok(());
        }
        self.load_leaves(number / PAGE_ENTRIES)?;
        let blocks = match find(&self.leaves.1, number) {
            Some(leaf) => self.map.blocks(leaf)?,
            None => Vec::new(),
        };
        self.leaf = (Some(number), blocks);
        Ok(())
    }

    fn load_leaves(&mut self, directory: u64) -> Result<(), RepoError> {
        if self.leaves.0 == Some(directory) {
            return Ok(());
        }
        let leaves = match find(&self.directories, directory) {
            Some(directory) => self.map.leaves(directory)?,
            None => Vec::new(),
        };
        self.leaves = (Some(directory), leaves);
        Ok(())
    }
}

/// Pages are in order of their numbers.
fn find(pages: &[Numbered], number: u64) -> Option<Numbered> {
    let at = pages.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    pages.get(at).copied()
}

/// The disk of `parent` that is the one of `manifest` at another time, if it was there. Another size is refused: what a
/// list of changes says of the new end is not known, unless it tells what `grew`.
pub(super) fn disk_of<'p>(
    parent: &'p PointManifest,
    manifest: &DiskManifest,
    grew: bool,
) -> Result<Option<&'p DiskManifest>, RepoError> {
    let Some(disk) = parent.disks.iter().find(|disk| disk.key == manifest.key) else {
        return Ok(None);
    };
    let fits =
        disk.size_bytes == manifest.size_bytes || (grew && disk.size_bytes < manifest.size_bytes);
    match fits {
        true => Ok(Some(disk)),
        false => Err(RepoError::refused(format!(
            "the disk {} has {} bytes and had {} at point {}: ingest all of it",
            disk.key, manifest.size_bytes, disk.size_bytes, parent.id
        ))),
    }
}
