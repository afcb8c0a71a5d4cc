//! A process that is killed while it writes loses nothing that it was told is durable.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rekindle_disk::{Base, Disk, DiskId, Disks, DisksConfig, Priority, concat};
use rekindle_state::Database;

const SLOT: u64 = 6000;
const SLOTS: u64 = 64;
const SIZE: u64 = SLOT * SLOTS;
const DIR: &str = "REKINDLE_DISK_KILL_DIR";

fn open(dir: &Path) -> (Arc<Disks>, Arc<Disk>) {
    let db = Database::open(&dir.join("db")).unwrap();
    let config = DisksConfig { journal_bytes: 1 << 20 };
    let disks = Disks::open(&dir.join("overlay"), &db, config).unwrap();
    let id = DiskId::new("disk").unwrap();
    disks.create(&id, SIZE).unwrap();
    let disk = disks.attach(&id, Base::Empty { size: SIZE }).unwrap();
    (disks, disk)
}

fn bytes(slot: u64, version: u64) -> Vec<u8> {
    [slot.to_le_bytes(), version.to_le_bytes()].concat().repeat(SLOT as usize / 16)
}

/// The version that a slot holds, which must be there as a whole.
async fn version(disk: &Disk, slot: u64) -> u64 {
    let found = disk.read(slot * SLOT..(slot + 1) * SLOT, Priority::Guest).await.unwrap();
    let found = concat(&found);
    let version = u64::from_le_bytes(found[8..16].try_into().unwrap());
    assert!(version == 0 || found[..] == bytes(slot, version), "slot {slot} is torn");
    version
}

/// The child: writes until it is killed, and tells what was acknowledged.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let (_disks, disk) = open(Path::new(&dir));
        let writers = (0..8u64).map(|writer| {
            let disk = disk.clone();
            tokio::spawn(async move {
                for round in 0u64.. {
                    let slot = (round * 8 + writer) % SLOTS;
                    let next = version(&disk, slot).await + 1;
                    disk.write(slot * SLOT, bytes(slot, next).into()).await.unwrap();
                    writeln!(std::io::stdout(), "\nack {slot} {next}").unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

/// Runs the child until it has acknowledged `count` writes, kills it, and notes what it said.
fn run_and_kill(dir: &Path, count: usize, acknowledged: &mut [u64]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = 0;
    for line in lines.map_while(Result::ok) {
        let Some(ack) = line.strip_prefix("ack ") else { continue };
        // The last line may be cut off by the kill.
        let numbers: Vec<u64> = ack.split(' ').filter_map(|n| n.parse().ok()).collect();
        if let [slot, version] = numbers[..]
            && told < count
        {
            let known = &mut acknowledged[slot as usize];
            *known = version.max(*known);
            told += 1;
            if told == count {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert_eq!(told, count, "the child ended by itself");
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut acknowledged = vec![0; SLOTS as usize];
    for round in 0..6 {
        run_and_kill(dir.path(), 40 + 97 * round, &mut acknowledged);
        runtime.block_on(async {
            let (_disks, disk) = open(dir.path());
            for slot in 0..SLOTS {
                let (found, least) = (version(&disk, slot).await, acknowledged[slot as usize]);
                assert!(found >= least, "slot {slot} has {found}, {least} was acknowledged");
            }
        });
    }
}
