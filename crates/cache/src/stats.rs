use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the cache holds and has done since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheStats {
    /// Bytes of blocks in RAM.
    pub ram_bytes: u64,
    /// Reads answered from RAM.
    pub ram_hits: u64,
    /// Bytes of the ring's segment files, preallocation included.
    pub ring_bytes: u64,
    /// Blocks that the ring holds.
    pub ring_blocks: u64,
    /// The ring's segment files.
    pub ring_segments: u64,
    /// Reads answered from the ring.
    pub ring_hits: u64,
    /// Bytes that the ring may hold now: `max_bytes`, or less if the file system is fuller.
    pub ring_capacity_now: u64,
    /// Whether the ring still reads what an earlier process left: it warms up meanwhile.
    pub ring_scanning: bool,
    /// Fetches begun, because a block was in neither.
    pub misses: u64,
    /// Of these, fetches begun by read-ahead.
    pub ahead: u64,
    /// Of these, fetches begun by a boot profile.
    pub profile: u64,
    /// Reads of a repository in their turn whose bytes are not kept: the mover's copies.
    pub passed: u64,
    /// Reads that joined a fetch under way instead of beginning one.
    pub joined: u64,
    /// Reads of the ring's disk or of a repository under way.
    pub in_flight: u64,
    /// Reads of repositories under way, at most 64.
    pub reads_under_way: u64,
    /// Reads of repositories that wait for their turn.
    pub reads_waiting: u64,
    /// Microseconds that 19 of 20 guests' reads took less than of late, those from RAM and page cache
    /// not counted.
    pub guest_wait_p95_micros: u64,
    /// Scans' and movers' reads that may be under way at once now: fewer while guests wait too long.
    pub background_reads_allowed: u64,
    /// Ring slots that failed a check and were forgotten.
    pub bad_slots: u64,
    /// Unused blocks dropped with their segment.
    pub pruned_blocks: u64,
    /// Used blocks written to the head again when their segment was dropped.
    pub reinserted: u64,
    /// Blocks not written to the ring: its queue was full, or its file system.
    pub dropped: u64,
    /// Free bytes of the ring's file system, as of the last look (at most a second ago).
    pub free_bytes: u64,
}

/// A number that many threads add to.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live numbers behind [`CacheStats`].
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) ram_hits: Count,
    pub(crate) ring_bytes: Count,
    pub(crate) ring_segments: Count,
    pub(crate) ring_hits: Count,
    pub(crate) ring_capacity_now: Count,
    pub(crate) ring_unscanned: Count,
    pub(crate) misses: Count,
    pub(crate) ahead: Count,
    pub(crate) profile: Count,
    pub(crate) passed: Count,
    pub(crate) joined: Count,
    pub(crate) bad_slots: Count,
    pub(crate) pruned_blocks: Count,
    pub(crate) reinserted: Count,
    pub(crate) dropped: Count,
    pub(crate) free_bytes: Count,
}

impl Counts {
    /// All but what others know: RAM, the index, the flights and the schedule; theirs are 0.
    pub(crate) fn read(&self) -> CacheStats {
        CacheStats {
            ram_hits: self.ram_hits.get(),
            ring_bytes: self.ring_bytes.get(),
            ring_segments: self.ring_segments.get(),
            ring_hits: self.ring_hits.get(),
            ring_capacity_now: self.ring_capacity_now.get(),
            ring_scanning: self.ring_unscanned.get() > 0,
            misses: self.misses.get(),
            ahead: self.ahead.get(),
            profile: self.profile.get(),
            passed: self.passed.get(),
            joined: self.joined.get(),
            bad_slots: self.bad_slots.get(),
            pruned_blocks: self.pruned_blocks.get(),
            reinserted: self.reinserted.get(),
            dropped: self.dropped.get(),
            free_bytes: self.free_bytes.get(),
            ..CacheStats::default()
        }
    }
}
