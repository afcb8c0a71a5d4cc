//! A restart is warm, after a clean stop and after a kill, and never waits for it.

use std::time::Duration;

use rekindle_cache::{Cache, CacheConfig, CacheError};

use crate::{block, fill, killed_copy, ring_only, segments, warm};

const RING: u64 = 16 << 20;

#[tokio::test]
async fn warm_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    fill(&cache, 0..300).await;
    cache.close().await;
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    cache.settle().await;
    assert_eq!(warm(&cache, 0..300).await, 300);
    assert_eq!(cache.stats().bad_slots, 0);
}

#[tokio::test]
async fn warm_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    fill(&cache, 0..300).await;
    let copy = killed_copy(dir.path());
    let cache = Cache::open(ring_only(copy.path(), RING)).unwrap();
    cache.settle().await;
    assert_eq!(warm(&cache, 0..300).await, 300);
}

/// Blocks that only the ring has come back to RAM by being read.
#[tokio::test]
async fn after_a_restart_ram_fills_from_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    fill(&cache, 0..300).await;
    cache.close().await;
    let config = CacheConfig { ram_bytes: 1 << 20, ..ring_only(dir.path(), RING) };
    let cache = Cache::open(config).unwrap();
    cache.settle().await;
    let reading = async {
        while cache.stats().ram_hits == 0 {
            for key in 0..300 {
                let wanted = block(key);
                if let Some(found) = cache.peek(&wanted.hash(), 0..wanted.bytes().len()) {
                    assert_eq!(&found, wanted.bytes());
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("RAM is never used");
}

/// The next life writes to new segments and gives back what the last one had set aside.
#[tokio::test]
async fn many_lives_keep_within_the_bound() {
    let mut dir = tempfile::tempdir().unwrap();
    for life in 0..12 {
        let cache = Cache::open(ring_only(dir.path(), 2 << 20)).unwrap();
        cache.settle().await;
        fill(&cache, life * 50..life * 50 + 50).await;
        assert!(cache.stats().ring_bytes <= 2 << 20);
        assert!(warm(&cache, life * 50 + 40..life * 50 + 50).await == 10, "the newest are there");
        let copy = killed_copy(dir.path());
        cache.close().await;
        dir = copy;
    }
}

#[tokio::test]
async fn a_closed_cache_still_reads_and_keeps_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    fill(&cache, 0..10).await;
    cache.close().await;
    assert_eq!(warm(&cache, 0..10).await, 10);
    assert_eq!(warm(&cache, 10..20).await, 0);
    assert_eq!(warm(&cache, 10..20).await, 0);
    cache.settle().await;
    cache.close().await;
}

#[tokio::test]
async fn one_process_owns_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
    let second = Cache::open(ring_only(dir.path(), RING));
    assert!(matches!(second, Err(CacheError::Unavailable(_))));
    cache.close().await;
    Cache::open(ring_only(dir.path(), RING)).unwrap();
}

/// Invariant 6, under a running cache too.
#[tokio::test]
async fn deleting_the_directory_loses_speed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ring");
    let cache = Cache::open(ring_only(&path, 2 << 20)).unwrap();
    fill(&cache, 0..50).await;
    std::fs::remove_dir_all(&path).unwrap();
    fill(&cache, 50..400).await;
    warm(&cache, 0..400).await;
    assert!(!segments(&path).is_empty(), "the ring began anew");
}

#[test]
fn absurd_configurations_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ring_only(dir.path(), RING);
    config.min_free_percent = 91;
    assert!(matches!(Cache::open(config), Err(CacheError::Refused(_))));
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let config = ring_only(&dir.path().join("file"), RING);
    assert!(matches!(Cache::open(config), Err(CacheError::Unavailable(_))));
}
