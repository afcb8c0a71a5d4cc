use rekindle_block::{BlockIdx, BlockSize};

use super::pieces::Pieces;
use super::root::RootPlace;
use super::seal::MapSeal;
use super::{ENTRY_BYTES, MapEntry, PAGE_ENTRIES, PageRef, Shape};
use crate::map::BlockRef;
use crate::seal::Seal;
use crate::store::Store;
use crate::{DiskManifest, RepoError};

/// Goes through the whole of a map, page by page, holding none of them but, of one beyond the network, what is read of it
/// at once. Blocks on I/O.
pub(crate) struct MapWalk<'a> {
    store: &'a Store,
    seal: MapSeal,
    object: String,
    map_bytes: u64,
    pieces: Pieces,
    shape: Shape,
    root: Vec<Option<PageRef>>,
}

/// A page and its number among those of its level.
pub(crate) type Numbered = (u64, PageRef);

impl<'a> MapWalk<'a> {
    pub(crate) fn open(
        store: &'a Store,
        seal: &Seal,
        block_size: BlockSize,
        disk: &DiskManifest,
    ) -> Result<Self, RepoError> {
        let place = RootPlace::of(seal, disk, block_size)?;
        let (object, range, shape) = (place.object.clone(), place.range.clone(), place.shape);
        let (seal, disk_of_root) = (place.seal.clone(), disk.clone());
        let open = move |bytes: Vec<u8>| place.open(&disk_of_root, bytes);
        let root = store.read_range_blocking(&object, range, open)?;
        let map_bytes = disk.map_bytes;
        let pieces = Pieces::new(&object, map_bytes);
        Ok(Self { store, seal, object, map_bytes, pieces, shape, root })
    }

    pub(crate) fn directories(&self) -> impl Iterator<Item = Numbered> {
        let numbered = self.root.iter().enumerate();
        numbered.filter_map(|(number, page)| page.map(|page| (number as u64, page)))
    }

    pub(crate) fn leaves(&self, (number, page): Numbered) -> Result<Vec<Numbered>, RepoError> {
        let bytes = self.read_page(&page)?;
        let mut leaves = Vec::new();
        for (slot, entry) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
            let leaf = PageRef::decode(entry, self.map_bytes);
            if let Some(leaf) = leaf.map_err(|detail| RepoError::corrupt(&self.object, detail))? {
                leaves.push((number * PAGE_ENTRIES + slot as u64, leaf));
            }
        }
        Ok(leaves)
    }

    /// The stored blocks of a leaf.
    pub(crate) fn blocks(
        &self,
        (number, page): Numbered,
    ) -> Result<Vec<(BlockIdx, BlockRef)>, RepoError> {
        let bytes = self.read_page(&page)?;
        let mut blocks = Vec::new();
        for (slot, entry) in bytes.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
            let idx = BlockIdx(number * PAGE_ENTRIES + slot as u64);
            match MapEntry::decode(entry, self.shape.plain_len(idx)) {
                Some(MapEntry::Stored(block)) => blocks.push((idx, block)),
                Some(MapEntry::Zero) => {}
                None => {
                    let detail = format!("the entry of block {}", idx.0);
                    return Err(RepoError::corrupt(&self.object, detail));
                }
            }
        }
        Ok(blocks)
    }

    fn read_page(&self, page: &PageRef) -> Result<Vec<u8>, RepoError> {
        let (range, check) = (self.seal.range(page), self.seal.check(page));
        // What was hurt on its way is fetched again, by itself, before it counts as damaged.
        if let Some(bytes) = self.pieces.read(self.store, range.clone())?
            && let Ok(page) = check(bytes)
        {
            return Ok(page);
        }
        self.store.read_range_blocking(&self.object, range, check)
    }
}
