//! N6: how long it takes until a VM is served, by the size of its disk; N7: what 100 attached disks of
//! 1 TiB take in memory. Run it alone:
//! `cargo test --workspace --lib -- --ignored --nocapture large_disks`

use std::time::{Duration, Instant};

use rekindle_disk::Priority;

use super::world::{Running, World, to_export};
use crate::{Finish, JobId, Mode, RecoveryRequest};

const ROUNDS: usize = 20;
const DISKS: usize = 100;
const TIB: u64 = 1 << 40;
/// Reads here and there of each disk, so that pages of its map are held.
const READS: u64 = 64;

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn start(running: &Running, point: &str) -> (JobId, Duration) {
    let request = RecoveryRequest { point: point.into(), mode: Mode::LiveMount, ..to_export() };
    let began = Instant::now();
    let job = running.jobs.start(request, None).await.unwrap();
    running.serving(&job).await;
    (job, began.elapsed())
}

async fn discard(running: &Running, job: &JobId) {
    running.jobs.finish(job, Finish::Discard).await.unwrap();
    running.end(job).await;
}

#[test]
#[ignore = "a measurement, not a check"]
fn large_disks() {
    let world = World::new();
    for (name, size) in [("10 GiB", 10 << 30), ("10 TiB", 10 * TIB), ("1 TiB", TIB)] {
        world.add_sparse(name, size);
    }
    world.live(async |world| {
        let mut config = world.config();
        config.max_active = 2 * DISKS;
        config.reserve_min_bytes = 0;
        config.reserve_percent_of_vm = 0;
        let running = world.start_with(config).await;
        // In turns, so that what else the machine does slows down both; the first round warms up.
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..=ROUNDS {
            for (at, point) in ["10 GiB", "10 TiB"].into_iter().enumerate() {
                let (job, time) = start(&running, point).await;
                took[at].push(time);
                discard(&running, &job).await;
            }
        }
        for (size, mut took) in ["10 GiB", "10 TiB"].into_iter().zip(took) {
            took.remove(0);
            took.sort_unstable();
            let (p50, p95) = (took[ROUNDS / 2], took[ROUNDS * 95 / 100]);
            eprintln!("a disk of {size} is served after p50 {p50:.2?}, p95 {p95:.2?}");
        }
        let before = resident();
        let mut jobs = Vec::new();
        for _ in 0..DISKS {
            jobs.push(start(&running, "1 TiB").await.0);
        }
        let idle = resident();
        for job in &jobs {
            let disk = running.disk(job, 0);
            for n in 0..READS {
                let at = n * (TIB / READS);
                disk.read(at..at + 4096, Priority::Guest).await.unwrap();
            }
        }
        let read = resident();
        let each = |now: u64| (now.saturating_sub(before)) as f64 / DISKS as f64 / 1024.0;
        eprintln!(
            "{DISKS} disks of 1 TiB: {:.0} KiB each attached, {:.0} KiB after reads all over them; \
             the process has {} MiB",
            each(idle),
            each(read),
            read >> 20
        );
        for job in &jobs {
            discard(&running, job).await;
        }
        running.stop().await;
    });
}
