//! What a VM's guest reads first: recorded, merged over runs, kept per disk of a VM. Decides; does no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use rekindle_block::{BlockHash, BlockIdx};
use serde::{Deserialize, Serialize};

/// Touches that one profile holds: as many as a recording, 400 KB as they are kept.
pub(crate) const TOUCHES_MAX: usize = rekindle_disk::TOUCHES_MAX;
/// Touches of which a profile is known by others.
const SAMPLE: usize = 32;
/// Of these, those that another disk must share to be served by it.
const SHARED_MIN: usize = SAMPLE / 4;
/// What a touch weighs in the run that had it. Each run without it halves that, so that it goes with
/// the fourth.
const WEIGHT: u8 = 8;
const WEIGHT_MAX: u8 = 15;

/// The blocks of one disk that its guest touches first, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Seconds since 1970 of its last use.
    pub(crate) used_at: i64,
    touches: Vec<Known>,
}

/// A touch as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u32, u8)", into = "(u64, u64, u32, u8)")]
struct Known {
    block: u64,
    /// The first bytes of its hash.
    mark: u64,
    after_ms: u32,
    weight: u8,
}

/// One first touch of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) block: BlockIdx,
    pub(crate) hash: BlockHash,
    pub(crate) after: Duration,
}

/// What others know a profile by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) used_at: i64,
    pub(crate) touches: usize,
    /// Blocks and marks.
    blocks: Vec<(u64, u64)>,
}

impl From<(u64, u64, u32, u8)> for Known {
    fn from((block, mark, after_ms, weight): (u64, u64, u32, u8)) -> Self {
        Self { block, mark, after_ms, weight }
    }
}

impl From<Known> for (u64, u64, u32, u8) {
    fn from(known: Known) -> Self {
        (known.block, known.mark, known.after_ms, known.weight)
    }
}

pub(crate) fn mark(hash: &BlockHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Profile {
    /// The blocks to bring, in order, and when the guest wanted each.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u32, BlockIdx)> + '_ {
        self.touches.iter().map(|known| (known.after_ms, BlockIdx(known.block)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.touches.is_empty()
    }

    /// Takes a run in: what it touched weighs more, what it did not less.
    pub(crate) fn merge(&mut self, run: &[Seen]) {
        let mut touches: BTreeMap<u64, Known> =
            self.touches.drain(..).map(|known| (known.block, known)).collect();
        for known in touches.values_mut() {
            known.weight /= 2;
        }
        for seen in run {
            let after_ms = u32::try_from(seen.after.as_millis()).unwrap_or(u32::MAX);
            let new =
                Known { block: seen.block.0, mark: mark(&seen.hash), after_ms, weight: WEIGHT };
            touches
                .entry(seen.block.0)
                .and_modify(|known| {
                    known.mark = new.mark;
                    known.after_ms = known.after_ms.midpoint(after_ms);
                    known.weight = (known.weight + WEIGHT).min(WEIGHT_MAX);
                })
                .or_insert(new);
        }
        self.touches = touches.into_values().filter(|known| known.weight > 0).collect();
        // The heaviest stay; among equals those that are wanted first.
        self.touches.sort_by_key(|known| (std::cmp::Reverse(known.weight), known.after_ms));
        self.touches.truncate(TOUCHES_MAX);
        self.touches.sort_by_key(|known| (known.after_ms, known.block));
    }

    /// What others may know it by: touches from all over it.
    pub(crate) fn sample(&self) -> Sample {
        let step = self.touches.len().div_ceil(SAMPLE).max(1);
        let blocks = self.touches.iter().step_by(step).map(|known| (known.block, known.mark));
        Sample { used_at: self.used_at, touches: self.touches.len(), blocks: blocks.collect() }
    }
}

impl Sample {
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockIdx> + '_ {
        self.blocks.iter().map(|(block, _)| BlockIdx(*block))
    }

    /// How like a disk is that has these hashes at [`Sample::blocks`], from 0 to the sample's length;
    /// `None` if too little.
    pub(crate) fn likeness(&self, hashes: &[Option<BlockHash>]) -> Option<usize> {
        let pairs = self.blocks.iter().zip(hashes);
        let same =
            pairs.filter(|((_, known), hash)| hash.as_ref().map(mark) == Some(*known)).count();
        let needed = SHARED_MIN.min(self.blocks.len().div_ceil(2)).max(1);
        (same >= needed).then_some(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(touches: &[(u64, u64)]) -> Vec<Seen> {
        let seen = |&(block, ms): &(u64, u64)| Seen {
            block: BlockIdx(block),
            hash: hash(block),
            after: Duration::from_millis(ms),
        };
        touches.iter().map(seen).collect()
    }

    fn hash(block: u64) -> BlockHash {
        BlockHash::of(&block.to_le_bytes())
    }

    fn blocks(profile: &Profile) -> Vec<u64> {
        profile.blocks().map(|(_, block)| block.0).collect()
    }

    #[test]
    fn runs_are_merged_and_what_is_not_touched_any_more_goes() {
        let mut profile = Profile::default();
        profile.merge(&run(&[(9, 0), (4, 100), (7, 200)]));
        assert_eq!(blocks(&profile), [9, 4, 7]);
        profile.merge(&run(&[(7, 0), (9, 10), (1, 60)]));
        assert_eq!(blocks(&profile), [9, 1, 4, 7], "by the mean of when they were wanted");
        for _ in 0..3 {
            profile.merge(&run(&[(9, 0)]));
        }
        assert_eq!(blocks(&profile), [9, 1, 7], "4 was left out four times");
        profile.merge(&run(&[(9, 0)]));
        assert_eq!(blocks(&profile), [9]);
    }

    /// Bounds.
    #[test]
    fn a_profile_keeps_what_weighs_most() {
        let mut profile = Profile::default();
        let often: Vec<(u64, u64)> = (0..100).map(|n| (n, 50_000)).collect();
        profile.merge(&run(&often));
        let many: Vec<(u64, u64)> = (0..TOUCHES_MAX as u64 + 500).map(|n| (n, n)).collect();
        profile.merge(&run(&many));
        let kept = blocks(&profile);
        assert_eq!(kept.len(), TOUCHES_MAX);
        assert!((0..100).all(|block| kept.contains(&block)));
        let stored = serde_json::to_vec(&profile).unwrap();
        assert!(stored.len() < 512 << 10, "{}", stored.len());
        assert_eq!(serde_json::from_slice::<Profile>(&stored).unwrap(), profile);
    }

    #[test]
    fn a_sibling_is_known_by_the_blocks_it_shares() {
        let mut profile = Profile::default();
        profile.merge(&run(&(0..1000).map(|n| (n, n)).collect::<Vec<_>>()));
        let sample = profile.sample();
        let shared = |share: usize| {
            let at = sample.blocks().enumerate();
            let hashes: Vec<_> =
                at.map(|(n, block)| (n % 10 < share).then(|| hash(block.0))).collect();
            sample.likeness(&hashes)
        };
        assert_eq!(shared(0), None);
        assert_eq!(shared(1), None, "a tenth is chance");
        assert!(shared(10) > shared(5) && shared(5).is_some());
        assert_eq!(Profile::default().sample().likeness(&[]), None);
    }
}
