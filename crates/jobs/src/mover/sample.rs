//! Which parts of a copy are compared, where not all of it is.
//!
//! A disk is cut into units of a MiB, or of a block where those are larger. The first and the last MiB, what a partition table lies in
//! and all that the guest wrote are always compared; of the other units so many percent, chosen by the seed alone. Whoever has
//! the seed, the percentage and the disk's size can tell which these were.
//!
//! # Bounds
//!
//! A bit for each unit: 128 KiB for each TiB.

use std::ops::Range;

use rekindle_block::BlockSize;

use crate::request::Sampling;

const MIB: u64 = 1 << 20;

/// Units of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    unit: u64,
    size: u64,
    chosen: Vec<u64>,
}

/// The generator SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0. The bias is below 1 in 2^64 / end.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

impl Sample {
    /// Units of the disk with the number `disk` and so many bytes, with all of `always`.
    pub(crate) fn choose(
        size: u64,
        block: BlockSize,
        (sampling, seed, disk): (Sampling, u64, usize),
        always: impl IntoIterator<Item = Range<u64>>,
    ) -> Self {
        let unit = MIB.max(block.bytes());
        let units = size.div_ceil(unit);
        let chosen = vec![0; units.div_ceil(64) as usize];
        let mut sample = Self { unit, size, chosen };
        sample.add(0..MIB);
        sample.add(size.saturating_sub(MIB)..size);
        always.into_iter().for_each(|range| sample.add(range));
        let mut random = Random(seed ^ (disk as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let mut left = units - sample.count();
        let mut wanted = left * u64::from(sampling.percent) / 100;
        wanted += u64::from(wanted == 0 && left > 0);
        for at in 0..units {
            if !sample.has(at) {
                if random.below(left) < wanted {
                    sample.set(at);
                    wanted -= 1;
                }
                left -= 1;
            }
        }
        sample
    }

    fn add(&mut self, range: Range<u64>) {
        let end = range.end.min(self.size);
        if range.start < end {
            (range.start / self.unit..end.div_ceil(self.unit)).for_each(|at| self.set(at));
        }
    }

    fn set(&mut self, at: u64) {
        self.chosen[(at / 64) as usize] |= 1 << (at % 64);
    }

    fn has(&self, at: u64) -> bool {
        self.chosen[(at / 64) as usize] & (1 << (at % 64)) != 0
    }

    fn count(&self) -> u64 {
        self.chosen.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Bytes that are compared.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges(0..self.size).map(|range| range.end - range.start).sum()
    }

    /// What is compared of `part`, which begins where a unit does: each range as long as can be.
    pub(crate) fn ranges(&self, part: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = part.end.min(self.size);
        let mut at = part.start / self.unit;
        let last = end.div_ceil(self.unit);
        std::iter::from_fn(move || {
            while at < last && !self.has(at) {
                at += 1;
            }
            let first = at;
            while at < last && self.has(at) {
                at += 1;
            }
            (first < at).then(|| first * self.unit..(at * self.unit).min(end))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(size: u64, percent: u8, seed: u64, always: &[Range<u64>]) -> Sample {
        let sampling = Sampling { percent, seed: None };
        let block = BlockSize::new(64 << 10).unwrap();
        Sample::choose(size, block, (sampling, seed, 1), always.iter().cloned())
    }

    #[test]
    fn the_same_seed_chooses_the_same_and_another_one_others() {
        let of = |seed| sample(1 << 40, 5, seed, &[]);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        // The first and the last MiB besides.
        assert_eq!(of(7).bytes() / MIB, 2 + ((1 << 20) - 2) * 5 / 100);
    }

    #[test]
    fn the_choice_is_even() {
        let of = sample(1 << 40, 50, 3, &[]);
        for tenth in 0..10u64 {
            let part =
                tenth * ((1 << 40) / 10 / MIB) * MIB..(tenth + 1) * ((1 << 40) / 10 / MIB) * MIB;
            let share = of.ranges(part).map(|range| (range.end - range.start) / MIB).sum::<u64>();
            assert!((50_000..55_000).contains(&share), "{share} in the tenth {tenth}");
        }
    }

    #[test]
    fn a_unit_is_no_smaller_than_a_block() {
        let sampling = Sampling { percent: 1, seed: None };
        let block = BlockSize::new(4 << 20).unwrap();
        let sample =
            Sample::choose(64 << 20, block, (sampling, 1, 0), Some(9 << 20..(9 << 20) + 1));
        assert!(sample.ranges(0..64 << 20).all(|range| range.start % (4 << 20) == 0));
        assert!(sample.ranges(0..64 << 20).any(|range| range.contains(&(11 << 20))));
    }

    proptest! {
        /// Whatever must be in it is, and so much else as was asked for.
        #[test]
        fn what_must_be_compared_is(
            size in 1u64..(200 << 20),
            percent in 1u8..100,
            seed: u64,
            always in proptest::collection::vec((0u64..(200 << 20), 1u64..(3 << 20)), 0..5),
        ) {
            let always: Vec<_> = always.into_iter().map(|(at, len)| at..at + len).collect();
            let sample = sample(size, percent, seed, &always);
            let ranges: Vec<_> = sample.ranges(0..size).collect();
            let has = |at: u64| ranges.iter().any(|range| range.contains(&at));
            prop_assert!(has(0) && has(size - 1) && has((MIB - 1).min(size - 1)));
            prop_assert!(has(size.saturating_sub(MIB)));
            for range in always.iter().filter(|range| range.start < size) {
                prop_assert!(has(range.start) && has((range.end - 1).min(size - 1)));
            }
            prop_assert!(sample.count() >= size.div_ceil(MIB) * u64::from(percent) / 100);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
        }
    }
}
