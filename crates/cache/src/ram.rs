use std::hash::{BuildHasherDefault, Hasher};

use moka::sync::Cache;
use rekindle_block::{Block, BlockHash};

/// What a block takes besides its bytes: moka's node, key and bookkeeping, rounded up.
const PER_BLOCK: u32 = 256;

/// Bytes of the largest block.
const BLOCK_MAX: u64 = 4 << 20;

/// Hashes a [`BlockHash`] by taking eight of its bytes: they are as good as random already.
#[derive(Clone, Copy, Default)]
pub(crate) struct NameHasher(u64);

pub(crate) type ByName = BuildHasherDefault<NameHasher>;

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some((eight, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_le_bytes(*eight);
        }
    }

    /// The length of the name, which is always 32.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Checked blocks in RAM, weighed by their bytes. Admission and eviction are moka's TinyLFU: a block
/// read once does not push out one read often.
pub(crate) struct Ram {
    bytes_max: u64,
    blocks: Cache<BlockHash, Block, ByName>,
}

impl Ram {
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |_: &BlockHash, block: &Block| {
            u32::try_from(block.bytes().len()).unwrap_or(u32::MAX).saturating_add(PER_BLOCK)
        };
        let blocks = Cache::builder().max_capacity(bytes).weigher(weigh);
        Self { bytes_max: bytes, blocks: blocks.build_with_hasher(ByName::default()) }
    }

    pub(crate) fn get(&self, hash: &BlockHash) -> Option<Block> {
        self.blocks.get(hash)
    }

    /// Whether `hash` is here. Does not count as a use.
    pub(crate) fn has(&self, hash: &BlockHash) -> bool {
        self.blocks.contains_key(hash)
    }

    pub(crate) fn put(&self, block: &Block) {
        // moka would take a block that can never fit and drop it later.
        let fits = block.bytes().len() as u64 + u64::from(PER_BLOCK) <= self.bytes_max;
        if fits && !self.has(&block.hash()) {
            self.blocks.insert(block.hash(), block.clone());
        }
    }

    /// Whether a block more pushes out none.
    pub(crate) fn has_room(&self) -> bool {
        self.blocks.weighted_size() + BLOCK_MAX <= self.bytes_max
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.weighted_size()
    }
}
