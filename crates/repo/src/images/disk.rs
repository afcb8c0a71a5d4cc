use std::sync::Arc;

use rekindle_block::{Block, BlockHash, BlockIdx};
use rekindle_image::{Image, ImageError};

use crate::RepoError;
use crate::codec::Codec;
use crate::id::PackId;
use crate::ingest::source::refuse;
use crate::map::pages::{Page, PageKey, Pages};
use crate::map::read::leaf_slot;
use crate::map::{BlockRef, ENTRY_BYTES, MapEntry, PAGE_ENTRIES, Shape};
use crate::store::blocking;

/// A disk of a point, as it lies in its image. Its pages are made of the image's tables, in the shape of a map's leaves.
pub(crate) struct ImageDisk(Arc<Inner>);

struct Inner {
    image: Image,
    file: String,
    /// Stands for the disk's files and their revisions.
    key: [u8; 32],
    shape: Shape,
    pages: Pages,
}

impl ImageDisk {
    pub(super) fn new(image: Image, file: String, key: [u8; 32], shape: Shape) -> Self {
        Self(Arc::new(Inner { image, file, key, shape, pages: Pages::default() }))
    }

    /// What the VM is called among the files.
    pub(crate) fn file(&self) -> &String {
        &self.0.file
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// What block `idx` is, if that is known without I/O.
    #[inline]
    pub(crate) fn try_entry(&self, idx: BlockIdx) -> Option<MapEntry> {
        let inner = &*self.0;
        if idx.0 >= inner.shape.blocks() {
            return Some(MapEntry::Zero);
        }
        let leaf = PageKey::Leaf(idx.0 / PAGE_ENTRIES);
        let entry = inner.pages.entry(leaf, leaf_slot(idx))?;
        MapEntry::decode(&entry, inner.shape.plain_len(idx))
    }

    pub(crate) async fn entry(&self, idx: BlockIdx) -> Result<MapEntry, RepoError> {
        if let Some(entry) = self.try_entry(idx) {
            return Ok(entry);
        }
        let (inner, number) = (self.0.clone(), idx.0 / PAGE_ENTRIES);
        let page = blocking(move || inner.leaf(number)).await?;
        self.0.pages.insert(PageKey::Leaf(number), page.clone());
        let entry = MapEntry::decode(&page.entry(leaf_slot(idx)), self.0.shape.plain_len(idx));
        entry.ok_or_else(|| RepoError::corrupt(&self.0.file, format!("its block {}", idx.0)))
    }

    pub(crate) async fn read_block(&self, block: &BlockRef) -> Result<Block, RepoError> {
        let (inner, block) = (self.0.clone(), *block);
        blocking(move || inner.read(&block)).await
    }
}

impl Inner {
    /// Which of the blocks of leaf `number` the image has anything for.
    fn leaf(&self, number: u64) -> Result<Arc<Page>, RepoError> {
        let Shape { block_size, size } = self.shape;
        let first = number * PAGE_ENTRIES;
        let last = (first + PAGE_ENTRIES).min(self.shape.blocks());
        let mut page = vec![0; (last - first) as usize * ENTRY_BYTES];
        let (mut at, end) = (first * block_size.bytes(), (last * block_size.bytes()).min(size));
        while let Some(data) = self.image.next_data_until(at, end).map_err(damaged)? {
            let touched = block_size.touched(data);
            for idx in touched.start.0..touched.end.0 {
                let slot = (idx - first) as usize * ENTRY_BYTES;
                page[slot..slot + ENTRY_BYTES].copy_from_slice(&self.block(BlockIdx(idx)).encode());
            }
            at = touched.end.0 * block_size.bytes();
        }
        self.image.check_unchanged().map_err(damaged)?;
        Ok(Arc::new(Page::new(page.into())))
    }

    /// What stands for a block in a page: its number where others have a pack's.
    fn block(&self, idx: BlockIdx) -> BlockRef {
        let plain_len = self.shape.plain_len(idx);
        BlockRef {
            hash: BlockHash::of_place(&self.key, idx),
            pack: PackId(idx.0),
            offset: 0,
            stored_len: plain_len,
            plain_len,
            codec: Codec::Raw,
        }
    }

    /// Order matters: what is looked at before the bytes are read says nothing about them.
    fn read(&self, block: &BlockRef) -> Result<Block, RepoError> {
        let idx = BlockIdx(block.pack.0);
        if self.block(idx) != *block {
            return Err(RepoError::refused("a block of another disk"));
        }
        let range = self.shape.block_size.range_of(idx, self.shape.size);
        let mut bytes = vec![0; block.plain_len as usize];
        self.image.read_at(range.start, &mut bytes).map_err(damaged)?;
        self.image.check_unchanged().map_err(damaged)?;
        Block::of_place(block.hash, bytes.into())
            .ok_or_else(|| RepoError::refused("a block that is not called by its place"))
    }
}

/// What a failed read of a file means that was sound when it was opened: no call can be made better.
fn damaged(error: ImageError) -> RepoError {
    match error {
        ImageError::Corrupt { file, detail } => RepoError::corrupt(file, detail),
        ImageError::Unsupported { file, what } => RepoError::corrupt(file, what),
        ImageError::NotFound { file } => RepoError::corrupt(file, "it is gone"),
        other @ (ImageError::Unavailable { .. } | ImageError::Escapes { .. }) => refuse(other),
    }
}
