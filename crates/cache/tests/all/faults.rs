//! Invariants 1 and 2: each planted fault trips its check, is a miss and a counter, never a byte.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rekindle_block::{Block, BlockHash, BlockIdx};
use rekindle_cache::{Cache, Priority};

use crate::{Fetches, block, fill, killed_copy, ring_only, segments, sized_block, warm};

const RING: u64 = 16 << 20;

fn open(dir: &Path) -> Arc<Cache> {
    Cache::open(ring_only(dir, RING)).unwrap()
}

fn segment_file(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Where `wanted` begins in a segment.
fn find(dir: &Path, wanted: &Block) -> (File, u64) {
    for path in segments(dir) {
        let bytes = std::fs::read(&path).unwrap();
        let mut pages = (0..bytes.len()).step_by(4096);
        if let Some(at) = pages.find(|at| bytes[*at..].starts_with(wanted.bytes())) {
            return (segment_file(&path), at as u64);
        }
    }
    panic!("block {} is in no segment", wanted.hash());
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_page_is_a_miss_and_a_bad_slot() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let wanted = sized_block(7, 100_000);
    Fetches::default().get(&cache, &wanted, Priority::Scan).await;
    cache.settle().await;
    let (file, at) = find(dir.path(), &wanted);
    flip(&file, at + 50_000);
    // A read that does not touch the page is good, and checks just what it gives.
    let good = cache.peek(&wanted.hash(), 4096..8192).expect("an untouched page");
    assert_eq!(good, wanted.bytes().slice(4096..8192));
    assert_eq!(cache.peek(&wanted.hash(), 49_999..50_002), None);
    assert_eq!(cache.stats().bad_slots, 1);
    assert_eq!(cache.peek(&wanted.hash(), 4096..8192), None, "the slot is forgotten");
    let fetches = Fetches::default();
    fetches.get(&cache, &wanted, Priority::Guest).await;
    assert_eq!(fetches.count(), 1);
    cache.settle().await;
    assert_eq!(cache.peek(&wanted.hash(), 49_999..50_002).expect("written anew").len(), 3);
}

#[tokio::test]
async fn a_flipped_bit_in_a_sum_or_in_any_page_that_get_reads_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let fetches = Fetches::default();
    for (key, offset) in [(1, -4096_i64 + 64), (2, 0), (3, 65_535)] {
        let wanted = sized_block(key, 1 << 16);
        fetches.get(&cache, &wanted, Priority::Scan).await;
        cache.settle().await;
        let (file, at) = find(dir.path(), &wanted);
        flip(&file, at.checked_add_signed(offset).unwrap());
        if offset < 0 {
            assert_eq!(cache.peek(&wanted.hash(), 0..1), None, "a page without its sum");
        }
        fetches.get(&cache, &wanted, Priority::Guest).await;
    }
    assert_eq!((fetches.count(), cache.stats().bad_slots), (6, 3));
}

/// A misdirected write: a whole sound record of another block, at this one's place.
#[tokio::test]
async fn a_sound_record_of_another_block_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let (wanted, other) = (sized_block(1, 1 << 16), sized_block(2, 1 << 16));
    for block in [&wanted, &other] {
        Fetches::default().get(&cache, block, Priority::Scan).await;
    }
    cache.settle().await;
    let ((to, to_at), (from, from_at)) = (find(dir.path(), &wanted), find(dir.path(), &other));
    let mut record = vec![0; (1 << 16) + 4096];
    from.read_exact_at(&mut record, from_at - 4096).unwrap();
    to.write_all_at(&record, to_at - 4096).unwrap();
    assert_eq!(cache.peek(&wanted.hash(), 0..4096), None);
    assert_eq!(cache.stats().bad_slots, 1);
    assert!(cache.peek(&other.hash(), 0..4096).is_some());
}

/// A block that is called by its place in a disk has no hash: its sums are what it is checked by.
#[tokio::test]
async fn a_flipped_bit_in_a_block_of_a_place_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let fetches = Fetches::default();
    for (key, offset) in [(1, -4096_i64 + 64), (2, 0), (3, 99_999)] {
        let name = BlockHash::of_place(&[1; 32], BlockIdx(key));
        let placed = Block::of_place(name, sized_block(key, 100_000).bytes().clone()).unwrap();
        let before = fetches.count();
        fetches.get(&cache, &placed, Priority::Scan).await;
        cache.settle().await;
        fetches.get(&cache, &placed, Priority::Scan).await;
        assert_eq!(fetches.count(), before + 1, "block {key} is in the ring");
        let (file, at) = find(dir.path(), &placed);
        // A place's record has one page of header before its data.
        flip(&file, at.checked_add_signed(offset).unwrap());
        fetches.get(&cache, &placed, Priority::Scan).await;
        assert_eq!(fetches.count(), before + 2, "the bit at {offset} was seen");
    }
    assert_eq!(cache.stats().bad_slots, 3);
}

#[tokio::test]
async fn truncated_segments_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    fill(&cache, 0..100).await;
    for path in segments(dir.path()) {
        let file = segment_file(&path);
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }
    for key in 0..100 {
        let wanted = block(key);
        if let Some(found) = cache.peek(&wanted.hash(), 0..wanted.bytes().len()) {
            assert_eq!(found, wanted.bytes());
        }
    }
    let left = warm(&cache, 0..100).await;
    assert!((10..90).contains(&left), "{left} of 100 left");
    assert!(cache.stats().bad_slots > 0);
}

/// After a restart the headers of a cut segment tell what is left of it.
#[tokio::test]
async fn a_cut_segment_is_read_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    fill(&cache, 0..100).await;
    cache.close().await;
    let path = &segments(dir.path())[0];
    let file = segment_file(path);
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let cache = open(dir.path());
    cache.settle().await;
    assert_eq!(warm(&cache, 0..100).await, 100, "only the footer was cut");
    cache.close().await;
    let len = segment_file(&segments(dir.path())[0]).metadata().unwrap().len();
    segment_file(&segments(dir.path())[0]).set_len(len / 2 + 77).unwrap();
    let cache = open(dir.path());
    cache.settle().await;
    let left = warm(&cache, 0..100).await;
    assert!((5..100).contains(&left), "{left} of 100 left");
    assert_eq!(cache.stats().bad_slots, 0);
}

/// A damaged header hides its own block and no other.
#[tokio::test]
async fn the_scan_finds_the_next_header_behind_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    fill(&cache, 0..50).await;
    let copy = killed_copy(dir.path());
    let (file, at) = find(copy.path(), &block(20));
    flip(&file, at - 4096 + 30);
    let cache = open(copy.path());
    cache.settle().await;
    assert_eq!(warm(&cache, 0..50).await, 49);
}

#[tokio::test]
async fn a_footer_that_lies_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    fill(&cache, 0..50).await;
    cache.close().await;
    for path in segments(dir.path()) {
        let file = segment_file(&path);
        flip(&file, file.metadata().unwrap().len() - 30);
    }
    let cache = open(dir.path());
    cache.settle().await;
    assert_eq!(warm(&cache, 0..50).await, 50, "the headers are read instead");
    assert_eq!(cache.stats().bad_slots, 0);
}

#[tokio::test]
async fn garbage_in_the_directory_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    fill(&cache, 0..50).await;
    cache.close().await;
    let name = |id: u64| dir.path().join(format!("ring-{id:016x}.seg"));
    std::fs::write(name(500), vec![0xa5; 300_000]).unwrap();
    std::fs::write(name(501), b"").unwrap();
    std::fs::write(name(502), b"RKRING01").unwrap();
    std::fs::create_dir(name(503)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", name(504)).unwrap();
    std::fs::write(dir.path().join("notes.txt"), b"not ours").unwrap();
    // A sound segment under another's name: its headers and footer name another place.
    std::fs::copy(&segments(dir.path())[0], name(505)).unwrap();
    let cache = open(dir.path());
    cache.settle().await;
    assert_eq!(warm(&cache, 0..50).await, 50);
    assert_eq!(cache.stats().bad_slots, 0);
    for gone in [500, 501, 502, 505] {
        assert!(!name(gone).exists(), "{gone} only took space");
    }
    assert!(dir.path().join("notes.txt").exists());
}

/// Segments that change places while nobody looks: each names itself.
#[tokio::test]
async fn swapped_segments_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    fill(&cache, 0..300).await;
    cache.close().await;
    let paths = segments(dir.path());
    assert!(paths.len() >= 2, "{paths:?}");
    let aside = dir.path().join("aside");
    std::fs::rename(&paths[0], &aside).unwrap();
    std::fs::rename(&paths[1], &paths[0]).unwrap();
    std::fs::rename(&aside, &paths[1]).unwrap();
    let cache = open(dir.path());
    cache.settle().await;
    assert!(warm(&cache, 0..300).await < 300);
}
