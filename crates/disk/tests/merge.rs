//! Frozen layers are merged: a disk can be frozen for ever, and nobody who reads sees that.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_disk::{
    Base, Disk, DiskError, DiskId, Disks, DisksConfig, FailedCommit, Faults, FaultyStorage,
    LAYERS_MAX, Layer, Priority, concat, pattern_byte,
};
use rekindle_state::Database;

const SIZE: u64 = 40 * 4096 + 100;
const BASE: u64 = 30 * 4096 + 9;
const SEED: u8 = 8;
const CONFIG: DisksConfig = DisksConfig { journal_bytes: 256 << 10 };
const DIR: &str = "/overlay";

fn id(name: &str) -> DiskId {
    DiskId::new(name).unwrap()
}

fn base() -> Base {
    Base::Pattern { seed: SEED, size: BASE }
}

fn open(storage: &FaultyStorage) -> Arc<Disks> {
    Disks::open_faulty(storage, Path::new(DIR), CONFIG).unwrap()
}

fn fresh() -> Vec<u8> {
    (0..SIZE).map(|at| if at < BASE { pattern_byte(SEED, at) } else { 0 }).collect()
}

async fn read(disk: &Disk) -> Vec<u8> {
    concat(&disk.read(0..disk.size(), Priority::Guest).await.unwrap()).to_vec()
}

async fn write(disk: &Disk, at: u64, bytes: Vec<u8>, model: &mut [u8]) {
    model[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
    disk.write(at, bytes.into()).await.unwrap();
}

async fn freeze(disks: &Arc<Disks>, disk: &Arc<Disk>) -> Arc<Layer> {
    disks.freeze(std::slice::from_ref(disk)).await.unwrap().remove(0)
}

/// Writes something else each time: data, parts of grains, and zeros over what was there.
async fn write_some(disk: &Disk, n: u64, model: &mut [u8]) {
    write(disk, n % 37 * 4096, vec![n as u8 | 1; 4096], model).await;
    write(disk, (n * 7919) % (SIZE - 700), vec![(n >> 3) as u8 | 1; 700], model).await;
    write(disk, (n + 3) % 39 * 4096, vec![0; 4096], model).await;
}

/// The grains that were written, and whether they are zeros.
fn grains(disk: &Disk) -> Vec<(u64, bool)> {
    let all = disk.written(0);
    all.flat_map(|one| one.range.step_by(4096).map(move |at| (at, one.zeros))).collect()
}

#[tokio::test]
async fn a_disk_is_frozen_for_ever_and_each_moment_is_read_on() {
    let storage = FaultyStorage::default();
    let disks = open(&storage);
    disks.create(&id("a"), SIZE).unwrap();
    let disk = disks.attach(&id("a"), base()).unwrap();
    let (mut model, mut moments) = (fresh(), Vec::new());
    for n in 0..5 * LAYERS_MAX as u64 {
        write_some(&disk, n, &mut model).await;
        let layer = freeze(&disks, &disk).await;
        assert!(read(&disk).await == model);
        moments.push((disk.frozen(&layer), model.clone()));
        assert!(storage.files_below(Path::new(DIR)).len() <= LAYERS_MAX + 1);
    }
    for (n, (moment, wanted)) in moments.iter().enumerate() {
        let found = concat(&moment.read(0..moment.size(), Priority::Guest).await.unwrap());
        assert!(found[..] == wanted[..], "moment {n}");
    }
    let told = grains(&disk);
    assert_eq!(disks.merge_layers(1).unwrap(), LAYERS_MAX - 1);
    assert!(grains(&disk) == told, "what was written is known");
    assert_eq!(storage.files_below(Path::new(DIR)).len(), 2);
    assert!(read(&disk).await == model);
    drop((disk, disks));
    let disks = open(&storage.after_cut(1));
    assert!(read(&disks.attach(&id("a"), base()).unwrap()).await == model);
}

/// What was written since a layer was frozen is told, whether or not it is still a layer of its own.
#[tokio::test]
async fn what_was_written_since_a_merged_layer_is_not_missed() {
    let storage = FaultyStorage::default();
    let disks = open(&storage);
    disks.create(&id("a"), SIZE).unwrap();
    let disk = disks.attach(&id("a"), base()).unwrap();
    let mut layers = Vec::new();
    for n in 0..4 {
        disk.write(n * 8192, vec![1; 4096].into()).await.unwrap();
        layers.push(freeze(&disks, &disk).await);
    }
    disks.merge_layers(2).unwrap();
    for (n, layer) in layers.iter().enumerate() {
        let told: Vec<u64> = disk.written_since(Some(layer), 0).map(|w| w.range.start).collect();
        for later in n as u64 + 1..4 {
            assert!(told.contains(&(later * 8192)), "{later} since {n}: {told:?}");
        }
    }
    assert!(disk.written_since(layers.last().map(|layer| &**layer), 0).next().is_none());
}

/// Bytes behind the end that the disk had when a lower layer was frozen are zeros, whatever an interrupted write left there.
#[tokio::test]
async fn a_disk_that_grew_has_zeros_where_a_lower_layer_ended() {
    for seed in 0..40 {
        let storage = FaultyStorage::default();
        let disks = open(&storage);
        disks.create(&id("a"), 5000).unwrap();
        let empty = Base::Empty { size: 5000 };
        let disk = disks.attach(&id("a"), empty.clone()).unwrap();
        let mut model = vec![0; 8192];
        write(&disk, 4096, vec![1; 904], &mut model).await;
        freeze(&disks, &disk).await;
        disk.set_size(8192).await.unwrap();
        // The second step writes the grain where it is not to be seen, the third would write the journal.
        storage.set_faults(Faults { cut_at: Some(storage.steps() + 1), ..Faults::default() });
        assert!(disk.write(4096, vec![0xEE; 4095].into()).await.is_err());
        drop((disk, disks));
        let storage = storage.after_cut(seed);
        let disks = open(&storage);
        let disk = disks.attach(&id("a"), empty).unwrap();
        let found = read(&disk).await;
        if found != model {
            // It is there as a whole then.
            model[4096..8191].fill(0xEE);
            assert!(found == model, "seed {seed}");
        }
        write(&disk, 0, vec![3; 512], &mut model).await;
        freeze(&disks, &disk).await;
        assert_eq!(disks.merge_layers(1).unwrap(), 1);
        assert!(read(&disk).await == model, "seed {seed}: after the merge");
    }
}

#[tokio::test]
async fn without_space_nothing_is_merged_and_later_all_is() {
    let room = 40 * 4096;
    let storage = FaultyStorage::new(Faults { room: Some(room), ..Faults::default() });
    let disks = open(&storage);
    disks.create(&id("a"), SIZE).unwrap();
    let disk = disks.attach(&id("a"), base()).unwrap();
    let mut model = fresh();
    for n in 0..3 {
        // One by one, so that some are copied before there is no room.
        for grain in (0..10).map(|grain| 3 * grain + n) {
            write(&disk, grain * 4096, vec![n as u8 + 1; 4096], &mut model).await;
        }
        freeze(&disks, &disk).await;
    }
    write(&disk, 30 * 4096, vec![9; 4 * 4096], &mut model).await;
    let used = disk.allocated_bytes().unwrap();
    let free = disks.space().unwrap().free;
    assert!(free < 10 * 4096, "there is room for a part");
    assert!(matches!(disks.merge_layers(1), Err(DiskError::Full)));
    assert_eq!((disk.allocated_bytes().unwrap(), disks.space().unwrap().free), (used, free));
    assert!(read(&disk).await == model);
    // The guest's own writes still find the room that there is.
    write(&disk, 34 * 4096, vec![8; 4096], &mut model).await;
    storage.set_faults(Faults::default());
    assert_eq!(disks.merge_layers(1).unwrap(), 2);
    assert!(read(&disk).await == model);
    assert_eq!(disk.allocated_bytes().unwrap(), 35 * 4096, "no byte is kept twice");
}

/// A commit of which nobody knows whether it was made is made again, and nothing is built on it meanwhile.
#[tokio::test]
async fn a_merge_whose_commit_fails_is_made_again() {
    for what in [FailedCommit::Made, FailedCommit::Lost] {
        // The first commit keeps the marks, the second merges.
        for first in [0, 1] {
            let storage = FaultyStorage::default();
            let disks = open(&storage);
            disks.create(&id("a"), SIZE).unwrap();
            let disk = disks.attach(&id("a"), base()).unwrap();
            let (mut model, mut layers) = (fresh(), Vec::new());
            for n in 0..4 {
                write_some(&disk, n * 5, &mut model).await;
                layers.push(freeze(&disks, &disk).await);
            }
            let failed = Faults { fail_commits: Some((first, what)), ..Faults::default() };
            storage.set_faults(failed);
            assert!(disks.merge_layers(3).is_err());
            storage.set_faults(Faults::default());
            assert!(read(&disk).await == model);
            let forked = (0..4).map(|n| disks.fork(&id(&format!("fork-{n}")), &layers[n]));
            let forked: Vec<_> = forked.map(|forked| forked.is_ok()).collect();
            assert_eq!(forked.iter().filter(|ok| !**ok).count() as u64, first, "{forked:?}");
            let cut = storage.after_cut(3);
            let again = open(&cut);
            for fork in again.list() {
                let fork = again.attach(&fork, base());
                read(&fork.unwrap()).await;
            }
            assert!(read(&again.attach(&id("a"), base()).unwrap()).await == model);
            drop(again);
            write_some(&disk, 17, &mut model).await;
            freeze(&disks, &disk).await;
            (0..4).for_each(|n| disks.discard(&id(&format!("fork-{n}"))).unwrap());
            disks.merge_layers(1).unwrap();
            assert!(read(&disk).await == model);
            drop((disk, disks, layers));
            let disks = open(&storage.after_cut(5));
            assert!(read(&disks.attach(&id("a"), base()).unwrap()).await == model);
        }
    }
}

/// On real files it happens by itself.
#[tokio::test]
async fn layers_are_merged_in_the_background_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    let folders = || {
        let all = std::fs::read_dir(&path).unwrap().flatten();
        all.filter(|entry| entry.path().is_dir()).count()
    };
    let few = || {
        let begun = Instant::now();
        while folders() > 5 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} folders", folders());
            std::thread::yield_now();
        }
    };
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    disks.create(&id("a"), SIZE).unwrap();
    let disk = disks.attach(&id("a"), base()).unwrap();
    let (mut model, mut moments) = (fresh(), Vec::new());
    for n in 0..2 * LAYERS_MAX as u64 {
        write_some(&disk, n, &mut model).await;
        let layer = freeze(&disks, &disk).await;
        moments.push((disk.frozen(&layer), model.clone()));
    }
    few();
    // Pinned as deep as can be, then let go: the next open merges.
    for n in 0..4 {
        write_some(&disk, n * 3, &mut model).await;
        let layer = freeze(&disks, &disk).await;
        disks.fork(&id(&format!("pin-{n}")), &layer).unwrap();
    }
    assert!(read(&disk).await == model);
    for (moment, wanted) in &moments {
        let found = concat(&moment.read(0..moment.size(), Priority::Guest).await.unwrap());
        assert!(found[..] == wanted[..]);
    }
    drop((moments, disk));
    disks.close().unwrap();
    (0..4).for_each(|n| disks.discard(&id(&format!("pin-{n}"))).unwrap());
    drop(disks);
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    few();
    assert!(read(&disks.attach(&id("a"), base()).unwrap()).await == model);
}
