//! Measures durable writes and inline reads of one disk, beside what the device does by itself.
//!
//! `cargo run --release -p rekindle-disk --example bench [DIR] [SECONDS]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rekindle_disk::{Base, Disk, DiskId, Disks, DisksConfig};
use rekindle_state::Database;

const DISK: u64 = 8 << 30;
/// Of what is compared with the device alone, in turn.
const ROUNDS: usize = 5;
/// Where the random writes go: as large as nfsbench's file.
const AREA: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| PathBuf::from("bench-overlay"), PathBuf::from);
    let seconds = args.next().map_or(Ok(3), |s| s.parse())?;
    let time = Duration::from_secs(seconds);
    std::fs::create_dir_all(&dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let db = Database::open(&dir.join("db"))?;
    let started = Instant::now();
    let disks = Disks::open(&dir.join("overlay"), &db, DisksConfig::default())?;
    println!("open                           {:8.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let id = DiskId::new("bench")?;
    disks.discard(&id)?;
    disks.create(&id, DISK)?;
    let disk = disks.attach(&id, Base::Empty { size: DISK })?;
    println!("device  8 KiB pwrite+fdatasync {:8.0} /s", device(&dir, 8 << 10, time)?);
    println!("device 68 KiB pwrite+fdatasync {:8.0} /s", device(&dir, 68 << 10, time)?);
    let load = |depth, len, order| runtime.block_on(load(&disk, depth, len, order, time));
    report("4 KiB random, depth 1, new", load(1, 4096, Order::Random));
    report("4 KiB random, depth 32, new", load(32, 4096, Order::Random));
    report("4 KiB random, depth 32, again", load(32, 4096, Order::Random));
    report("4 KiB random, depth 1, again", load(1, 4096, Order::Random));
    let mut beside = Vec::new();
    for _ in 0..ROUNDS {
        let alone = device(&dir, 4096, time)?;
        beside.push(alone / load(1, 4096, Order::Random).rate);
    }
    beside.sort_by(f64::total_cmp);
    println!(
        "a write of 4 KiB at depth 1 takes {:.2} times as long as one pwrite and fdatasync ({ROUNDS} rounds: {beside:.2?})",
        beside[ROUNDS / 2]
    );
    report("64 KiB sequential, depth 16", load(16, 64 << 10, Order::Sequential));
    report("1 MiB sequential, depth 8", load(8, 1 << 20, Order::Sequential));
    inline(&disk, "4 KiB of the overlay", 0..AREA, 4096);
    inline(&disk, "64 KiB of the overlay", 0..AREA, 64 << 10);
    inline(&disk, "4 KiB never written", DISK - AREA..DISK, 4096);
    println!("{:?}", disks.stats());
    let started = Instant::now();
    disks.discard(&id)?;
    println!("discard                        {:8.1} ms", started.elapsed().as_secs_f64() * 1e3);
    drop(disk);
    disks.close()?;
    drop((disks, db));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Order {
    Random,
    Sequential,
}

/// What the device itself does with writes of `len` bytes, one at a time, past the page cache.
fn device(dir: &Path, len: usize, time: Duration) -> Result<f64, Box<dyn Error>> {
    use rustix::fs::{Mode, OFlags};
    const FILE: u64 = 64 << 20;
    let path = dir.join("device");
    std::fs::write(&path, vec![1; FILE as usize])?;
    let file = rustix::fs::open(&path, OFlags::RDWR | OFlags::DIRECT, Mode::empty())?;
    rustix::fs::fsync(&file)?;
    let memory = vec![7; len + 4096];
    let aligned = &memory[memory.as_ptr().addr().wrapping_neg() % 4096..][..len];
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < time {
        rustix::io::pwrite(&file, aligned, count * len as u64 % (FILE - len as u64) / 4096 * 4096)?;
        rustix::fs::fdatasync(&file)?;
        count += 1;
    }
    std::fs::remove_file(&path)?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// What one load did.
struct Load {
    rate: f64,
    slowest: Duration,
    /// Of this whole process, for each write.
    cpu_us: f64,
}

/// Microseconds of CPU that this process has used.
fn cpu_us() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0.0, |u| (u.user_time() + u.system_time()).num_microseconds() as f64)
}

async fn load(disk: &Arc<Disk>, depth: u64, len: u64, order: Order, time: Duration) -> Load {
    let (next, cpu) = (Arc::new(AtomicU64::new(0)), cpu_us());
    let started = Instant::now();
    let writers: Vec<_> = (0..depth)
        .map(|_| {
            let (disk, next) = (disk.clone(), next.clone());
            tokio::spawn(async move {
                let data = bytes::Bytes::from(vec![0xA5; len as usize]);
                let (mut count, mut worst) = (0u64, Duration::ZERO);
                while started.elapsed() < time {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let slot = match order {
                        Order::Sequential => i,
                        Order::Random => i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24,
                    };
                    let began = Instant::now();
                    if let Err(error) = disk.write(slot % (AREA / len) * len, data.clone()).await {
                        eprintln!("write: {error}");
                        break;
                    }
                    worst = worst.max(began.elapsed());
                    count += 1;
                }
                (count, worst)
            })
        })
        .collect();
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for writer in writers {
        if let Ok((wrote, worst)) = writer.await {
            count += wrote;
            slowest = slowest.max(worst);
        }
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    Load { rate, slowest, cpu_us: (cpu_us() - cpu) / count as f64 }
}

fn report(what: &str, load: Load) {
    let slowest = load.slowest.as_secs_f64() * 1e3;
    println!(
        "{what:30} {:8.0} /s   {:5.1} us CPU   slowest {slowest:.1} ms",
        load.rate, load.cpu_us
    );
}

/// Inline reads: how long one takes, and how many could not be answered so.
fn inline(disk: &Disk, what: &str, area: std::ops::Range<u64>, len: u64) {
    const READS: u64 = 200_000;
    let slots = (area.end - area.start) / len;
    let (mut missed, mut bytes) = (0, 0);
    let started = Instant::now();
    for i in 0..READS {
        let at = area.start + (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24) % slots * len;
        match disk.try_read(at..at + len) {
            Some(Ok(segments)) => bytes += segments.iter().map(bytes::Bytes::len).sum::<usize>(),
            Some(Err(_)) | None => missed += 1,
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / READS as f64;
    println!("try_read {what:21} {each:8.2} us   {missed} not at hand, {bytes} bytes");
}
