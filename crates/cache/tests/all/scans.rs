//! What a long read of everything does to those who read the same again and again.

use rekindle_block::Block;
use rekindle_cache::{Cache, Priority};

use crate::{Fetches, ring_only, sized_block};

const RING: u64 = 8 << 20;
/// With its header a record takes 16 KiB: the ring holds 512 of them.
const BLOCK: usize = 12 << 10;
const HELD: u64 = RING / (16 << 10);
/// What the guests read again and again: a third of the ring.
const HOT: u64 = HELD / 3;
/// Ten times the ring.
const SCANNED: u64 = 10 * HELD;
/// A guest's reads for each block that is scanned.
const READS: u64 = 2;

/// After so many scanned blocks the ring's writer has caught up. Left to itself it lags as far as the machine is
/// loaded, and what is asked of the ring before it is there counts as a miss.
const SETTLE_EVERY: u64 = 8;

/// A guest's reads before.
const QUIET: u64 = 10 * HOT;

struct Guests {
    blocks: Vec<Block>,
    state: u64,
}

impl Guests {
    fn new() -> Self {
        let blocks = (0..HOT).map(|key| sized_block(key, BLOCK)).collect();
        Self { blocks, state: 1 }
    }

    async fn read(&mut self, cache: &std::sync::Arc<Cache>, fetches: &Fetches, reads: u64) {
        for _ in 0..reads {
            self.state =
                self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let wanted = &self.blocks[((self.state >> 33) % HOT) as usize];
            fetches.get(cache, wanted, Priority::Guest).await;
        }
    }
}

/// Percent of guests' reads that needed no fetch, before the scan and while it ran.
async fn hit_ratios(scan: Priority) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    let mut guests = Guests::new();
    guests.read(&cache, &Fetches::default(), 10 * HOT).await;
    cache.settle().await;
    let ratio =
        |fetches: &Fetches, reads: u64| 100.0 * (1.0 - fetches.count() as f64 / reads as f64);
    let (quiet, scanned) = (Fetches::default(), Fetches::default());
    guests.read(&cache, &quiet, QUIET).await;
    for key in 0..SCANNED {
        Fetches::default().get(&cache, &sized_block(1_000_000 + key, BLOCK), scan).await;
        guests.read(&cache, &scanned, READS).await;
        if key % SETTLE_EVERY == 0 {
            cache.settle().await;
        }
    }
    (ratio(&quiet, QUIET), ratio(&scanned, SCANNED * READS))
}

/// Invariant 5. The mover reads ten times what the ring holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_reads_everything_leaves_guests_their_blocks() {
    let (quiet, scanned) = hit_ratios(Priority::Mover).await;
    println!("hits: {quiet:.1} % before, {scanned:.1} % while the mover reads");
    assert!(quiet > 99.0 && quiet - scanned < 5.0, "{quiet:.1} {scanned:.1}");
}

/// The same by a storage migration, which reads as a guest does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_migration_leaves_guests_their_blocks() {
    let (quiet, scanned) = hit_ratios(Priority::Guest).await;
    println!("hits: {quiet:.1} % before, {scanned:.1} % while the migration reads");
    assert!(quiet > 99.0 && quiet - scanned < 5.0, "{quiet:.1} {scanned:.1}");
}
