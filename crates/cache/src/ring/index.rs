use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::RwLock;
use rekindle_block::BlockHash;

use super::record::Span;
use super::segment::Segment;
use crate::ram::ByName;

/// Maps, each behind its own lock.
const SHARDS: usize = 64;
/// Blocks in the index. Each takes 32 bytes of name and 24 of slot at a load of one half to 7/8,
/// that is 64 to 112 bytes: at most 224 MiB, for 512 GiB of 256 KiB blocks. A fuller ring is pruned.
pub(super) const BLOCKS_MAX: usize = 2 << 20;

/// The epoch before all others, for blocks that no guest has read: its first use counts.
pub(super) const NEVER: u32 = 0;

/// Which blocks the ring holds, and where.
pub(super) struct Index {
    shards: [RwLock<HashMap<BlockHash, Slot, ByName>>; SHARDS],
    blocks: AtomicUsize,
}

struct Slot {
    segment: Arc<Segment>,
    span: Span,
    used: Used,
}

/// A block's place.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    pub(super) span: Span,
}

/// In how many epochs a block was used since it was written, and the last one: `epoch << 4 | times`.
///
/// An epoch is the time in which one segment fills. A block that is read once, in however many
/// pieces, is used in the epoch of its writing and so counts as unused.
struct Used(AtomicU32);

const TIMES_BITS: u32 = 4;
const TIMES_MAX: u32 = (1 << TIMES_BITS) - 1;

impl Used {
    fn written_in(epoch: u32) -> Self {
        Self(AtomicU32::new(epoch << TIMES_BITS))
    }

    #[inline]
    fn touch(&self, epoch: u32) {
        let now = self.0.load(Ordering::Relaxed);
        if now >> TIMES_BITS != epoch & (u32::MAX >> TIMES_BITS) {
            // Two threads may both see the old epoch: one use is counted, which is what it was.
            let times = (now & TIMES_MAX).saturating_add(1).min(TIMES_MAX);
            self.0.store(epoch << TIMES_BITS | times, Ordering::Relaxed);
        }
    }

    fn times(&self) -> u32 {
        self.0.load(Ordering::Relaxed) & TIMES_MAX
    }
}

impl Index {
    pub(super) fn new() -> Self {
        let shards = std::array::from_fn(|_| RwLock::default());
        Self { shards, blocks: AtomicUsize::new(0) }
    }

    /// The maps take the first bytes of a name; the shard takes the last.
    fn shard(&self, hash: &BlockHash) -> &RwLock<HashMap<BlockHash, Slot, ByName>> {
        &self.shards[usize::from(hash.as_bytes()[31]) % SHARDS]
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.load(Ordering::Relaxed)
    }

    pub(super) fn has(&self, hash: &BlockHash) -> bool {
        self.shard(hash).read().contains_key(hash)
    }

    /// Where `hash` is, for a reader: counts as a use in `epoch`.
    #[inline]
    pub(super) fn find(&self, hash: &BlockHash, epoch: u32) -> Option<Place> {
        let shard = self.shard(hash).read();
        let slot = shard.get(hash)?;
        slot.used.touch(epoch);
        Some(Place { segment: slot.segment.clone(), span: slot.span })
    }

    /// Where `hash` is, and in how many epochs it was used. Not a use.
    pub(super) fn inspect(&self, hash: &BlockHash) -> Option<(Place, u32)> {
        let shard = self.shard(hash).read();
        let slot = shard.get(hash)?;
        Some((Place { segment: slot.segment.clone(), span: slot.span }, slot.used.times()))
    }

    /// Adds a block written in `epoch`, unless it is there.
    pub(super) fn add(&self, hash: BlockHash, place: Place, epoch: u32) -> bool {
        let mut shard = self.shard(&hash).write();
        let Entry::Vacant(vacant) = shard.entry(hash) else { return false };
        let used = Used::written_in(epoch);
        vacant.insert(Slot { segment: place.segment, span: place.span, used });
        self.blocks.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes `hash` if it is still at `place`.
    pub(super) fn remove(&self, hash: &BlockHash, place: &Place) -> bool {
        let mut shard = self.shard(hash).write();
        let there =
            |slot: &Slot| slot.segment.id() == place.segment.id() && slot.span == place.span;
        let found = shard.get(hash).is_some_and(there);
        if found {
            shard.remove(hash);
            self.blocks.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_epoch_is_one_use() {
        let used = Used::written_in(5);
        for epoch in [5, 5, 6, 6, 6] {
            used.touch(epoch);
        }
        assert_eq!(used.times(), 1);
        (7..100).for_each(|epoch| used.touch(epoch));
        assert_eq!(used.times(), TIMES_MAX);
        let wrapped = Used::written_in(u32::MAX);
        wrapped.touch(u32::MAX);
        assert_eq!(wrapped.times(), 0, "an epoch wider than its field");
    }
}
