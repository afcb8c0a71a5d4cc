//! Invariants 3 and 5: what goes, what stays, and how much there is of it.

use std::sync::Arc;

use rekindle_block::Block;
use rekindle_cache::{Cache, Priority};

use crate::{Fetches, ring_only, sized_block};

/// A segment is 1 MiB: 15 blocks of 64 KiB with their headers.
const RING: u64 = 8 << 20;
const PER_RING: u64 = 120;

fn small(key: u64) -> Block {
    sized_block(key, 64 << 10)
}

async fn scan(cache: &Arc<Cache>, keys: std::ops::Range<u64>) {
    for key in keys {
        Fetches::default().get(cache, &small(key), Priority::Scan).await;
    }
    cache.settle().await;
}

fn in_ring(cache: &Cache, key: u64) -> bool {
    let wanted = small(key);
    let found = cache.peek(&wanted.hash(), 100..200);
    found.inspect(|bytes| assert_eq!(*bytes, wanted.bytes().slice(100..200))).is_some()
}

#[tokio::test]
async fn the_oldest_unused_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    scan(&cache, 0..150).await;
    let there: Vec<u64> = (0..150).filter(|key| in_ring(&cache, *key)).collect();
    assert!(there.len() >= 90, "{} blocks", there.len());
    assert!(there.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a gap in {there:?}");
    assert_eq!(there.last(), Some(&149));
    assert_eq!(cache.stats().reinserted, 0);
}

#[tokio::test]
async fn used_blocks_go_round_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    scan(&cache, 0..10).await;
    for round in 1..40 {
        // Guests read 0 to 4 all the while; 5 to 9 nobody does.
        assert!((0..5).all(|key| in_ring(&cache, key)), "round {round}");
        scan(&cache, round * 30..round * 30 + 30).await;
    }
    assert!((5..10).all(|key| !in_ring(&cache, key)));
    let stats = cache.stats();
    assert!(stats.reinserted >= 5 && stats.bad_slots == 0, "{stats:?}");
    assert!(stats.ring_bytes <= RING);
}

/// Reading in pieces, one after the other, is reading once.
#[tokio::test]
async fn one_pass_is_no_use_however_many_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    for key in 0..2 * PER_RING {
        let wanted = small(key);
        Fetches::default().get(&cache, &wanted, Priority::Guest).await;
        cache.settle().await;
        for piece in 0..16 {
            cache.peek(&wanted.hash(), piece * 4096..(piece + 1) * 4096).expect("just written");
        }
    }
    // The last block of a segment may be read in the epoch of the next.
    assert!(cache.stats().reinserted <= 2 * PER_RING / 15, "{:?}", cache.stats());
}

/// Though every block is used, new ones get in: at most half of a new segment is old.
#[tokio::test]
async fn a_ring_full_of_used_blocks_takes_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    for key in 0..3 * PER_RING {
        Fetches::default().get(&cache, &small(key), Priority::Scan).await;
        cache.settle().await;
        assert!(in_ring(&cache, key), "{key} was not written");
        let used = (0..key).filter(|key| in_ring(&cache, *key)).count();
        assert!(used as u64 >= key.min(70), "{used} blocks at {key}");
    }
    assert_eq!(cache.stats().dropped, 0);
}

/// A long scan takes nothing that guests use: not from RAM, and not from the ring what RAM holds.
#[tokio::test]
async fn a_scan_flushes_neither_ram_nor_the_ring_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ring_only(dir.path(), RING);
    config.ram_bytes = 2 << 20;
    let cache = Cache::open(config).unwrap();
    let fetches = Fetches::default();
    for key in 0..20 {
        fetches.get(&cache, &small(key), Priority::Guest).await;
        fetches.get(&cache, &small(key), Priority::Guest).await;
    }
    cache.settle().await;
    let before = cache.stats();
    scan(&cache, 1000..1000 + 6 * PER_RING).await;
    let after = cache.stats();
    assert!(after.ram_bytes <= before.ram_bytes.max(20 * (65 << 10)), "{after:?}");
    for key in 0..20 {
        fetches.get(&cache, &small(key), Priority::Guest).await;
    }
    assert_eq!(fetches.count(), 20, "each was fetched once, before the scan");
    assert!(after.reinserted >= 20, "{after:?}");
}

/// A scan over what the ring holds already does not make it used.
#[tokio::test]
async fn a_scan_does_not_count_as_use() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    for round in 0..6 {
        scan(&cache, 0..50).await;
        scan(&cache, 1000 + round * 40..1000 + round * 40 + 40).await;
    }
    assert_eq!(cache.stats().reinserted, 0);
}

#[tokio::test]
async fn a_block_too_large_for_the_ring_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), 1 << 20)).unwrap();
    let fetches = Fetches::default();
    for key in 0..5 {
        fetches.get(&cache, &small(key), Priority::Scan).await;
    }
    fetches.get(&cache, &sized_block(9, 4 << 20), Priority::Guest).await;
    cache.settle().await;
    assert!((0..5).all(|key| in_ring(&cache, key)), "it pushed others out");
    assert_eq!(cache.stats().dropped, 1);
}

#[tokio::test]
async fn ranges_outside_a_block_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ring_only(dir.path(), RING);
    config.ram_bytes = 1 << 20;
    let cache = Cache::open(config).unwrap();
    let (in_ram, in_ring) = (small(1), small(2));
    Fetches::default().get(&cache, &in_ram, Priority::Guest).await;
    Fetches::default().get(&cache, &in_ring, Priority::Scan).await;
    cache.settle().await;
    for wanted in [&in_ram, &in_ring] {
        let len = wanted.bytes().len();
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not panic")]
        for bad in [0..len + 1, len..len + 1, 5..4, 0..usize::MAX] {
            assert_eq!(cache.peek(&wanted.hash(), bad.clone()), None, "{bad:?}");
        }
        assert_eq!(cache.peek(&wanted.hash(), len..len).unwrap().len(), 0);
        assert_eq!(cache.peek(&wanted.hash(), 0..len).unwrap(), wanted.bytes());
    }
    assert_eq!(cache.stats().bad_slots, 0);
}
