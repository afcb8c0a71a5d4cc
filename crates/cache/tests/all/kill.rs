//! A real process, really killed: what it wrote to the ring serves the next one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rekindle_cache::{Cache, Priority};

use crate::{Fetches, block, ring_only, warm};

const DIR: &str = "REKINDLE_CACHE_KILL_DIR";
const RING: u64 = 4 << 20;

/// Not a test of its own: the process that `a_killed_process_leaves_a_warm_ring` kills.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let cache = Cache::open(ring_only(Path::new(&dir), RING)).unwrap();
        for key in 0.. {
            Fetches::default().get(&cache, &block(key), Priority::Scan).await;
            if key % 8 == 0 {
                cache.settle().await;
                println!("\nsettled {key}");
            }
        }
    });
}

/// Kills a victim that has settled block `key` or a later one; says which was the last.
fn kill_after(dir: &Path, key: u64) -> u64 {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::victim", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut settled = lines.filter_map(|line| line.strip_prefix("settled ")?.parse::<u64>().ok());
    assert!(settled.any(|settled| settled >= key), "the victim ended by itself");
    victim.kill().unwrap();
    // What it said between our reading and its death.
    let last = settled.last().unwrap_or(key);
    victim.wait().unwrap();
    last
}

#[tokio::test]
async fn a_killed_process_leaves_a_warm_ring() {
    for key in [8, 48, 504, 776] {
        let dir = tempfile::tempdir().unwrap();
        let last = kill_after(dir.path(), key);
        let cache = Cache::open(ring_only(dir.path(), RING)).unwrap();
        cache.settle().await;
        // The ring holds at least a hundred blocks, of which the newest few may be newer than this.
        let newest = last.saturating_sub(50)..last;
        let count = (newest.end - newest.start) as usize;
        assert_eq!(warm(&cache, newest).await, count, "killed after {last}");
        // Each that is left is checked against its key.
        warm(&cache, 0..last).await;
        assert_eq!(cache.stats().bad_slots, 0);
    }
}
