//! A ring that is encrypted: warm for who has the key, and noise for everybody else.

use std::path::Path;

use rekindle_cache::{Cache, CacheConfig, RingKey};

use crate::{block, fill, killed_copy, ring_only, segments, warm};

const RING: u64 = 16 << 20;

fn config(dir: &Path, key: Option<u8>) -> CacheConfig {
    let key = key.map(|byte| RingKey::new([byte; 32]));
    CacheConfig { key, ..ring_only(dir, RING) }
}

/// Whether some segment has these bytes somewhere.
fn on_disk(dir: &Path, wanted: &[u8]) -> bool {
    segments(dir).iter().any(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(wanted.len()).any(|found| found == wanted)
    })
}

#[tokio::test]
async fn warm_with_the_key_after_a_close_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(config(dir.path(), Some(1))).unwrap();
    fill(&cache, 0..300).await;
    let killed = killed_copy(dir.path());
    cache.close().await;
    for dir in [dir.path(), killed.path()] {
        let cache = Cache::open(config(dir, Some(1))).unwrap();
        cache.settle().await;
        assert_eq!(warm(&cache, 0..300).await, 300);
        for key in 0..300 {
            let wanted = block(key);
            let end = wanted.bytes().len();
            for range in [0..end, end / 3..end / 2, end - 1..end] {
                if let Some(found) = cache.peek(&wanted.hash(), range.clone()) {
                    assert_eq!(found, wanted.bytes().slice(range));
                }
            }
        }
        assert_eq!(cache.stats().bad_slots, 0);
    }
}

#[tokio::test]
async fn nothing_of_a_block_is_on_the_disk() {
    let dirs = [(), ()].map(|()| tempfile::tempdir().unwrap());
    for (dir, key) in dirs.iter().zip([None, Some(1)]) {
        let cache = Cache::open(config(dir.path(), key)).unwrap();
        fill(&cache, 0..50).await;
        cache.close().await;
        for number in 0..50 {
            let block = block(number);
            let bytes = &block.bytes()[..block.bytes().len().min(32)];
            if bytes.len() == 32 {
                assert_eq!(on_disk(dir.path(), bytes), key.is_none(), "bytes of {number}");
            }
            let name = block.hash();
            assert_eq!(on_disk(dir.path(), name.as_bytes()), key.is_none(), "name of {number}");
        }
    }
}

/// What one life has written is of no use to another with another key, and goes.
#[tokio::test]
async fn another_key_or_none_finds_nothing_and_no_wrong_byte() {
    for (wrote, reads) in [(Some(1), Some(2)), (Some(1), None), (None, Some(1))] {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(config(dir.path(), wrote)).unwrap();
        fill(&cache, 0..100).await;
        cache.close().await;
        let cache = Cache::open(config(dir.path(), reads)).unwrap();
        cache.settle().await;
        assert_eq!(segments(dir.path()).len(), 0, "{wrote:?} {reads:?}");
        assert_eq!(warm(&cache, 0..100).await, 0, "{wrote:?} {reads:?}");
        cache.settle().await;
        assert_eq!(warm(&cache, 0..100).await, 100, "{wrote:?} {reads:?}");
        assert_eq!(cache.stats().bad_slots, 0);
    }
}

/// Two segments never have the same key stream, of whatever life they are.
#[tokio::test]
async fn the_same_block_is_never_the_same_on_the_disk() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(config(dir.path(), Some(1))).unwrap();
        fill(&cache, 0..1).await;
        cache.close().await;
        let bytes = std::fs::read(&segments(dir.path())[0]).unwrap();
        assert!(seen.insert(bytes), "a key stream was used again");
    }
}

#[test]
fn the_key_is_not_shown() {
    let shown = format!("{:?}", config(Path::new("/x"), Some(7)));
    assert!(shown.contains("RingKey(..)") && !shown.contains("7, 7"), "{shown}");
}
