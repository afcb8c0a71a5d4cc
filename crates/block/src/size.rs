use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The number of a block within a disk: block `i` starts at byte `i * BlockSize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockIdx(pub u64);

/// Bytes in a block: a power of two from 4 KiB to 4 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct BlockSize(u32);

/// A number that is no [`BlockSize`].
#[derive(Debug, thiserror::Error)]
#[error("block size {0} is not a power of two from 4096 to 4194304")]
pub struct BlockSizeError(u32);

impl BlockSize {
    /// The smallest block: one page.
    pub const MIN: Self = Self(4 << 10);
    /// The largest block. It bounds what a reader allocates for one.
    pub const MAX: Self = Self(4 << 20);

    /// 256 KiB: few enough to index, small enough to fetch for one guest read.
    pub const DEFAULT: Self = Self(256 << 10);

    /// `bytes` as a block size.
    pub fn new(bytes: u32) -> Result<Self, BlockSizeError> {
        if bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(BlockSizeError(bytes))
        }
    }

    /// Bytes in a full block.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many blocks a disk of `size` bytes has; the last may be short.
    pub fn count(self, size: u64) -> u64 {
        size.div_ceil(self.bytes())
    }

    /// The block that holds the byte at `offset`.
    pub fn block_at(self, offset: u64) -> BlockIdx {
        BlockIdx(offset / self.bytes())
    }

    /// The blocks that the bytes in `range` touch. Empty when `range` is.
    pub fn touched(self, range: Range<u64>) -> Range<BlockIdx> {
        let first = range.start / self.bytes();
        let end = if range.is_empty() { first } else { range.end.div_ceil(self.bytes()) };
        BlockIdx(first)..BlockIdx(end)
    }

    /// The bytes of a disk of `size` bytes that block `idx` holds; empty past the end.
    pub fn range_of(self, idx: BlockIdx, size: u64) -> Range<u64> {
        let start = idx.0.saturating_mul(self.bytes()).min(size);
        start..start.saturating_add(self.bytes()).min(size)
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = BlockSizeError;
    fn try_from(bytes: u32) -> Result<Self, BlockSizeError> {
        Self::new(bytes)
    }
}

impl From<BlockSize> for u32 {
    fn from(size: BlockSize) -> u32 {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every byte of a range lies in a touched block, and every touched block holds one of them.
        #[test]
        fn touched_blocks_cover_exactly(shift in 12u32..=22, start in 0u64..1 << 40, len in 0u64..1 << 24) {
            let size = BlockSize::new(1 << shift).unwrap();
            let range = start..start + len;
            let touched = size.touched(range.clone());
            prop_assert_eq!(touched.start.0 == touched.end.0, len == 0);
            if len > 0 {
                prop_assert_eq!(touched.start, size.block_at(range.start));
                prop_assert_eq!(touched.end.0, size.block_at(range.end - 1).0 + 1);
            }
        }

        /// The blocks of a disk lie end to end and end where the disk does.
        #[test]
        fn blocks_tile_the_disk(shift in 12u32..=22, disk in 1u64..1 << 30) {
            let size = BlockSize::new(1 << shift).unwrap();
            let mut at = 0;
            for idx in 0..size.count(disk).min(64) {
                let range = size.range_of(BlockIdx(idx), disk);
                prop_assert_eq!(range.start, at);
                prop_assert!(!range.is_empty());
                at = range.end;
            }
            prop_assert!(size.range_of(BlockIdx(size.count(disk)), disk).is_empty());
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for bytes in [0, 1, 2048, 4097, 8 << 20, u32::MAX] {
            assert!(BlockSize::new(bytes).is_err(), "{bytes}");
        }
    }
}
