//! A point with 1,000 predecessors opens and reads like a full one: by the calls that it takes, which depend on nothing else
//! that the machine does. Alone in its process, whose calls are counted.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use jiff::{Timestamp, ToSpan};
use rekindle_block::BlockIdx;
use rekindle_repo::{
    Changes, IngestOptions, IngestProgress, MapEntry, PointId, PointManifest, Repository, ingest,
};
use support::{MIB, create_with_blocks, wait, write_raw};
use tempfile::TempDir;

const POINTS: u64 = 1000;
const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 64 * MIB;

fn take(
    repository: &Repository,
    disk: &Path,
    at: Timestamp,
    from: Option<(PointId, u64)>,
) -> PointId {
    let changes = from.map(|(parent, start)| {
        let json = format!("{{\"scsi0:0\": [{{\"start\": {start}, \"length\": {BLOCK}}}]}}");
        Changes::parse(parent, json.as_bytes()).unwrap()
    });
    let options = IngestOptions { changes, created_at: Some(at), ..IngestOptions::default() };
    let (progress, cancel) = (IngestProgress::default(), AtomicBool::new(false));
    ingest(repository, disk, &options, &progress, &cancel).unwrap().point.id
}

/// Calls to read, and bytes read, of this process so far.
fn reads() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    };
    (value("syscr:"), value("rchar:"))
}

/// The place of a block that every increment left alone, one that the first wrote, and one that the last did.
fn blocks() -> [u64; 3] {
    [SIZE / BLOCK - 1, 0, POINTS - 2]
}

/// Opens the point of that manifest anew and reads a block of it, as the first READ of a guest does.
fn open_and_read(dir: &Path, point: &PointManifest, block: u64) -> Vec<u8> {
    let repository = Repository::open(dir).unwrap();
    wait(async {
        let disk = repository.open_disk(point, 0).await.unwrap();
        match disk.entry(BlockIdx(block)).await.unwrap() {
            MapEntry::Zero => Vec::new(),
            MapEntry::Stored(block) => disk.read_block(&block).await.unwrap().bytes().to_vec(),
        }
    })
}

/// A disk with `count` points, each but the first made from a list of one block; and one with the same content at once.
fn chain(dir: &TempDir, count: u64) -> [(std::path::PathBuf, PointManifest); 2] {
    let (disk, chain, full) =
        (dir.path().join("d.img"), dir.path().join("chain"), dir.path().join("full"));
    write_raw(&disk, 1, SIZE);
    let repository = create_with_blocks(&chain, BLOCK as u32);
    let mut at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut point = take(&repository, &disk, at, None);
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    for number in 0..count - 1 {
        let start = number * BLOCK % SIZE;
        file.write_all_at(&support::expected(2 + number, start, 4096), start).unwrap();
        at += 1.hour();
        point = take(&repository, &disk, at, Some((point, start)));
    }
    let whole = create_with_blocks(&full, BLOCK as u32);
    let other = take(&whole, &disk, at, None);
    [(chain, wait(repository.point(&point)).unwrap()), (full, wait(whole.point(&other)).unwrap())]
}

#[test]
fn a_point_with_1_000_predecessors_opens_and_reads_like_a_full() {
    let dir = TempDir::new().unwrap();
    let [(chain, last), (full, only)] = chain(&dir, POINTS);
    for block in blocks() {
        let counted = |dir: &Path, point: &PointManifest| {
            let before = reads();
            let bytes = open_and_read(dir, point, block);
            let after = reads();
            (bytes, after.0 - before.0, after.1 - before.1)
        };
        let (want, calls, bytes) = counted(&full, &only);
        let (found, chain_calls, chain_bytes) = counted(&chain, &last);
        assert!(found == want && !want.is_empty(), "block {block}");
        assert_eq!(chain_calls, calls, "block {block}: calls");
        // The counter's own text differs by a digit or two.
        assert!(chain_bytes.abs_diff(bytes) < 4096, "block {block}: {chain_bytes}, {bytes}");
    }
}
