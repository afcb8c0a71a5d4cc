//! Many writers and readers at once, over a journal that wraps all the time.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rekindle_disk::{Base, Disk, DiskId, Disks, DisksConfig, Priority, concat, pattern_byte};
use rekindle_state::Database;

const SECTOR: u64 = 512;
const SECTORS: u64 = 1024;
const SIZE: u64 = SECTOR * SECTORS;
const BASE_SEED: u8 = 9;
const WRITERS: u64 = 8;
const ROUNDS: u64 = 400;

/// The sector's bytes after its `version`-th write. Version 0 is the base's.
fn sector(number: u64, version: u64) -> Vec<u8> {
    match version {
        0 => (number * SECTOR..(number + 1) * SECTOR).map(|o| pattern_byte(BASE_SEED, o)).collect(),
        // Every fifth is zeros, so that grains go from hole to data and back.
        _ if version.is_multiple_of(5) => vec![0; SECTOR as usize],
        _ => [version.to_le_bytes(), number.to_le_bytes()].concat().repeat(SECTOR as usize / 16),
    }
}

/// For each sector: what was begun, and what was acknowledged.
struct Versions {
    begun: Vec<AtomicU64>,
    done: Vec<AtomicU64>,
}

/// Writes runs of sectors that only this writer touches. Grains have sectors of all writers.
async fn write(disk: Arc<Disk>, versions: Arc<Versions>, writer: u64) {
    for round in 0..ROUNDS {
        let first = (round * 37 + writer * 11) % SECTORS / WRITERS * WRITERS + writer;
        let version = versions.begun[first as usize].load(Ordering::SeqCst) + 1;
        versions.begun[first as usize].store(version, Ordering::SeqCst);
        disk.write(first * SECTOR, sector(first, version).into()).await.unwrap();
        versions.done[first as usize].store(version, Ordering::SeqCst);
        // Invariant 2, by the one who knows best.
        let range = first * SECTOR..(first + 1) * SECTOR;
        let read = match disk.try_read(range.clone()) {
            Some(read) => read.unwrap(),
            None => disk.read(range, Priority::Guest).await.unwrap(),
        };
        assert_eq!(concat(&read)[..], sector(first, version), "sector {first} version {version}");
    }
}

/// Whether `found` may be the sector, when `least` was acknowledged before the read and `most` was
/// begun after it. A read beside a write may see some of each, word by word.
fn plausible(number: u64, found: &[u8], least: u64, most: u64) -> bool {
    let versions: Vec<_> = (least..=most).map(|version| sector(number, version)).collect();
    (0..SECTOR as usize)
        .step_by(8)
        .all(|at| versions.iter().any(|version| version[at..at + 8] == found[at..at + 8]))
}

async fn watch(disk: Arc<Disk>, versions: Arc<Versions>, over: Arc<AtomicBool>, step: u64) {
    let mut number = step;
    while !over.load(Ordering::SeqCst) {
        let run = (number % SECTORS)..(number % SECTORS + 24).min(SECTORS);
        let least: Vec<_> =
            run.clone().map(|n| versions.done[n as usize].load(Ordering::SeqCst)).collect();
        let range = run.start * SECTOR..run.end * SECTOR;
        let found = concat(&disk.read(range, Priority::Guest).await.unwrap());
        for (i, number) in run.enumerate() {
            let most = versions.begun[number as usize].load(Ordering::SeqCst);
            let bytes = &found[i * SECTOR as usize..][..SECTOR as usize];
            assert!(plausible(number, bytes, least[i], most), "sector {number}");
        }
        number += step;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_one_grain_do_not_lose_each_others_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let id = DiskId::new("disk").unwrap();
    let config = DisksConfig { journal_bytes: 256 << 10 };
    let disks = Disks::open(&dir.path().join("overlay"), &db, config).unwrap();
    disks.create(&id, SIZE).unwrap();
    let base = Base::Pattern { seed: BASE_SEED, size: SIZE };
    let disk = disks.attach(&id, base.clone()).unwrap();
    let zeros = || (0..SECTORS).map(|_| AtomicU64::new(0)).collect();
    let versions = Arc::new(Versions { begun: zeros(), done: zeros() });
    let over = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = [5, 23]
        .map(|step| tokio::spawn(watch(disk.clone(), versions.clone(), over.clone(), step)))
        .into();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(disk.clone(), versions.clone(), writer)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    // The journal went round, and what is left is right: now, and after a replay.
    let stats = disks.stats();
    assert!(stats.bytes > 4 * config.journal_bytes && stats.checkpoints > 4, "{stats:?}");
    let expected: Vec<u8> = (0..SECTORS)
        .flat_map(|n| sector(n, versions.done[n as usize].load(Ordering::SeqCst)))
        .collect();
    let all = concat(&disk.read(0..SIZE, Priority::Guest).await.unwrap());
    assert!(all[..] == expected[..]);
    drop((disk, disks));
    let disks = Disks::open(&dir.path().join("overlay"), &db, config).unwrap();
    let disk = disks.attach(&id, base).unwrap();
    let all = concat(&disk.read(0..SIZE, Priority::Guest).await.unwrap());
    assert!(all[..] == expected[..]);
}

/// Writes that overlap have one order, which a replay keeps (invariant 3).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn overlapping_writes_have_one_order_for_good() {
    let storage = rekindle_disk::FaultyStorage::default();
    let id = DiskId::new("disk").unwrap();
    let path = std::path::Path::new("/overlay");
    let config = DisksConfig { journal_bytes: 1 << 20 };
    let base = Base::Pattern { seed: BASE_SEED, size: SIZE };
    let disks = Disks::open_faulty(&storage, path, config).unwrap();
    disks.create(&id, SIZE).unwrap();
    let disk = disks.attach(&id, base.clone()).unwrap();
    for round in 0..60u64 {
        let at = round * 4096 % 65_536;
        let writers: Vec<_> = (0..6u64)
            .map(|i| {
                let disk = disk.clone();
                let len = [4096, 8192, 700, 4096, 12_288, 3000][i as usize];
                let data = vec![(round * 6 + i) as u8; len];
                tokio::spawn(async move { disk.write(at + i % 2 * 100, data.into()).await })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap().unwrap();
        }
    }
    let seen = concat(&disk.read(0..SIZE, Priority::Guest).await.unwrap());
    for seed in 0..4 {
        let cut = storage.after_cut(seed);
        let disks = Disks::open_faulty(&cut, path, config).unwrap();
        let disk = disks.attach(&id, base.clone()).unwrap();
        let replayed = concat(&disk.read(0..SIZE, Priority::Guest).await.unwrap());
        assert!(seen == replayed, "seed {seed}");
    }
}

const REGION: u64 = 512 << 10;

/// Writes large and small into a region of its own and reads all of it back after each answer, as the page cache and
/// the device have it.
async fn large_and_small(disk: Arc<Disk>, writer: u64, rounds: u64) -> Vec<u8> {
    let begin = writer * REGION;
    let mut wanted: Vec<u8> = (begin..begin + REGION).map(|o| pattern_byte(BASE_SEED, o)).collect();
    let mut dice = writer + 1;
    let mut below = |bound: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % bound
    };
    for round in 0..rounds {
        let (at, len) = match below(3) {
            0 => (below(REGION / 4096 - 32) * 4096, (8 + below(24)) * 4096),
            1 => (below(REGION - 8192), 1 + below(8192)),
            _ => (below(REGION - 100_000), 40_000 + below(60_000)),
        };
        let data: Vec<u8> = (0..len).map(|i| (round + i / 512) as u8 | 1).collect();
        wanted[at as usize..(at + len) as usize].copy_from_slice(&data);
        disk.write(begin + at, data.into()).await.unwrap();
        let range = begin..begin + REGION;
        let read = match disk.try_read(range.clone()) {
            Some(read) => read.unwrap(),
            None => disk.read(range, Priority::Guest).await.unwrap(),
        };
        assert!(concat(&read)[..] == wanted[..], "writer {writer}, round {round}: {at}, {len}");
    }
    wanted
}

/// What is answered before it lies in its place is read as if it did, beside what other writers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_writes_are_seen_at_once_and_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let id = DiskId::new("disk").unwrap();
    let config = DisksConfig { journal_bytes: 8 << 20 };
    let disks = Disks::open(&dir.path().join("overlay"), &db, config).unwrap();
    disks.create(&id, 4 * REGION).unwrap();
    let base = Base::Pattern { seed: BASE_SEED, size: 4 * REGION };
    let disk = disks.attach(&id, base.clone()).unwrap();
    let writers = (0..4).map(|writer| tokio::spawn(large_and_small(disk.clone(), writer, 150)));
    let mut wanted = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        wanted.extend(writer.await.unwrap());
    }
    drop((disk, disks));
    let disks = Disks::open(&dir.path().join("overlay"), &db, config).unwrap();
    let disk = disks.attach(&id, base).unwrap();
    let all = concat(&disk.read(0..4 * REGION, Priority::Guest).await.unwrap());
    assert!(all[..] == wanted[..], "after a restart");
}
