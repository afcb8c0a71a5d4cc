//! Boot profiles: what a guest touched first is there before it asks the next time. Fetches are
//! counted, not timed.

use std::time::Duration;

use rekindle_disk::Priority;

use super::world::{Running, World, expected, to_export};
use crate::{Finish, JobId, RecoveryRequest};

/// What the guest reads at boot, in order: disk and first byte. The last is zeros.
const BOOT: [(usize, u64); 7] =
    [(0, 8 << 20), (0, 0), (1, 0), (0, 4 << 20), (0, 2 << 20), (0, 4096), (0, 1 << 20)];
/// Blocks of it that are stored: one is touched twice, one is zeros.
const STORED: u64 = 5;

/// A guest that boots: says how many of its reads had to wait.
async fn boot(running: &Running, job: &JobId) -> usize {
    let mut waited = 0;
    for (disk, at) in BOOT {
        let disk = running.disk(job, disk);
        if disk.try_read(at..at + 512).is_none() {
            waited += 1;
            disk.read(at..at + 512, Priority::Guest).await.unwrap();
        }
    }
    waited
}

async fn start(running: &Running, point: &str) -> JobId {
    let request = RecoveryRequest { point: point.into(), ..to_export() };
    let job = running.jobs.start(request, None).await.unwrap();
    running.serving(&job).await;
    job
}

async fn end(running: Running, job: &JobId) {
    running.jobs.finish(job, Finish::Discard).await.unwrap();
    running.end(job).await;
    running.stop().await;
}

/// One run of a guest of `point` with nothing in the cache: what its reads waited for, and how many
/// blocks its profile had brought before.
fn run(world: &World, point: &str, profiled: u64) -> usize {
    match std::fs::remove_dir_all(world.path("state/cache")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{e}"),
        _ => {}
    }
    world.live(async |world| {
        let running = world.start().await;
        let job = start(&running, point).await;
        let brought = async {
            // In the ring, that is: a block is counted as read before it is kept.
            while running.cache.stats().ring_blocks < profiled {
                tokio::task::yield_now().await;
            }
        };
        let brought = tokio::time::timeout(Duration::from_secs(60), brought).await;
        assert!(brought.is_ok(), "{:?}", running.cache.stats());
        running.cache.settle().await;
        let waited = boot(&running, &job).await;
        assert_eq!(running.cache.stats().profile, profiled);
        end(running, &job).await;
        waited
    })
}

#[test]
fn a_second_boot_finds_its_blocks_at_hand() {
    let world = World::new();
    assert!(run(&world, "sample", 0) >= STORED as usize);
    assert_eq!(run(&world, "sample", STORED), 0);
}

#[test]
fn a_vm_without_a_profile_has_its_siblings() {
    let world = World::new();
    world.add("clone", &[expected(0), expected(1)]);
    world.add("stranger", &[vec![7; 3 << 20], vec![9; 1 << 20]]);
    run(&world, "sample", 0);
    assert_eq!(run(&world, "clone", STORED), 0);
    assert!(run(&world, "stranger", 0) > 0);
}

#[test]
fn without_recording_nothing_is_kept() {
    let world = World::new();
    for _ in 0..2 {
        world.live(async |world| {
            let mut config = world.config();
            config.boot_profile = Duration::ZERO;
            let running = world.start_with(config).await;
            let job = start(&running, "sample").await;
            boot(&running, &job).await;
            assert_eq!(running.cache.stats().profile, 0);
            end(running, &job).await;
        });
    }
}
