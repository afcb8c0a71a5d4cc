//! kill -9 of the daemon under a verifying write load: no acknowledged write is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nfs3_client::nfs3_types::nfs3::nfs_fh3;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use super::{
    disk_data::{DISK_BYTES, image, written},
    nfs::Mount,
    process::Site,
    recovery::{Recovered, recover},
};

/// Writers, each with a connection and slots of its own.
const WRITERS: u64 = 4;
/// Bytes of one slot: not a multiple of a page, so that neighbours share pages and grains.
const SLOT: usize = 6000;
/// How long a few hundred writes may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: u64 = DISK_BYTES / SLOT as u64;

/// Rounds; the soak sets more.
fn rounds() -> u64 {
    std::env::var("REKINDLE_KILL_ROUNDS").map_or(5, |text| text.parse().unwrap())
}

/// The version each slot must have at least, and may have at most.
#[derive(Clone, Copy, Default)]
struct Slot {
    acknowledged: u32,
    sent: u32,
}

struct Load {
    acknowledged: AtomicU64,
    enough: u64,
    reached: Notify,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost() {
    let seed = std::env::var("REKINDLE_KILL_SEED").map_or(1, |text| text.parse().unwrap());
    println!("REKINDLE_KILL_SEED={seed}");
    let mut random = Random(seed);
    let site = Site::new();
    site.ingest("web");
    let mut daemon = site.start();
    let recovered = Arc::new(recover(&daemon, &[]));
    let mut slots = vec![Slot::default(); SLOTS as usize];
    for round in 0..rounds() {
        let load = Arc::new(Load {
            acknowledged: AtomicU64::new(0),
            enough: 50 + random.next() % 400,
            reached: Notify::new(),
        });
        let writers = start(daemon.nfs, &recovered, &slots, &load, &mut random);
        timeout(PATIENCE, load.reached.notified()).await.expect("writes are acknowledged");
        daemon.kill();
        for writer in writers {
            for (number, slot) in writer.await.unwrap() {
                slots[number as usize] = slot;
            }
        }
        let killed = Instant::now();
        daemon = site.start();
        verify(daemon.nfs, &recovered, &mut slots, round).await;
        println!("round {round}: back and verified after {:?}", killed.elapsed());
    }
    daemon.cli(&["finish", &recovered.id, "discard", "--watch"]);
    daemon.stop(&[]);
}

type Writer = JoinHandle<Vec<(u64, Slot)>>;

fn start(
    server: SocketAddr,
    recovered: &Arc<Recovered>,
    slots: &[Slot],
    load: &Arc<Load>,
    random: &mut Random,
) -> Vec<Writer> {
    (0..WRITERS)
        .map(|writer| {
            let own = (writer..SLOTS).step_by(WRITERS as usize);
            let own = own.map(|number| (number, slots[number as usize])).collect();
            let random = Random(random.next());
            tokio::spawn(write(server, recovered.clone(), own, load.clone(), random))
        })
        .collect()
}

/// Writes random own slots until the daemon is gone.
async fn write(
    server: SocketAddr,
    recovered: Arc<Recovered>,
    mut own: Vec<(u64, Slot)>,
    load: Arc<Load>,
    mut random: Random,
) -> Vec<(u64, Slot)> {
    let (mut mount, file) = open(server, &recovered).await;
    loop {
        let at = (random.next() % own.len() as u64) as usize;
        let (number, slot) = &mut own[at];
        slot.sent += 1;
        let offset = *number * SLOT as u64;
        if !mount.write(&file, offset, &written(slot.sent, offset, SLOT)).await {
            return own;
        }
        slot.acknowledged = slot.sent;
        if load.acknowledged.fetch_add(1, Ordering::Relaxed) + 1 == load.enough {
            load.reached.notify_one();
        }
    }
}

/// Each slot holds the version that was acknowledged last, or the one that was under way.
async fn verify(server: SocketAddr, recovered: &Recovered, slots: &mut [Slot], round: u64) {
    let (mut mount, file) = open(server, recovered).await;
    for (number, slot) in slots.iter_mut().enumerate() {
        let offset = number as u64 * SLOT as u64;
        let read = mount.read(&file, offset, SLOT).await;
        let found =
            (slot.acknowledged..=slot.sent).find(|version| read == version_of(*version, offset));
        let Some(version) = found else {
            let torn = slot.sent > slot.acknowledged
                && mixture(&read, offset, slot.acknowledged, slot.sent);
            assert!(torn, "round {round}: slot {number} lost version {}", slot.acknowledged);
            // A write that was cut off may be there in part; the next round writes it anew.
            slot.acknowledged = slot.sent;
            rewrite(&mut mount, &file, offset, slot).await;
            continue;
        };
        *slot = Slot { acknowledged: version, sent: version };
    }
}

async fn rewrite(mount: &mut Mount, file: &nfs_fh3, offset: u64, slot: &mut Slot) {
    slot.sent += 1;
    assert!(mount.write(file, offset, &written(slot.sent, offset, SLOT)).await);
    slot.acknowledged = slot.sent;
}

fn version_of(version: u32, offset: u64) -> Vec<u8> {
    if version == 0 { image(offset, SLOT) } else { written(version, offset, SLOT) }
}

/// Whether every sector is of the one version or of the other.
fn mixture(read: &[u8], offset: u64, old: u32, new: u32) -> bool {
    let (old, new) = (version_of(old, offset), version_of(new, offset));
    let mut at = 0;
    while at < SLOT {
        let end = SLOT.min(at + 512 - ((offset as usize + at) % 512));
        if read[at..end] != old[at..end] && read[at..end] != new[at..end] {
            return false;
        }
        at = end;
    }
    true
}

async fn open(server: SocketAddr, recovered: &Recovered) -> (Mount, nfs_fh3) {
    let mut mount = Mount::new(server, &recovered.path).await;
    let file = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    (mount, file)
}

/// A small generator (xorshift64*), so that a seed replays a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}
