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
/// Bytes of sums that one map keeps for blocks that are read often: times 64 maps 64 MiB, the sums
/// of about 60 GiB in 256 KiB blocks. At the bound a map forgets all of its own; they are read again
/// one by one, a microsecond each.
const SUMS_MAX: usize = 1 << 20;
/// What a slot's sums take besides themselves: the allocator's share.
const SUMS_EXTRA: usize = 16;
/// Blocks in the index. Each takes 32 bytes of name and 40 of slot at a load of one half to 7/8,
/// that is 84 to 146 bytes: at most 300 MiB, for 512 GiB of 256 KiB blocks. A fuller ring is pruned.
pub(super) const BLOCKS_MAX: usize = 2 << 20;

/// The epoch before all others, for blocks that no guest has read: its first use counts.
pub(super) const NEVER: u32 = 0;

/// Which blocks the ring holds, and where.
pub(super) struct Index {
    shards: [RwLock<Shard>; SHARDS],
    blocks: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<BlockHash, Slot, ByName>,
    /// Bytes of the sums in the slots.
    sums: usize,
}

struct Slot {
    segment: Arc<Segment>,
    span: Span,
    used: Used,
    /// The sums of the data pages, once a reader has read them; else empty.
    sums: Box<[u8]>,
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
    fn shard(&self, hash: &BlockHash) -> &RwLock<Shard> {
        &self.shards[usize::from(hash.as_bytes()[31]) % SHARDS]
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.load(Ordering::Relaxed)
    }

    pub(super) fn has(&self, hash: &BlockHash) -> bool {
        self.shard(hash).read().slots.contains_key(hash)
    }

    /// Where `hash` is, for a reader: counts as a use in `epoch`.
    pub(super) fn find(&self, hash: &BlockHash, epoch: u32) -> Option<Place> {
        Some(self.find_sums(hash, epoch, 0, &mut [])?.0)
    }

    /// Where `hash` is, for a reader: counts as a use in `epoch`. Fills `sums`, which begin at byte
    /// `at` of the block's, if they are here and says so.
    #[inline]
    pub(super) fn find_sums(
        &self,
        hash: &BlockHash,
        epoch: u32,
        at: usize,
        sums: &mut [u8],
    ) -> Option<(Place, bool)> {
        let shard = self.shard(hash).read();
        let slot = shard.slots.get(hash)?;
        slot.used.touch(epoch);
        let known = slot.sums.get(at..at + sums.len());
        if let Some(known) = known {
            sums.copy_from_slice(known);
        }
        Some((Place { segment: slot.segment.clone(), span: slot.span }, known.is_some()))
    }

    /// Keeps the sums of `hash`, all of them, while it stays at `place`.
    pub(super) fn keep_sums(&self, hash: &BlockHash, place: &Place, sums: Box<[u8]>) {
        let mut shard = self.shard(hash).write();
        if shard.sums + sums.len() + SUMS_EXTRA > SUMS_MAX {
            shard.slots.values_mut().for_each(|slot| slot.sums = Box::default());
            shard.sums = 0;
        }
        let Some(slot) = shard.slots.get_mut(hash).filter(|slot| slot.is_at(place)) else { return };
        let before = slot.sums_bytes();
        slot.sums = sums;
        let after = slot.sums_bytes();
        shard.sums = shard.sums + after - before;
    }

    /// Where `hash` is, and in how many epochs it was used. Not a use.
    pub(super) fn inspect(&self, hash: &BlockHash) -> Option<(Place, u32)> {
        let shard = self.shard(hash).read();
        let slot = shard.slots.get(hash)?;
        Some((Place { segment: slot.segment.clone(), span: slot.span }, slot.used.times()))
    }

    /// Adds a block written in `epoch`, unless it is there.
    pub(super) fn add(&self, hash: BlockHash, place: Place, epoch: u32) -> bool {
        let mut shard = self.shard(&hash).write();
        let Entry::Vacant(vacant) = shard.slots.entry(hash) else { return false };
        let used = Used::written_in(epoch);
        let (segment, span, sums) = (place.segment, place.span, Box::default());
        vacant.insert(Slot { segment, span, used, sums });
        self.blocks.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes `hash` if it is still at `place`.
    pub(super) fn remove(&self, hash: &BlockHash, place: &Place) -> bool {
        let mut shard = self.shard(hash).write();
        if !shard.slots.get(hash).is_some_and(|slot| slot.is_at(place)) {
            return false;
        }
        if let Some(slot) = shard.slots.remove(hash) {
            shard.sums -= slot.sums_bytes();
        }
        self.blocks.fetch_sub(1, Ordering::Relaxed);
        true
    }
}

impl Slot {
    fn is_at(&self, place: &Place) -> bool {
        self.segment.id() == place.segment.id() && self.span == place.span
    }

    /// What its sums count for in [`Shard::sums`].
    fn sums_bytes(&self) -> usize {
        if self.sums.is_empty() { 0 } else { self.sums.len() + SUMS_EXTRA }
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

    fn sums_counted(index: &Index) -> bool {
        let count = |shard: &Shard| shard.slots.values().map(Slot::sums_bytes).sum::<usize>();
        index.shards.iter().all(|shard| {
            let shard = shard.read();
            shard.sums == count(&shard) && shard.sums <= SUMS_MAX
        })
    }

    /// Bounds: sums of 10 000 large blocks in one map, four times what it may keep.
    #[test]
    fn sums_are_bounded_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let segment = Arc::new(Segment::create(dir.path(), 1, 1 << 20, None).unwrap());
        let place = |page| Place { segment: segment.clone(), span: Span { page, len: 100 << 12 } };
        let name = |page: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&page.to_le_bytes());
            BlockHash::from_bytes(bytes)
        };
        let index = Index::new();
        for page in 0..10_000 {
            index.add(name(page), place(page), NEVER);
            index.keep_sums(&name(page), &place(page), vec![page as u8; 400].into());
            let mut sums = [0; 4];
            let (_, known) = index.find_sums(&name(page), 1, 396, &mut sums).unwrap();
            assert!(known && sums == [page as u8; 4]);
        }
        assert!(sums_counted(&index));
        let known = |page| index.find_sums(&name(page), 1, 0, &mut [0; 4]).unwrap().1;
        assert!(!known(0) && known(9_999), "the map forgot its old sums");
        index.keep_sums(&name(5), &place(6), vec![1; 400].into());
        assert!(!known(5), "sums of another place");
        assert!((0..10_000).all(|page| index.remove(&name(page), &place(page))));
        assert!(sums_counted(&index) && index.len() == 0);
    }
}
