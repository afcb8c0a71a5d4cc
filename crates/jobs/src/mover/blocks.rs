use std::ops::Range;

use rekindle_block::{BlockIdx, BlockSize};

/// A set of a disk's blocks: one bit each.
#[derive(Debug, Default)]
pub(crate) struct BlockSet(Vec<u64>);

impl BlockSet {
    /// The blocks of `size` bytes that any of the ranges touches.
    pub(crate) fn touched(size: BlockSize, ranges: impl Iterator<Item = Range<u64>>) -> Self {
        let mut set = Self::default();
        for range in ranges {
            let blocks = size.touched(range);
            for idx in blocks.start.0..blocks.end.0 {
                set.insert(BlockIdx(idx));
            }
        }
        set
    }

    fn insert(&mut self, idx: BlockIdx) {
        let word = (idx.0 / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (idx.0 % 64);
    }

    pub(crate) fn contains(&self, idx: BlockIdx) -> bool {
        let word = self.0.get((idx.0 / 64) as usize).copied().unwrap_or(0);
        word & (1 << (idx.0 % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_blocks_are_in_the_set() {
        let size = BlockSize::new(4096).unwrap();
        let set = BlockSet::touched(size, [10..11, 4095..4097, 4096 * 200..4096 * 202].into_iter());
        for (idx, there) in
            [(0, true), (1, true), (2, false), (200, true), (201, true), (202, false)]
        {
            assert_eq!(set.contains(BlockIdx(idx)), there, "{idx}");
        }
        assert!(!set.contains(BlockIdx(u64::MAX)));
    }
}
