//! Ingests a VM or disk image into a new repository, checks it, reads it back, and says how fast each was:
//! `cargo run --release -p rekindle-repo --example ingest -- SOURCE NEW-DIRECTORY`.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rekindle_block::BlockIdx;
use rekindle_repo::{
    CheckOptions, CheckProgress, CreateOptions, DiskMap, IngestOptions, IngestProgress, MapEntry,
    RepoError, Repository, check, ingest,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, source, dir] = &arguments[..] else {
        return Err("usage: ingest SOURCE NEW-DIRECTORY".into());
    };
    let repository = Repository::create(Path::new(dir), &CreateOptions::default())?;
    let never = AtomicBool::new(false);
    for round in ["ingest", "ingest again"] {
        let progress = IngestProgress::default();
        let started = Instant::now();
        let report =
            ingest(&repository, Path::new(source), &IngestOptions::default(), &progress, &never)?;
        say(round, report.counts.total, started);
        println!("  {:?}", report.counts);
    }
    let started = Instant::now();
    let report = check(&repository, &CheckOptions::default(), &CheckProgress::default(), &never)?;
    say("check (stored bytes)", report.stored_bytes, started);
    assert!(report.is_sound(), "{:?}", report.problems);
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    runtime.block_on(read_back(&repository))
}

async fn read_back(repository: &Repository) -> Result<(), Box<dyn std::error::Error>> {
    let listing = repository.points().await?;
    let point = listing.points.first().ok_or("no point")?;
    for index in 0..point.disks.len() {
        let map = repository.open_disk(point, index).await?;
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for lane in 0..4 {
            tasks.spawn(read_lane(map.clone(), lane, 4));
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        say("read back, 4 at a time", map.size(), started);
    }
    Ok(())
}

async fn read_lane(map: DiskMap, lane: u64, lanes: usize) -> Result<(), RepoError> {
    for idx in (lane..map.block_size().count(map.size())).step_by(lanes) {
        if let MapEntry::Stored(block) = map.entry(BlockIdx(idx)).await? {
            map.read_block(&block).await?;
        }
    }
    Ok(())
}

fn say(what: &str, bytes: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} MiB/s ({seconds:.2} s)", bytes as f64 / seconds / f64::from(1 << 20));
}
