//! What breaks is seen, said, and contained.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_disk::{
    Base, Disk, DiskError, DiskId, Disks, DisksConfig, FailedCommit, Faults, FaultyStorage,
    Priority, concat,
};
use rekindle_state::Database;

const SIZE: u64 = 40 * 4096;
const CONFIG: DisksConfig = DisksConfig { journal_bytes: 256 << 10 };
const DIR: &str = "/overlay";

fn id(name: &str) -> DiskId {
    DiskId::new(name).unwrap()
}

fn open(storage: &FaultyStorage) -> Result<Arc<Disks>, DiskError> {
    Disks::open_faulty(storage, Path::new(DIR), CONFIG)
}

fn disk(disks: &Disks, name: &str) -> Arc<Disk> {
    disks.create(&id(name), SIZE).unwrap();
    disks.attach(&id(name), Base::Empty { size: SIZE }).unwrap()
}

async fn read(disk: &Disk, at: u64, len: u64) -> Vec<u8> {
    concat(&disk.read(at..at + len, Priority::Guest).await.unwrap()).to_vec()
}

async fn put(disk: &Disk, grain: u64, byte: u8) -> Result<(), DiskError> {
    disk.write(grain * 4096, vec![byte; 4096].into()).await
}

/// Invariant 6: a sync that failed is not tried again, and nothing after it is acknowledged, even
/// though the device would now say that all is well.
#[tokio::test]
async fn a_failed_sync_stops_all_writes_until_the_next_open() {
    let storage = FaultyStorage::default();
    let disks = open(&storage).unwrap();
    let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
    put(&a, 0, 1).await.unwrap();
    put(&a, 1, 1).await.unwrap();
    // Four syncs made the segments and two more the writes; the next one fails.
    storage.set_faults(Faults { fail_journal_sync: Some(6), ..Faults::default() });
    assert!(matches!(put(&a, 0, 2).await, Err(DiskError::Stopped(_))));
    storage.set_faults(Faults::default());
    assert!(matches!(put(&a, 1, 2).await, Err(DiskError::Stopped(_))));
    assert!(matches!(put(&b, 0, 2).await, Err(DiskError::Stopped(_))), "another disk's write");
    assert!(matches!(disks.checkpoint(), Err(DiskError::Stopped(_))));
    assert!(matches!(a.flush().await, Err(DiskError::Stopped(_))));
    assert!(disks.stats().stopped);
    assert_eq!(read(&a, 0, 8192).await, [1; 8192], "reads go on");
    drop((a, b, disks));
    let disks = open(&storage.after_cut(1)).unwrap();
    let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
    let found = read(&a, 0, 4096).await;
    assert!(found == [1; 4096] || found == [2; 4096], "old or new");
    assert_eq!(read(&a, 4096, 4096).await, [1; 4096]);
    assert_eq!(read(&b, 0, 4096).await, [0; 4096]);
    put(&a, 1, 3).await.unwrap();
}

/// What a failed sync of a data file lost is not served, and is there again after the next open.
#[tokio::test]
async fn a_failed_sync_of_the_data_is_replayed_and_not_guessed_at() {
    for grow in [false, true] {
        let storage = FaultyStorage::default();
        let disks = open(&storage).unwrap();
        let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
        put(&a, 0, 1).await.unwrap();
        storage.set_faults(Faults { fail_data_sync: true, ..Faults::default() });
        match grow {
            true => assert!(a.set_size(SIZE + 1).await.is_err()),
            false => assert!(disks.checkpoint().is_err()),
        }
        storage.set_faults(Faults::default());
        assert!(matches!(a.read(0..1, Priority::Guest).await, Err(DiskError::Stopped(_))));
        assert!(a.try_read(0..1).unwrap().is_err());
        assert!(matches!(put(&b, 0, 1).await, Err(DiskError::Stopped(_))));
        assert_eq!(read(&b, 0, 4096).await, [0; 4096], "the other disk can be vouched for");
        drop((a, b, disks));
        let disks = open(&storage.after_cut(0)).unwrap();
        assert_eq!(read(&disk(&disks, "a"), 0, 4096).await, [1; 4096]);
    }
}

/// The sync behind a failed write-back succeeds: only the write-back tells that something is lost.
#[tokio::test]
async fn a_failed_write_back_is_replayed_though_the_sync_behind_it_succeeds() {
    const MIB: usize = 1 << 20;
    let config = DisksConfig { journal_bytes: 32 << 20 };
    let storage = FaultyStorage::default();
    let disks = Disks::open_faulty(&storage, Path::new(DIR), config).unwrap();
    let a = large_disk(&disks);
    storage.set_faults(Faults { fail_write_back: true, ..Faults::default() });
    let mut model = vec![0; 16 * MIB];
    let mut refused = None;
    // Twice what the journal holds: it stops at the latest when the last segment is full.
    for n in 0..64 {
        let (at, data) = (n % 16 * MIB, vec![n as u8 + 1; MIB]);
        match a.write(at as u64, data.clone().into()).await {
            Ok(()) => model[at..at + MIB].copy_from_slice(&data),
            Err(error) => {
                assert!(matches!(error, DiskError::Stopped(_)), "{error}");
                refused = Some(at..at + MIB);
                break;
            }
        }
    }
    let refused = refused.expect("writes stop");
    assert!(disks.stats().stopped);
    assert!(matches!(a.read(0..1, Priority::Guest).await, Err(DiskError::Stopped(_))));
    drop((a, disks));
    let disks = Disks::open_faulty(&storage.after_cut(0), Path::new(DIR), config).unwrap();
    let mut found = read(&large_disk(&disks), 0, model.len() as u64).await;
    // What was refused may be there or not.
    found[refused.clone()].copy_from_slice(&model[refused]);
    assert!(found == model);
}

/// Such a sync would succeed after a failure that only the write-back is told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sync_comes_beside_a_write_back() {
    let slow = Faults { slow_write_back: Duration::from_millis(2), ..Faults::default() };
    let storage = FaultyStorage::new(slow);
    let disks =
        Disks::open_faulty(&storage, Path::new(DIR), DisksConfig { journal_bytes: 32 << 20 });
    let disks = disks.unwrap();
    let a = large_disk(&disks);
    let writer = tokio::spawn({
        let a = a.clone();
        async move {
            for n in 0..96 {
                a.write((n % 16) << 20, vec![n as u8; 1 << 20].into()).await.unwrap();
            }
        }
    });
    let mut checkpoints = 0;
    while !writer.is_finished() {
        if storage.write_backs().under_way == 0 {
            tokio::task::yield_now().await;
            continue;
        }
        let disks = disks.clone();
        tokio::task::spawn_blocking(move || disks.checkpoint()).await.unwrap().unwrap();
        checkpoints += 1;
    }
    writer.await.unwrap();
    assert!(checkpoints > 0, "a write-back was under way");
    assert_eq!(storage.write_backs().met, 0, "of {checkpoints} checkpoints");
}

fn large_disk(disks: &Disks) -> Arc<Disk> {
    let size = 16 << 20;
    disks.create(&id("large"), size).unwrap();
    disks.attach(&id("large"), Base::Empty { size }).unwrap()
}

/// Nobody knows which overlay the next open finds: what would be acknowledged now could be another's then.
#[tokio::test]
async fn a_freeze_whose_commit_fails_stops_all_writes_until_the_next_open() {
    for found in [FailedCommit::Made, FailedCommit::Lost] {
        let storage = FaultyStorage::default();
        let disks = open(&storage).unwrap();
        let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
        put(&a, 0, 1).await.unwrap();
        put(&b, 0, 1).await.unwrap();
        // The commit of the freeze is the only one that is left to make.
        disks.checkpoint().unwrap();
        storage.set_faults(Faults { fail_commits: Some((0, found)), ..Faults::default() });
        assert!(disks.freeze(std::slice::from_ref(&a)).await.is_err());
        storage.set_faults(Faults::default());
        let mut models = [[1; 4096], [1; 4096]];
        for (disk, model) in [&a, &b].into_iter().zip(&mut models) {
            let answer = put(disk, 0, 2).await;
            if answer.is_ok() {
                model.fill(2);
            }
            assert!(matches!(answer, Err(DiskError::Stopped(_))), "{found:?}: {answer:?}");
            assert_eq!(read(disk, 0, 4096).await, [1; 4096], "reads go on");
        }
        assert!(disks.freeze(std::slice::from_ref(&b)).await.is_err());
        drop((a, b, disks));
        let disks = open(&storage.after_cut(0)).unwrap();
        for (name, model) in ["a", "b"].into_iter().zip(models) {
            let disk = disk(&disks, name);
            assert_eq!(read(&disk, 0, 4096).await, model, "{name}: {found:?}");
            put(&disk, 0, 3).await.unwrap();
            assert_eq!(read(&disk, 0, 4096).await, [3; 4096]);
        }
    }
}

/// Invariant 7.
#[tokio::test]
async fn a_full_file_system_refuses_the_write_and_nothing_else() {
    let storage = FaultyStorage::new(Faults { room: Some(8 * 4096), ..Faults::default() });
    let disks = open(&storage).unwrap();
    let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
    for grain in 0..4 {
        put(&a, grain, 5).await.unwrap();
        put(&b, grain, 6).await.unwrap();
    }
    assert_eq!(disks.space().unwrap().free, 0);
    let (new, over, zeros, other) = tokio::join!(
        a.write(3 * 4096 + 100, vec![7; 3 * 4096].into()),
        put(&a, 0, 8),
        put(&a, 1, 0),
        put(&b, 0, 9),
    );
    assert!(matches!(new, Err(DiskError::Full)), "{new:?}");
    over.unwrap();
    zeros.unwrap();
    other.unwrap();
    assert_eq!(read(&a, 3 * 4096, 4096).await, [5; 4096], "a refused write changes nothing");
    assert_eq!(read(&a, 4 * 4096, 8192).await, [0; 8192]);
    // The zeros gave a grain back: there is room for one, over a hole or in a new place.
    put(&a, 7, 1).await.unwrap();
    assert!(matches!(put(&a, 1, 1).await, Err(DiskError::Full)), "a hole needs room as well");
    assert_eq!(read(&a, 4096, 4096).await, [0; 4096]);
    disks.discard(&id("b")).unwrap();
    put(&a, 1, 2).await.unwrap();
    drop((a, b, disks));
    let disks = open(&storage.after_cut(3)).unwrap();
    let a = disk(&disks, "a");
    for (grain, byte) in [(0, 8), (1, 2), (2, 5), (3, 5), (4, 0), (5, 0), (7, 1)] {
        assert_eq!(read(&a, grain * 4096, 4096).await, [byte; 4096], "grain {grain}");
    }
}

/// The same for runs that are put into the data file together: each has its own answer.
#[tokio::test]
async fn of_large_writes_that_come_together_those_without_space_are_refused() {
    const LEN: u64 = 16 << 10;
    for round in 0..50 {
        let storage = FaultyStorage::new(Faults { room: Some(2 * LEN), ..Faults::default() });
        let disks = open(&storage).unwrap();
        let a = disk(&disks, "a");
        let large = |nth: u64| a.write(nth * LEN, vec![nth as u8 + 1; LEN as usize].into());
        let over = a.write(LEN - 100, vec![9; 200].into());
        let answers = tokio::join!(large(0), large(1), over, large(2), large(3));
        let (first, second, over, third, fourth) = answers;
        first.unwrap();
        second.unwrap();
        over.unwrap();
        for full in [third, fourth] {
            assert!(matches!(full, Err(DiskError::Full)), "round {round}: {full:?}");
        }
        let mut wanted = vec![1; LEN as usize];
        wanted.resize(2 * LEN as usize, 2);
        wanted[LEN as usize - 100..][..200].fill(9);
        wanted.resize(SIZE as usize, 0);
        assert!(read(&a, 0, SIZE).await == wanted, "round {round}");
        drop((a, disks));
        let disks = open(&storage.after_cut(round)).unwrap();
        assert!(read(&disk(&disks, "a"), 0, SIZE).await == wanted, "round {round} after a cut");
    }
}

/// Damage in the middle of the journal is no torn end: nothing is served that would miss a write.
#[tokio::test]
async fn a_flipped_bit_in_an_acknowledged_batch_is_corrupt_and_not_skipped() {
    let storage = FaultyStorage::default();
    let disks = open(&storage).unwrap();
    let a = disk(&disks, "a");
    for grain in 0..6 {
        put(&a, grain, 1 + grain as u8).await.unwrap();
    }
    let cut = storage.after_cut(1);
    // Batches of 8 KiB lie end to end from the beginning of the first segment.
    for (batch, part) in [(0, 0), (0, 4096), (3, 100), (3, 4096 + 77)] {
        let damaged = cut.after_cut(0);
        damaged.flip(&PathBuf::from(DIR).join("journal-0"), batch * 8192 + part);
        let error = open(&damaged).err().expect("damage is seen");
        assert!(matches!(error, DiskError::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(&format!("batch {}", batch + 1)), "{error}");
    }
    assert!(open(&cut).is_ok());
}

#[tokio::test]
async fn a_damaged_overlay_keeps_no_other_away() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
    put(&a, 0, 1).await.unwrap();
    put(&b, 0, 2).await.unwrap();
    drop((a, b, disks));
    std::fs::remove_file(path.join("a/data")).unwrap();
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    let attached = disks.attach(&id("a"), Base::Empty { size: SIZE });
    assert!(matches!(attached, Err(DiskError::Corrupt(_))));
    assert_eq!(read(&disk(&disks, "b"), 0, 4096).await, [2; 4096]);
    disks.discard(&id("a")).unwrap();
    assert_eq!(disks.list(), [id("b")]);
}

#[tokio::test]
async fn a_missing_journal_is_corrupt_and_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    drop(Disks::open(&path, &db, CONFIG).unwrap());
    std::fs::remove_file(path.join("journal-2")).unwrap();
    assert!(matches!(Disks::open(&path, &db, CONFIG), Err(DiskError::Corrupt(_))));
}

#[tokio::test]
async fn a_discard_is_final_and_can_be_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    let a = disk(&disks, "a");
    assert!(Arc::ptr_eq(&a, &disk(&disks, "a")), "there is one disk at a time");
    let hold = a.hold_writes().await;
    let (held, discarded) = tokio::join!(put(&a, 0, 1), async {
        tokio::task::yield_now().await;
        disks.discard(&id("a"))
    });
    discarded.unwrap();
    drop(hold);
    assert!(matches!(held, Err(DiskError::Gone)), "a write that waits ends: {held:?}");
    assert!(matches!(put(&a, 0, 1).await, Err(DiskError::Gone)));
    assert!(matches!(a.read(0..1, Priority::Guest).await, Err(DiskError::Gone)));
    assert!(matches!(a.set_size(SIZE * 2).await, Err(DiskError::Gone)));
    disks.discard(&id("a")).unwrap();
    disks.discard(&id("never")).unwrap();
    assert!(disks.list().is_empty() && !path.join("a").exists());
    // The name may be used again, and nothing of the former disk is in it, also after a replay.
    let a = disk(&disks, "a");
    assert_eq!(read(&a, 0, SIZE).await, vec![0; SIZE as usize]);
    put(&a, 1, 9).await.unwrap();
    drop((a, disks));
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    assert_eq!(read(&disk(&disks, "a"), 0, 4096).await, [0; 4096]);
}

#[tokio::test]
async fn a_discard_with_writes_in_flight_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    for round in 0..20 {
        let (a, b) = (disk(&disks, "a"), disk(&disks, "b"));
        let writers: Vec<_> = (0..8)
            .map(|i| {
                let a = a.clone();
                tokio::spawn(async move {
                    for grain in 0.. {
                        if let Err(error) = put(&a, (grain + i * 5) % 40, 1 + i as u8).await {
                            return error;
                        }
                    }
                    DiskError::Gone
                })
            })
            .collect();
        put(&b, round, 7).await.unwrap();
        disks.discard(&id("a")).unwrap();
        for writer in writers {
            let error = writer.await.unwrap();
            assert!(matches!(error, DiskError::Gone), "{error}");
        }
        put(&b, round, 8).await.unwrap();
    }
    disks.checkpoint().unwrap();
    drop(disks);
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    assert_eq!(disks.list(), [id("b")]);
    assert_eq!(read(&disk(&disks, "b"), 0, 20 * 4096).await, vec![8; 20 * 4096]);
}

/// What took part in the last batch is let go of without another: else its space would come back with the next write of any disk.
#[tokio::test]
async fn the_space_of_a_discarded_disk_comes_back_without_another_write() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    let a = disk(&disks, "a");
    put(&a, 0, 1).await.unwrap();
    let is_open = || {
        let held = std::fs::read_dir("/proc/self/fd").unwrap();
        let held = held.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        held.into_iter().any(|file| file.starts_with(path.join("a")))
    };
    assert!(is_open());
    disks.discard(&id("a")).unwrap();
    drop(a);
    let until = Instant::now() + Duration::from_secs(10);
    while is_open() {
        assert!(Instant::now() < until, "a file of the discarded disk is held open");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn strays_are_swept_and_nobody_else_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let path = dir.path().join("overlay");
    let disks = Disks::open(&path, &db, CONFIG).unwrap();
    disk(&disks, "a");
    drop(disks);
    std::fs::create_dir(path.join("half-made")).unwrap();
    let _disks = Disks::open(&path, &db, CONFIG).unwrap();
    assert!(!path.join("half-made").exists());
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.clone()), 0o700);
    assert_eq!(mode(path.join("a/data")), 0o600);
    assert_eq!(mode(path.join("journal-0")), 0o600);
}

#[tokio::test]
async fn bad_calls_are_refused() {
    let storage = FaultyStorage::default();
    let disks = open(&storage).unwrap();
    let a = disk(&disks, "a");
    let refused = |result: Result<(), DiskError>| matches!(result, Err(DiskError::Refused(_)));
    assert!(refused(disks.create(&id("a"), SIZE + 1)), "another size");
    assert!(refused(disks.create(&id("huge"), u64::MAX)));
    assert!(refused(a.set_size(SIZE - 1).await), "a disk does not shrink");
    assert!(refused(a.set_size(u64::MAX).await));
    disks.create(&id("b"), 10).unwrap();
    assert!(refused(disks.attach(&id("b"), Base::Empty { size: 11 }).map(drop)));
    assert!(matches!(disks.attach(&id("none"), Base::Empty { size: 1 }), Err(DiskError::Gone)));
    for range in [SIZE..SIZE + 1, 0..SIZE + 1, u64::MAX - 1..u64::MAX] {
        let outside = |e| matches!(e, DiskError::OutOfRange { .. });
        assert!(a.read(range.clone(), Priority::Guest).await.is_err_and(outside));
        assert!(a.try_read(range.clone()).unwrap().is_err_and(outside));
        let bytes = vec![1; (range.end - range.start).min(1 << 20) as usize];
        assert!(a.write(range.start, bytes.into()).await.is_err_and(outside));
    }
    let empty = a.write(SIZE, bytes::Bytes::new()).await;
    assert!(empty.is_ok(), "nothing, written at the end, is no error");
    assert!(
        Disks::open_faulty(&storage, Path::new(DIR), DisksConfig { journal_bytes: 1 }).is_err()
    );
}
