use rekindle_block::{BlockHash, BlockIdx};

use super::seal::MapSeal;
use super::{ENTRY_BYTES, MAP_MAGIC, PAGE_ENTRIES, PageRef, Shape};
use crate::{BlockRef, RepoError};

/// Where a map's bytes go, in order.
pub(crate) trait MapSink {
    fn append(&mut self, bytes: &[u8]) -> Result<(), RepoError>;
}

/// Writes a map front to back in memory for two pages and the root, whatever the disk's size.
pub(crate) struct MapBuilder<S> {
    shape: Shape,
    seal: MapSeal,
    sink: S,
    written: u64,
    leaf: OpenPage,
    directory: OpenPage,
    root: Vec<[u8; ENTRY_BYTES]>,
}

/// What a finished map is known by.
pub(crate) struct FinishedMap<S> {
    pub(crate) sink: S,
    pub(crate) bytes: u64,
    pub(crate) hash: BlockHash,
}

/// A page being filled; its number counts pages of its level from the disk's start.
#[derive(Default)]
struct OpenPage {
    number: u64,
    bytes: Vec<u8>,
}

impl OpenPage {
    fn put(&mut self, slot: u64, entry: [u8; ENTRY_BYTES]) {
        self.bytes.resize(slot as usize * ENTRY_BYTES, 0);
        self.bytes.extend_from_slice(&entry);
    }
}

impl<S: MapSink> MapBuilder<S> {
    pub(crate) fn new(shape: Shape, seal: MapSeal, mut sink: S) -> Result<Self, RepoError> {
        sink.append(MAP_MAGIC)?;
        let root = vec![[0; ENTRY_BYTES]; shape.directories() as usize];
        let (leaf, directory) = (OpenPage::default(), OpenPage::default());
        Ok(Self { shape, seal, sink, written: MAP_MAGIC.len() as u64, leaf, directory, root })
    }

    /// Maps `idx`, which must lie behind all that were mapped before. Blocks left out are zero.
    pub(crate) fn put(&mut self, idx: BlockIdx, block: &BlockRef) -> Result<(), RepoError> {
        debug_assert!(idx.0 < self.shape.blocks());
        let leaf = idx.0 / PAGE_ENTRIES;
        if leaf != self.leaf.number {
            self.end_leaf()?;
            self.leaf.number = leaf;
        }
        self.leaf.put(idx.0 % PAGE_ENTRIES, block.encode());
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<FinishedMap<S>, RepoError> {
        self.end_leaf()?;
        self.end_directory()?;
        let root = self.shape.encode_root(&self.root);
        let hash = self.write(&root)?.hash;
        Ok(FinishedMap { sink: self.sink, bytes: self.written, hash })
    }

    fn end_leaf(&mut self) -> Result<(), RepoError> {
        if self.leaf.bytes.is_empty() {
            return Ok(());
        }
        let page = std::mem::take(&mut self.leaf.bytes);
        let entry = self.write(&page)?.encode();
        let directory = self.leaf.number / PAGE_ENTRIES;
        if directory != self.directory.number {
            self.end_directory()?;
            self.directory.number = directory;
        }
        self.directory.put(self.leaf.number % PAGE_ENTRIES, entry);
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), RepoError> {
        if !self.directory.bytes.is_empty() {
            let page = std::mem::take(&mut self.directory.bytes);
            self.root[self.directory.number as usize] = self.write(&page)?.encode();
        }
        Ok(())
    }

    fn write(&mut self, page: &[u8]) -> Result<PageRef, RepoError> {
        let at =
            PageRef { hash: BlockHash::of(page), offset: self.written, len: page.len() as u32 };
        let stored = self.seal.seal(at.offset, page)?;
        self.sink.append(&stored)?;
        self.written += stored.len() as u64;
        Ok(at)
    }
}
