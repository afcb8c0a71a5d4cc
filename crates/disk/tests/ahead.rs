//! Read-ahead over a real repository and cache. Fetches are counted, not timed.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rekindle_block::{Block, BlockHash, BlockSize};
use rekindle_cache::{Cache, CacheConfig};
use rekindle_disk::{Base, Disk, DiskId, Disks, DisksConfig, Priority, concat, pattern_byte};
use rekindle_repo::{CreateOptions, IngestOptions, IngestProgress, Repository, ingest};
use rekindle_state::Database;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 256;

struct Rig {
    _dir: tempfile::TempDir,
    cache: Arc<Cache>,
    _disks: Arc<Disks>,
    disk: Arc<Disk>,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("vm.raw");
        let image: Vec<u8> = (0..BLOCKS * BLOCK).map(|o| pattern_byte(1, o)).collect();
        std::fs::write(&source, image).unwrap();
        let block_size = BlockSize::new(BLOCK as u32).unwrap();
        let options = CreateOptions { block_size, ..CreateOptions::default() };
        let repository = Repository::create(&dir.path().join("repository"), &options).unwrap();
        let (progress, cancel) = (IngestProgress::default(), AtomicBool::new(false));
        ingest(&repository, &source, &IngestOptions::default(), &progress, &cancel).unwrap();
        let config = CacheConfig {
            root_dir: dir.path().join("cache"),
            ram_bytes: 32 << 20,
            max_bytes: Some(32 << 20),
            min_free_percent: 0,
            key: None,
        };
        let cache = Cache::open(config).unwrap();
        let points = repository.points().await.unwrap().points;
        let map = repository.open_disk(&points[0], 0).await.unwrap();
        let db = Database::open(&dir.path().join("db")).unwrap();
        let config = DisksConfig { journal_bytes: 1 << 20 };
        let disks = Disks::open(&dir.path().join("overlay"), &db, config).unwrap();
        let id = DiskId::new("disk").unwrap();
        disks.create(&id, BLOCKS * BLOCK).unwrap();
        let disk = disks.attach(&id, Base::Point { map, cache: cache.clone() }).unwrap();
        Self { _dir: dir, cache, _disks: disks, disk }
    }

    /// Reads as a guest does, whether it is at hand or not, and checks it.
    async fn read(&self, range: Range<u64>) {
        let read = match self.disk.try_read(range.clone()) {
            Some(read) => read.unwrap(),
            None => self.disk.read(range.clone(), Priority::Guest).await.unwrap(),
        };
        assert!(concat(&read)[..] == range.map(|o| pattern_byte(1, o)).collect::<Vec<_>>()[..]);
    }

    /// A fetch that takes all that may be under way for others than guests, until the gate opens.
    fn take_all(&self, gate: &Arc<Semaphore>) -> JoinHandle<()> {
        let (cache, gate) = (self.cache.clone(), gate.clone());
        tokio::spawn(async move {
            let fetch = async move {
                gate.acquire().await.unwrap().forget();
                Err::<Block, _>(())
            };
            let name = BlockHash::of(b"no block of the disk");
            cache.get(&name, 64 << 20, Priority::Scan, fetch).await.unwrap_err();
        })
    }

    #[track_caller]
    fn until(&self, reached: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let asked = std::panic::Location::caller();
        async move {
            let began = std::time::Instant::now();
            while !reached(self) {
                assert!(began.elapsed().as_secs() < 60, "{asked}: {:?}", self.cache.stats());
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_finds_its_blocks_at_hand() {
    let rig = Rig::new().await;
    for block in 0..BLOCKS {
        for at in (block * BLOCK..(block + 1) * BLOCK).step_by(16 << 10) {
            rig.read(at..at + (16 << 10)).await;
        }
        if block >= 2 && block + 1 < BLOCKS {
            // As slow a guest as it takes: the block after this one comes without being asked for.
            let next = (block + 1) * BLOCK;
            rig.until(|rig| rig.disk.try_read(next..next + 1).is_some()).await;
        }
    }
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.ahead), (BLOCKS, BLOCKS - 3), "each once, all but three ahead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_fetch_what_they_ask_for() {
    let rig = Rig::new().await;
    let mut state = 5u64;
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..100 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Every eighth block, so that no two are neighbours by chance.
        let block = (state >> 33) % (BLOCKS / 8) * 8;
        asked.insert(block);
        rig.read(block * BLOCK..block * BLOCK + 4096).await;
    }
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.ahead), (asked.len() as u64, 0));
}

/// A stream that has stopped: what it had not begun to fetch is fetched for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_stream_reads_no_further() {
    let rig = Rig::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let stuck = rig.take_all(&gate);
    rig.until(|rig| rig.cache.stats().in_flight == 1).await;
    for block in 0..8 {
        rig.read(block * BLOCK..block * BLOCK + 4096).await;
    }
    let far = 100 * BLOCK..100 * BLOCK + 4096;
    for _ in 0..100 {
        rig.disk.read(far.clone(), Priority::Guest).await.unwrap();
    }
    gate.add_permits(2);
    stuck.await.unwrap();
    // Its turn comes after all that wanted one before.
    rig.take_all(&gate).await.unwrap();
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.ahead), (2 + 9, 0));
}
