//! The cache as its users see it. Every block's bytes follow from its key, so that a block served for
//! another shows.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod faults;
mod flights;
mod kill;
mod model;
mod policies;
mod pruning;
mod restart;
mod scans;
mod sealed;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rekindle_block::Block;
use rekindle_cache::{Cache, CacheConfig, Priority};

/// A block of 1 byte to 40 KiB; no two keys share a word.
fn block(key: u64) -> Block {
    let len = [4096, 12 << 10, 40 << 10, 16 << 10, 1 + key as usize % 30_000][key as usize % 5];
    sized_block(key, len)
}

fn sized_block(key: u64, len: usize) -> Block {
    let word = |at: u64| (key << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    let mut bytes: Vec<u8> = (0..len.div_ceil(8) as u64).flat_map(word).collect();
    bytes.truncate(len);
    Block::seal(bytes.into())
}

/// `max_bytes` of ring, of which a segment is an eighth, and no RAM.
fn ring_only(dir: &Path, max_bytes: u64) -> CacheConfig {
    CacheConfig {
        root_dir: dir.to_owned(),
        ram_bytes: 0,
        max_bytes: Some(max_bytes),
        min_free_percent: 0,
        key: None,
    }
}

/// Counts how often a block had to be fetched.
#[derive(Clone, Default)]
struct Fetches(Arc<AtomicUsize>);

impl Fetches {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Gets a block whatever it takes, and checks it.
    async fn get(&self, cache: &Arc<Cache>, wanted: &Block, priority: Priority) {
        let (fetches, fetched) = (self.0.clone(), wanted.clone());
        let fetch = async move {
            fetches.fetch_add(1, Ordering::Relaxed);
            Ok::<_, ()>(fetched)
        };
        let len = wanted.bytes().len() as u32;
        let got = cache.get(&wanted.hash(), len, priority, fetch).await.expect("fetch cannot fail");
        assert_eq!(got.bytes(), wanted.bytes(), "wrong bytes for {}", wanted.hash());
    }
}

/// Puts blocks into the ring as the mover does.
async fn fill(cache: &Arc<Cache>, keys: std::ops::Range<u64>) {
    for key in keys {
        Fetches::default().get(cache, &block(key), Priority::Scan).await;
    }
    cache.settle().await;
}

/// How many of the blocks are at hand without a fetch, checking each.
async fn warm(cache: &Arc<Cache>, keys: std::ops::Range<u64>) -> usize {
    let count = (keys.end - keys.start) as usize;
    let fetches = Fetches::default();
    for key in keys {
        fetches.get(cache, &block(key), Priority::Scan).await;
    }
    count - fetches.count()
}

/// The ring's segment files, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    found.sort();
    found
}

/// What a kill leaves: the files as they are, without a word of warning.
fn killed_copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let to = copy.path().join(entry.file_name());
        // A segment may be pruned between listing and copying.
        let _ = std::fs::copy(entry.path(), &to);
        let mut nonce = [0; 32];
        if rustix::fs::getxattr(entry.path(), "user.rekindle.nonce", &mut nonce).is_ok() {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&to, "user.rekindle.nonce", &nonce, flags).unwrap();
        }
    }
    copy
}
