//! Disk maps: which stored block holds which block of a disk. Geometry and byte formats; the
//! reader is in [`read`], the writer in [`build`].

pub(crate) mod build;
mod copy;
pub(crate) mod pages;
mod pieces;
pub(crate) mod read;
mod root;
pub(crate) mod seal;
pub(crate) mod walk;

use std::ops::Range;

use rekindle_block::{BlockHash, BlockIdx, BlockSize};

use crate::codec::Codec;
use crate::id::PackId;
use crate::manifest::MAX_DISK_BYTES;

/// Entries in a full page.
pub(crate) const PAGE_ENTRIES: u64 = 512;
/// Bytes of an entry, in pages and in the root alike.
pub(crate) const ENTRY_BYTES: usize = 48;
/// Bytes in a full page: 24 KiB.
pub(crate) const PAGE_BYTES: usize = PAGE_ENTRIES as usize * ENTRY_BYTES;
/// What a map object starts with, so that no page lies at offset 0.
pub(crate) const MAP_MAGIC: &[u8; 16] = b"rekindle map v1\n";
const ROOT_MAGIC: &[u8; 8] = b"RKMAPRT1";
const ROOT_HEADER_BYTES: usize = 64;

/// What a block of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapEntry {
    /// All zeros; stored nowhere.
    Zero,
    /// Stored in a pack.
    Stored(BlockRef),
}

/// Where a block is stored and what it hashes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub(crate) hash: BlockHash,
    pub(crate) pack: PackId,
    pub(crate) offset: u32,
    pub(crate) stored_len: u32,
    pub(crate) plain_len: u32,
    pub(crate) codec: Codec,
}

impl BlockRef {
    /// The hash of the block's plain bytes: its name in every cache.
    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Bytes of the block once it is decompressed: a full block, or less at a disk's end.
    pub fn plain_len(&self) -> u32 {
        self.plain_len
    }

    /// Bytes that it takes in its pack.
    pub fn stored_len(&self) -> u32 {
        self.stored_len
    }

    /// Where its bytes lie in its pack.
    pub(crate) fn stored_range(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.stored_len)
    }

    /// ```text
    /// 0  hash 32 | 32  pack 8 | 40  offset 4 | 44  codec << 24 | stored length 4     little-endian
    /// ```
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..32].copy_from_slice(self.hash.as_bytes());
        entry[32..40].copy_from_slice(&self.pack.0.to_le_bytes());
        entry[40..44].copy_from_slice(&self.offset.to_le_bytes());
        let word = u32::from(self.codec.number()) << 24 | self.stored_len;
        entry[44..].copy_from_slice(&word.to_le_bytes());
        entry
    }
}

impl MapEntry {
    /// Reads an entry for a block of `plain_len` bytes; `None` if it cannot be one.
    pub(crate) fn decode(entry: &[u8; ENTRY_BYTES], plain_len: u32) -> Option<Self> {
        let word = u32_at(entry, 44);
        if word == 0 {
            return (*entry == [0; ENTRY_BYTES]).then_some(Self::Zero);
        }
        let codec = Codec::from_number((word >> 24) as u8)?;
        let stored_len = word & 0xff_ffff;
        codec.allows(stored_len, plain_len).then(|| {
            Self::Stored(BlockRef {
                hash: hash_at(entry, 0),
                pack: PackId(u64_at(entry, 32)),
                offset: u32_at(entry, 40),
                stored_len,
                plain_len,
                codec,
            })
        })
    }
}

/// Where a page lies in its map object, how long it is and what it hashes to, both before it is sealed. All zero
/// for no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    pub(crate) hash: BlockHash,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl PageRef {
    /// ```text
    /// 0  hash 32 | 32  offset 8 | 40  length 4 | 44  zero 4     little-endian
    /// ```
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..32].copy_from_slice(self.hash.as_bytes());
        entry[32..40].copy_from_slice(&self.offset.to_le_bytes());
        entry[40..44].copy_from_slice(&self.len.to_le_bytes());
        entry
    }

    /// `Ok(None)` for no page (all its blocks are zero), `Err` for what cannot be a reference into
    /// a map of `map_bytes` bytes.
    pub(crate) fn decode(entry: &[u8], map_bytes: u64) -> Result<Option<Self>, &'static str> {
        if entry.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let page =
            Self { hash: hash_at(entry, 0), offset: u64_at(entry, 32), len: u32_at(entry, 40) };
        let len = page.len as usize;
        if len == 0 || len > PAGE_BYTES || !len.is_multiple_of(ENTRY_BYTES) {
            return Err("a page of an impossible length");
        }
        match page.offset.checked_add(u64::from(page.len)) {
            Some(end) if end <= map_bytes => Ok(Some(page)),
            _ => Err("a page behind the end of its map"),
        }
    }
}

/// The shape of a map: how many pages a disk of this size has on each level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) block_size: BlockSize,
    pub(crate) size: u64,
}

impl Shape {
    /// `size` is at most [`MAX_DISK_BYTES`], so at most 65 536 directories at 4 KiB blocks, and 1 024 at
    /// the default 256 KiB.
    pub(crate) fn new(block_size: BlockSize, size: u64) -> Option<Self> {
        (1..=MAX_DISK_BYTES).contains(&size).then_some(Self { block_size, size })
    }

    pub(crate) fn blocks(self) -> u64 {
        self.block_size.count(self.size)
    }

    pub(crate) fn directories(self) -> u64 {
        self.blocks().div_ceil(PAGE_ENTRIES * PAGE_ENTRIES)
    }

    pub(crate) fn root_bytes(self) -> usize {
        ROOT_HEADER_BYTES + self.directories() as usize * ENTRY_BYTES
    }

    pub(crate) fn plain_len(self, idx: BlockIdx) -> u32 {
        let range = self.block_size.range_of(idx, self.size);
        (range.end - range.start) as u32
    }

    /// ```text
    /// 0  magic 8 | 8  version 4 | 12  block size 4 | 16  disk size 8 | 24  zero 40 | 64  PageRef 48 each
    /// ```
    pub(crate) fn encode_root(self, directories: &[[u8; ENTRY_BYTES]]) -> Vec<u8> {
        let mut root = vec![0; ROOT_HEADER_BYTES];
        root[..8].copy_from_slice(ROOT_MAGIC);
        root[8..12].copy_from_slice(&1_u32.to_le_bytes());
        root[12..16].copy_from_slice(&u32::from(self.block_size).to_le_bytes());
        root[16..24].copy_from_slice(&self.size.to_le_bytes());
        root.extend(directories.iter().flatten());
        root
    }

    /// The directories of a root, whose hash the caller has checked.
    pub(crate) fn decode_root(
        self,
        root: &[u8],
        map_bytes: u64,
    ) -> Result<Vec<Option<PageRef>>, &'static str> {
        if root.len() != self.root_bytes() || root[..8] != *ROOT_MAGIC || u32_at(root, 8) != 1 {
            return Err("it is no map of version 1");
        }
        let (block_size, size) = (u32_at(root, 12), u64_at(root, 16));
        if block_size != u32::from(self.block_size) || size != self.size {
            return Err("it maps a disk of another size");
        }
        let entries = root[ROOT_HEADER_BYTES..].chunks_exact(ENTRY_BYTES);
        entries.map(|entry| PageRef::decode(entry, map_bytes)).collect()
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

pub(crate) fn hash_at(bytes: &[u8], at: usize) -> BlockHash {
    BlockHash::from_bytes(bytes[at..].first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_read_back(hash in any::<[u8; 32]>(), pack in any::<u64>(), offset in any::<u32>(), len in 1u32..1 << 18) {
            let block = BlockRef {
                hash: BlockHash::from_bytes(hash), pack: PackId(pack), offset,
                stored_len: len, plain_len: 1 << 18, codec: Codec::Zstd,
            };
            prop_assert_eq!(MapEntry::decode(&block.encode(), 1 << 18), Some(MapEntry::Stored(block)));
        }

        #[test]
        fn any_entry_decodes_without_a_panic(entry in any::<[u8; 32]>(), tail in any::<[u8; 16]>(), plain in 0u32..1 << 22) {
            let mut bytes = [0; ENTRY_BYTES];
            bytes[..32].copy_from_slice(&entry);
            bytes[32..].copy_from_slice(&tail);
            if let Some(MapEntry::Stored(block)) = MapEntry::decode(&bytes, plain) {
                prop_assert!(block.stored_len <= plain + 28 && block.stored_len > 0);
            }
            let _ = PageRef::decode(&bytes, u64::from(plain));
        }
    }

    #[test]
    fn the_largest_disk_has_a_small_root() {
        let root = |block: u32| {
            Shape::new(BlockSize::new(block).unwrap(), MAX_DISK_BYTES).unwrap().root_bytes()
        };
        assert_eq!(root(256 << 10), 64 + 1024 * 48);
        assert!(root(4 << 10) <= 4 << 20);
        assert!(Shape::new(BlockSize::default(), MAX_DISK_BYTES + 1).is_none());
        assert!(Shape::new(BlockSize::default(), 0).is_none());
    }
}
