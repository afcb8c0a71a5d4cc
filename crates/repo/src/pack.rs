//! Packs: about 64 MiB of blocks in disk order, with an index at the end.

pub(crate) mod read;
pub(crate) mod write;

/// What a pack object starts with, before its id.
const HEAD_MAGIC: &[u8; 8] = b"RKPACK01";
const TAIL_MAGIC: &[u8; 8] = b"RKPKEND1";
/// `magic 8 | pack id 8`, so that no block lies at offset 0.
const HEAD_BYTES: usize = 16;
/// `hash 32 | offset 4 | codec << 24 | stored length 4 | plain length 4 | zero 4`.
const INDEX_ENTRY_BYTES: usize = 48;
/// `magic 8 | pack id 8 | entries 8 | zero 8 | hash of the index as stored 32`.
const TAIL_BYTES: usize = 64;
/// What is behind the blocks of a pack at least.
pub(crate) const MIN_END_BYTES: u64 = TAIL_BYTES as u64;
/// A pack is closed with the block that reaches this.
pub(crate) const PACK_BYTES: u64 = 64 << 20;
/// 64 MiB of the smallest blocks, each compressed to the smallest frame there is.
const MAX_INDEX_ENTRIES: u64 = 4 << 20;
