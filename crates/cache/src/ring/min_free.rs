//! Min-free wins, on a file system that the test makes fuller and emptier.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rekindle_block::Block;

use super::Space;
use crate::{Cache, CacheConfig, Priority};

const MIB: u64 = 1 << 20;
const TOTAL: u64 = 64 * MIB;
/// 25 % of 64 MiB.
const KEEP: u64 = 16 * MIB;
const BLOCK: usize = 64 << 10;

struct Rig {
    dir: tempfile::TempDir,
    others: Arc<AtomicU64>,
    cache: Arc<Cache>,
}

fn block(key: u64) -> Block {
    let words =
        (0..BLOCK as u64 / 8).map(|at| (key << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    Block::seal(words.flat_map(u64::to_le_bytes).collect())
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let others = Arc::new(AtomicU64::new(0));
        let cache = open(&dir, &others);
        Self { dir, others, cache }
    }

    async fn write(&self, keys: std::ops::Range<u64>) {
        for key in keys {
            let block = block(key);
            let fetch = std::future::ready(Ok::<_, ()>(block.clone()));
            let got = self.cache.get(&block.hash(), BLOCK as u32, Priority::Scan, fetch).await;
            assert_eq!(got.unwrap().bytes(), block.bytes());
        }
        self.cache.settle().await;
    }

    /// Bytes free by the files themselves, whatever the cache thinks.
    fn free(&self) -> u64 {
        let space = Space::Simulated { total: TOTAL, others: self.others.clone() };
        space.look(self.dir.path()).unwrap().free
    }

    fn take(&self, bytes: u64) {
        self.others.store(bytes, Ordering::Relaxed);
    }
}

fn open(dir: &tempfile::TempDir, others: &Arc<AtomicU64>) -> Arc<Cache> {
    let config = CacheConfig {
        root_dir: dir.path().to_owned(),
        ram_bytes: 0,
        max_bytes: None,
        min_free_percent: 25,
        key: None,
    };
    Cache::open_on(config, Space::Simulated { total: TOTAL, others: others.clone() }).unwrap()
}

#[tokio::test]
async fn the_ring_grows_to_min_free_and_no_further() {
    let rig = Rig::new();
    rig.write(0..2000).await;
    let stats = rig.cache.stats();
    assert!(rig.free() >= KEEP, "{} free", rig.free());
    assert!(stats.ring_bytes > (TOTAL - KEEP) / 2, "{stats:?}");
    assert!(stats.pruned_blocks > 1000 && stats.bad_slots == 0, "{stats:?}");
}

/// Invariant 3: others need space, the ring gives it; they free it, the ring takes it.
#[tokio::test]
async fn the_ring_shrinks_and_grows_with_the_file_system() {
    let rig = Rig::new();
    rig.write(0..1000).await;
    let large = rig.cache.stats().ring_bytes;
    for taken in [20, 30, 40, 47] {
        rig.take(taken * MIB);
        rig.cache.settle().await;
        assert!(rig.free() >= KEEP, "{} free with {taken} MiB taken", rig.free());
    }
    rig.take(60 * MIB);
    rig.cache.settle().await;
    assert_eq!(rig.cache.stats().ring_bytes, 0, "nothing is left that could be given back");
    rig.write(0..50).await;
    assert_eq!(rig.cache.stats().ring_bytes, 0, "a full file system takes no new block");
    rig.take(0);
    rig.write(1000..2000).await;
    assert!(rig.cache.stats().ring_bytes > large / 2);
    assert!(rig.free() >= KEEP);
}

#[tokio::test]
async fn a_ring_left_on_a_fuller_file_system_shrinks_when_opened() {
    let rig = Rig::new();
    rig.write(0..1000).await;
    rig.cache.close().await;
    rig.take(40 * MIB);
    let cache = open(&rig.dir, &rig.others);
    cache.settle().await;
    assert!(rig.free() >= KEEP);
    assert!(cache.stats().ring_blocks > 20, "the newest are kept: {:?}", cache.stats());
}

#[tokio::test]
async fn what_is_given_back_is_free_at_once() {
    let rig = Rig::new();
    rig.write(0..1000).await;
    let before = rig.free();
    let given = rig.cache.give_back(10 * MIB).await;
    assert!(given >= 10 * MIB);
    assert!(rig.free() >= before + given);
    let rest = rig.cache.stats().ring_bytes;
    assert_eq!(rig.cache.give_back(u64::MAX).await, rest);
    assert_eq!((rig.cache.stats().ring_bytes, rig.cache.stats().ring_blocks), (0, 0));
}
