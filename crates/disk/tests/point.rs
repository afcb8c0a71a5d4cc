//! An overlay over a recovery point of a real repository, through a real cache.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rekindle_block::{BlockIdx, BlockSize};
use rekindle_cache::{Cache, CacheConfig};
use rekindle_disk::{
    Base, Disk, DiskError, DiskId, Disks, DisksConfig, Faults, FaultyStorage, Priority, concat,
    pattern_byte,
};
use rekindle_repo::{CreateOptions, IngestOptions, IngestProgress, Repository, ingest};
use rekindle_state::Database;

const BLOCK: u64 = 64 << 10;
/// Five blocks, of which the second is zeros, and a part of a sixth.
const SIZE: u64 = 5 * BLOCK + 3 * 4096 + 1536;

fn image() -> Vec<u8> {
    let zero = BLOCK..2 * BLOCK;
    (0..SIZE).map(|o| if zero.contains(&o) { 0 } else { pattern_byte(1, o) }).collect()
}

struct Rig {
    dir: tempfile::TempDir,
    repository: Repository,
    cache: Arc<Cache>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vm.raw"), image()).unwrap();
        let block_size = BlockSize::new(BLOCK as u32).unwrap();
        let options = CreateOptions { block_size, ..CreateOptions::default() };
        let repository = Repository::create(&dir.path().join("repository"), &options).unwrap();
        let source = dir.path().join("vm.raw");
        let (progress, cancel) = (IngestProgress::default(), AtomicBool::new(false));
        ingest(&repository, &source, &IngestOptions::default(), &progress, &cancel).unwrap();
        let config = CacheConfig {
            root_dir: dir.path().join("cache"),
            ram_bytes: 16 << 20,
            max_bytes: Some(16 << 20),
            min_free_percent: 0,
            key: None,
        };
        let cache = Cache::open(config).unwrap();
        Self { dir, repository, cache }
    }

    async fn base(&self) -> Base {
        let points = self.repository.points().await.unwrap().points;
        let map = self.repository.open_disk(&points[0], 0).await.unwrap();
        Base::Point { map, cache: self.cache.clone() }
    }

    async fn open(&self) -> (Arc<Disks>, Arc<Disk>) {
        let db = Database::open(&self.dir.path().join("db")).unwrap();
        let config = DisksConfig { journal_bytes: 1 << 20 };
        let disks = Disks::open(&self.dir.path().join("overlay"), &db, config).unwrap();
        let id = DiskId::new("disk").unwrap();
        disks.create(&id, SIZE).unwrap();
        let disk = disks.attach(&id, self.base().await).unwrap();
        (disks, disk)
    }
}

/// Every file of a folder with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

async fn read(disk: &Disk, range: std::ops::Range<u64>) -> Vec<u8> {
    concat(&disk.read(range, Priority::Guest).await.unwrap()).to_vec()
}

/// Invariants 4 and 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_lie_over_the_point_and_never_change_it() {
    let rig = Rig::new();
    let repository = rig.dir.path().join("repository");
    let before = files(&repository);
    let mut model = image();
    let (disks, disk) = rig.open().await;
    assert_eq!((disk.size(), disk.blocks(), disk.block_size().bytes()), (SIZE, 6, BLOCK));
    // Cold: parts of grains, over a block's edge, into the zeros, and up to the odd end.
    let places = [
        (100, 10),
        (BLOCK - 300, 600),
        (2 * BLOCK - 5000, 9000),
        (3 * BLOCK, 8192),
        (SIZE - 700, 700),
    ];
    for (at, len) in places {
        let data: Vec<u8> = (0..len).map(|i| 1 + (i % 200) as u8).collect();
        model[at as usize..][..len as usize].copy_from_slice(&data);
        disk.write(at, data.into()).await.unwrap();
    }
    assert!(read(&disk, 0..SIZE).await == model);
    // Warm now: all of it is answered inline.
    let inline = concat(&disk.try_read(0..SIZE).unwrap().unwrap());
    assert!(inline[..] == model[..]);
    drop((disk, disks));
    let (_disks, disk) = rig.open().await;
    assert!(read(&disk, 0..SIZE).await == model);
    assert!(files(&repository) == before, "the repository is only read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warmed_block_is_read_without_the_repository() {
    let rig = Rig::new();
    let (_disks, disk) = rig.open().await;
    assert!(disk.try_read(0..4096).is_none(), "nothing is at hand yet");
    let mut warmed = 0;
    for block in 0..disk.blocks() {
        warmed +=
            disk.warm_run(BlockIdx(block)..BlockIdx(block + 1), Priority::Guest).await.unwrap();
    }
    assert_eq!(warmed, SIZE - BLOCK, "zeros are not fetched");
    std::fs::remove_dir_all(rig.dir.path().join("repository/packs")).unwrap();
    assert!(read(&disk, 0..SIZE).await == image());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_repository_is_an_error_where_it_is() {
    let rig = Rig::new();
    for (path, mut bytes) in files(&rig.dir.path().join("repository/packs")) {
        // The first block of the pack, behind its 16 bytes of header, is the disk's first.
        bytes[16 + 1000] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let (_disks, disk) = rig.open().await;
    let corrupt = |result: Result<_, DiskError>| matches!(result, Err(DiskError::Corrupt(_)));
    assert!(corrupt(disk.read(0..4096, Priority::Guest).await.map(drop)));
    assert!(corrupt(disk.write(10, vec![1; 10].into()).await), "a part has nothing to lie over");
    disk.write(0, vec![1; 4096].into()).await.unwrap();
    assert_eq!(read(&disk, 0..4096).await, [1; 4096], "a whole grain asks nobody");
    assert!(read(&disk, BLOCK..SIZE).await[..] == image()[BLOCK as usize..]);
}

/// Invariant 9 of the design: the ring gives back all it has, and only then is a write refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_gives_way_before_a_write_is_refused() {
    let rig = Rig::new();
    let storage = FaultyStorage::new(Faults { room: Some(2 * 4096), ..Faults::default() });
    let config = DisksConfig { journal_bytes: 1 << 20 };
    let disks = Disks::open_faulty(&storage, Path::new("/overlay"), config).unwrap();
    let id = DiskId::new("disk").unwrap();
    disks.create(&id, SIZE).unwrap();
    let disk = disks.attach(&id, rig.base().await).unwrap();
    for block in 0..disk.blocks() {
        disk.warm_run(BlockIdx(block)..BlockIdx(block + 1), Priority::Scan).await.unwrap();
    }
    rig.cache.settle().await;
    let held = rig.cache.stats().ring_bytes;
    assert!(held >= SIZE - BLOCK, "{held}");
    disk.write(0, vec![1; 8192].into()).await.unwrap();
    assert_eq!(rig.cache.stats().ring_bytes, held, "there was space for it");
    let refused = disk.write(8192, vec![2; 4096].into()).await;
    assert!(matches!(refused, Err(DiskError::Full)), "{refused:?}");
    assert_eq!(rig.cache.stats().ring_bytes, 0, "nothing is left to give");
    // What has its space is written on, and nothing of the refused write is there.
    disk.write(0, vec![3; 4096].into()).await.unwrap();
    assert!(read(&disk, 8192..12288).await[..] == image()[8192..12288]);
}
