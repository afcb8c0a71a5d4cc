//! Invariant 4: one fetch for all who wait, and its failure is not remembered.

use std::sync::Arc;

use rekindle_block::Block;
use rekindle_cache::{Cache, Priority};
use tokio::sync::{Notify, Semaphore};

use crate::{Fetches, block, ring_only};

struct Rig {
    _dir: tempfile::TempDir,
    cache: Arc<Cache>,
    block: Block,
    /// A fetch has begun.
    begun: Arc<Notify>,
    /// One permit lets one fetch end.
    gate: Arc<Semaphore>,
}

type Getting = tokio::task::JoinHandle<Result<Block, Arc<&'static str>>>;

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ring_only(dir.path(), 8 << 20);
        config.ram_bytes = 1 << 20;
        let cache = Cache::open(config).unwrap();
        let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        Self { _dir: dir, cache, block: block(1), begun, gate }
    }

    /// A get whose fetch says that it began, waits for the gate, and ends with `outcome`.
    fn get(&self, priority: Priority, outcome: Result<Block, &'static str>) -> Getting {
        let (cache, block) = (self.cache.clone(), self.block.clone());
        let (begun, gate) = (self.begun.clone(), self.gate.clone());
        let fetch = async move {
            begun.notify_one();
            gate.acquire().await.unwrap().forget();
            outcome
        };
        let len = block.bytes().len() as u32;
        tokio::spawn(async move { cache.get(&block.hash(), len, priority, fetch).await })
    }

    /// A get of another block that fails once the gate lets it end; whether it did.
    fn hang(&self, key: u64, len: u32, priority: Priority) -> tokio::task::JoinHandle<bool> {
        let (cache, gate, hash) = (self.cache.clone(), self.gate.clone(), block(key).hash());
        tokio::spawn(async move {
            let fetch = async move {
                gate.acquire().await.unwrap().forget();
                Err::<Block, _>(())
            };
            cache.get(&hash, len, priority, fetch).await.is_err()
        })
    }

    async fn joined(&self, count: u64) {
        while self.cache.stats().joined < count {
            tokio::task::yield_now().await;
        }
    }

    async fn landed(&self) {
        while self.cache.stats().in_flight > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn one_fetch_serves_all_who_wait() {
    let rig = Rig::new();
    let waiting: Vec<_> =
        (0..50).map(|_| rig.get(Priority::Guest, Ok(rig.block.clone()))).collect();
    rig.joined(49).await;
    rig.gate.add_permits(1);
    for getting in waiting {
        assert_eq!(getting.await.unwrap().unwrap().bytes(), rig.block.bytes());
    }
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.in_flight), (1, 0));
}

#[tokio::test]
async fn who_leaves_does_not_take_the_fetch_along() {
    let rig = Rig::new();
    let leader = rig.get(Priority::Guest, Ok(rig.block.clone()));
    rig.begun.notified().await;
    let joiner = rig.get(Priority::Guest, Err("the joiner's own fetch"));
    rig.joined(1).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    rig.gate.add_permits(1);
    assert_eq!(joiner.await.unwrap().unwrap().bytes(), rig.block.bytes());
    assert_eq!(rig.cache.stats().misses, 1);
}

#[tokio::test]
async fn a_fetch_nobody_waits_for_any_more_is_kept() {
    let rig = Rig::new();
    let only = rig.get(Priority::Guest, Ok(rig.block.clone()));
    rig.begun.notified().await;
    only.abort();
    rig.gate.add_permits(1);
    rig.landed().await;
    let found = rig.cache.peek(&rig.block.hash(), 0..10).expect("in RAM");
    assert_eq!(found, rig.block.bytes().slice(0..10));
}

/// Fetches that take all places which are not guests' own, until the gate lets them end.
async fn fill(rig: &Rig) -> Vec<tokio::task::JoinHandle<bool>> {
    let hanging = (100..148).map(|key| rig.hang(key, 4096, Priority::Profile)).collect();
    while rig.cache.stats().reads_under_way < 48 {
        tokio::task::yield_now().await;
    }
    hanging
}

/// What is read ahead for somebody who stopped is not read, and who waits for it reads for itself.
#[tokio::test]
async fn a_fetch_that_has_not_begun_goes_with_its_caller() {
    let rig = Rig::new();
    let hanging = fill(&rig).await;
    let leader = rig.get(Priority::Ahead, Err("nobody is to begin this"));
    while rig.cache.stats().reads_waiting < 1 {
        tokio::task::yield_now().await;
    }
    let joiner = rig.get(Priority::Scan, Ok(rig.block.clone()));
    rig.joined(1).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    rig.gate.add_permits(49);
    assert_eq!(joiner.await.unwrap().unwrap().bytes(), rig.block.bytes());
    for fetch in hanging {
        assert!(fetch.await.unwrap());
    }
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.in_flight, stats.reads_waiting), (49, 0, 0));
}

/// But not where a guest has come to wait for it.
#[tokio::test]
async fn a_fetch_that_a_guest_waits_for_stays_when_its_caller_goes() {
    let rig = Rig::new();
    let hanging = fill(&rig).await;
    let leader = rig.get(Priority::Ahead, Ok(rig.block.clone()));
    while rig.cache.stats().reads_waiting < 1 {
        tokio::task::yield_now().await;
    }
    let guest = rig.get(Priority::Guest, Err("the guest's own fetch"));
    rig.begun.notified().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    rig.gate.add_permits(49);
    assert_eq!(guest.await.unwrap().unwrap().bytes(), rig.block.bytes());
    for fetch in hanging {
        assert!(fetch.await.unwrap());
    }
    assert_eq!(rig.cache.stats().in_flight, 0);
}

#[tokio::test]
async fn an_error_reaches_all_and_is_forgotten() {
    let rig = Rig::new();
    let waiting: Vec<_> = (0..10).map(|_| rig.get(Priority::Guest, Err("no repository"))).collect();
    rig.joined(9).await;
    rig.gate.add_permits(1);
    for getting in waiting {
        assert_eq!(*getting.await.unwrap().unwrap_err(), "no repository");
    }
    rig.gate.add_permits(1);
    let again = rig.get(Priority::Guest, Ok(rig.block.clone())).await.unwrap();
    assert_eq!(again.unwrap().bytes(), rig.block.bytes());
    assert_eq!(rig.cache.stats().misses, 2);
}

/// An error type that a joiner does not know makes it try for itself.
#[tokio::test]
async fn an_error_of_another_type_is_not_ours() {
    let rig = Rig::new();
    let leader = rig.get(Priority::Guest, Err("text"));
    rig.begun.notified().await;
    let (cache, block) = (rig.cache.clone(), rig.block.clone());
    let joiner = tokio::spawn(async move {
        let fetch = std::future::ready(Ok::<_, u32>(block.clone()));
        cache.get(&block.hash(), 4096, Priority::Guest, fetch).await
    });
    rig.joined(1).await;
    rig.gate.add_permits(1);
    assert!(leader.await.unwrap().is_err());
    assert!(joiner.await.unwrap().is_ok());
}

fn planted() -> Result<Block, ()> {
    panic!("planted")
}

#[tokio::test]
async fn a_panicking_fetch_harms_only_its_own_caller() {
    let rig = Rig::new();
    let (cache, block) = (rig.cache.clone(), rig.block.clone());
    let (begun, gate) = (rig.begun.clone(), rig.gate.clone());
    let leader = tokio::spawn(async move {
        let fetch = async move {
            begun.notify_one();
            gate.acquire().await.unwrap().forget();
            planted()
        };
        cache.get(&block.hash(), 4096, Priority::Guest, fetch).await
    });
    rig.begun.notified().await;
    let joiner = rig.get(Priority::Guest, Ok(rig.block.clone()));
    rig.joined(1).await;
    rig.gate.add_permits(2);
    assert!(leader.await.unwrap_err().is_panic());
    assert!(joiner.await.unwrap().is_ok());
    assert_eq!(rig.cache.stats().in_flight, 0);
}

/// Invariant 5, at a flight that both share: the guest's copy goes to RAM, the scan's does not.
#[tokio::test]
async fn a_guest_who_joins_a_scan_gets_the_block_into_ram() {
    let rig = Rig::new();
    let scan = rig.get(Priority::Scan, Ok(rig.block.clone()));
    rig.begun.notified().await;
    let guest = rig.get(Priority::Guest, Err("the guest's own fetch"));
    rig.joined(1).await;
    rig.gate.add_permits(1);
    assert!(scan.await.unwrap().is_ok() && guest.await.unwrap().is_ok());
    let before = rig.cache.stats().ram_hits;
    assert!(rig.cache.peek(&rig.block.hash(), 0..1).is_some());
    assert_eq!(rig.cache.stats().ram_hits, before + 1);
}

/// Scans wait for scans, never guests for them: 64 MiB of scans hang, a guest's read goes through.
#[tokio::test]
async fn scans_that_hang_do_not_hold_up_a_guest() {
    let rig = Rig::new();
    let hanging: Vec<_> = (100..140).map(|key| rig.hang(key, 4 << 20, Priority::Scan)).collect();
    while rig.cache.stats().misses < 16 {
        tokio::task::yield_now().await;
    }
    Fetches::default().get(&rig.cache, &rig.block, Priority::Guest).await;
    assert_eq!(rig.cache.stats().in_flight, 16, "64 MiB of scans at 4 MiB each");
    rig.gate.add_permits(40);
    for scan in hanging {
        assert!(scan.await.unwrap());
    }
}
