//! N9: what a guest waits for its reads beside a mover, against without, in one run. Run it alone:
//! `cargo test --workspace --lib -- --ignored --nocapture guest_beside_mover`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rekindle_disk::{Disk, Priority};

use super::rate::image;
use super::world::{Running, World, to_directory, to_export};
use crate::{Finish, JobId, RecoveryRequest};

const SIZE: u64 = 1 << 30;
/// Reads of the guest at once.
const DEPTH: u64 = 4;
const ALONE: Duration = Duration::from_secs(6);
const ROUNDS: usize = 3;

/// Reads 4 KiB here and there until it is told to end; how long each took.
async fn guest(disk: Arc<Disk>, seed: u64, end: Arc<AtomicBool>) -> Vec<Duration> {
    let (mut state, mut took) = (seed, Vec::new());
    while !end.load(Ordering::Relaxed) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (state >> 20) % (SIZE / 4096) * 4096;
        let asked = Instant::now();
        if disk.try_read(at..at + 4096).is_none() {
            disk.read(at..at + 4096, Priority::Guest).await.unwrap();
        }
        took.push(asked.elapsed());
        tokio::task::yield_now().await;
    }
    took
}

struct Guests {
    end: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Duration>>>,
}

impl Guests {
    fn start(disk: &Arc<Disk>, round: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let read = |n| tokio::spawn(guest(disk.clone(), round as u64 * DEPTH + n, end.clone()));
        let tasks = (0..DEPTH).map(read).collect();
        Self { end, tasks }
    }

    /// The p50 and p99 of their reads, and how many.
    async fn end(self) -> (Duration, Duration, usize) {
        self.end.store(true, Ordering::Relaxed);
        let mut took = Vec::new();
        for task in self.tasks {
            took.extend(task.await.unwrap());
        }
        took.sort_unstable();
        (took[took.len() / 2], took[took.len() * 99 / 100], took.len())
    }
}

async fn start(running: &Running) -> JobId {
    let request = RecoveryRequest { point: "big".into(), ..to_export() };
    let job = running.jobs.start(request, None).await.unwrap();
    running.serving(&job).await;
    job
}

#[test]
#[ignore = "a measurement, not a check"]
fn guest_beside_mover() {
    let world = World::of_image(&image(SIZE));
    world.live(async |world| {
        let mut config = world.config();
        config.boot_profile = Duration::ZERO;
        let running = world.start_with(config).await;
        let served = start(&running).await;
        let disk = running.disk(&served, 0);
        for round in 0..ROUNDS {
            let guests = Guests::start(&disk, 2 * round);
            tokio::time::sleep(ALONE).await;
            let alone = guests.end().await;
            let moved = start(&running).await;
            let (out, began) = (format!("out-{round}"), Instant::now());
            let guests = Guests::start(&disk, 2 * round + 1);
            running.jobs.finish(&moved, to_directory(world, &out)).await.unwrap();
            running.end(&moved).await;
            let (beside, rate) = (guests.end().await, SIZE as f64 / began.elapsed().as_secs_f64());
            eprintln!(
                "round {round}: alone p50 {:.2?} p99 {:.2?} of {} reads; beside p50 {:.2?} p99 {:.2?} \
                 of {}: {:.2} x; copied and verified at {:.0} MiB/s",
                alone.0,
                alone.1,
                alone.2,
                beside.0,
                beside.1,
                beside.2,
                beside.1.as_secs_f64() / alone.1.as_secs_f64(),
                rate / f64::from(1 << 20),
            );
            std::fs::remove_dir_all(world.path(&out)).unwrap();
        }
        running.jobs.finish(&served, Finish::Discard).await.unwrap();
        running.end(&served).await;
        running.stop().await;
    });
}
