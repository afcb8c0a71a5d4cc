//! What was acknowledged is there after a restart, whole; what is damaged is said to be.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use rekindle_state::{Database, KEY_MAX, Keyspace, StateError, VALUE_MAX};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    size: u64,
}

fn record(n: u64) -> Record {
    Record { name: format!("vm-{n}"), size: n << 30 }
}

fn open(dir: &Path) -> (Database, Keyspace<Record>) {
    let db = Database::open(dir).unwrap();
    let records = db.keyspace("records").unwrap();
    (db, records)
}

#[test]
fn records_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/db");
    let (db, records) = open(&path);
    records.put(b"a/1", &record(1)).unwrap();
    records.put(b"a/2", &record(2)).unwrap();
    records.put(b"b/1", &record(3)).unwrap();
    records.delete(b"a/2").unwrap();
    db.bytes("raw").unwrap().put(b"k", &[0, 255, 1]).unwrap();
    drop((db, records));

    let (db, records) = open(&path);
    assert_eq!(records.get(b"a/1").unwrap(), Some(record(1)));
    assert_eq!(records.get(b"a/2").unwrap(), None);
    assert_eq!(records.scan(b"a/").unwrap(), [(b"a/1".to_vec(), record(1))]);
    assert_eq!(records.scan(b"").unwrap().len(), 2);
    assert_eq!(db.bytes("raw").unwrap().get(b"k").unwrap(), Some(vec![0, 255, 1]));
}

#[test]
fn the_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let _db = Database::open(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

/// Invariant 2, and: a batch that is not committed changes nothing.
#[test]
fn a_batch_spans_keyspaces_and_takes_effect_at_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (db, records) = open(dir.path());
    let raw = db.bytes("raw").unwrap();
    raw.put(b"old", b"1").unwrap();
    let mut batch = db.batch();
    batch.put(&records, b"r", &record(7)).unwrap();
    batch.put_bytes(&raw, b"new", b"2").unwrap();
    batch.delete_bytes(&raw, b"old").unwrap();
    assert_eq!(records.get(b"r").unwrap(), None);
    assert_eq!(raw.scan(b"").unwrap().len(), 1);
    batch.commit().unwrap();
    let mut forgotten = db.batch();
    forgotten.delete(&records, b"r").unwrap();
    drop(forgotten);
    drop((db, records, raw));

    let (db, records) = open(dir.path());
    assert_eq!(records.get(b"r").unwrap(), Some(record(7)));
    assert_eq!(db.bytes("raw").unwrap().scan(b"").unwrap(), [(b"new".to_vec(), b"2".to_vec())]);
}

/// Invariant 3: planted fault, a value of another type.
#[test]
fn json_of_another_type_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let (db, records) = open(dir.path());
    let raw = db.bytes("records").unwrap();
    for bad in [&b"{\"name\":3}"[..], b"", b"{\"name\":\"x\",\"size\":1", b"\xff"] {
        raw.put(b"k", bad).unwrap();
        assert!(matches!(records.get(b"k"), Err(StateError::Corrupt(_))), "{bad:?}");
        assert!(matches!(records.scan(b""), Err(StateError::Corrupt(_))), "{bad:?}");
    }
}

#[test]
fn bounds_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (db, records) = open(dir.path());
    let raw = db.bytes("raw").unwrap();
    let refused = |r: Result<(), StateError>| assert!(matches!(r, Err(StateError::Refused(_))));
    refused(records.put(b"", &record(1)));
    refused(records.put(&[1; KEY_MAX + 1], &record(1)));
    refused(raw.put(b"k", &vec![0; VALUE_MAX + 1]));
    for name in ["", "default", "Jobs", "a b"] {
        refused(db.bytes(name).map(|_| ()));
    }
    let other = tempfile::tempdir().unwrap();
    let foreign = Database::open(other.path()).unwrap().bytes("raw").unwrap();
    refused(db.batch().put_bytes(&foreign, b"k", b"v"));
    raw.put(&[1; KEY_MAX], &vec![0; VALUE_MAX]).unwrap();
    assert_eq!(raw.scan(b"").unwrap().len(), 1);
}

#[test]
fn a_batch_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let raw = db.bytes("raw").unwrap();
    let mut batch = db.batch();
    let value = vec![0; VALUE_MAX];
    let fit = (0..8u8).take_while(|n| batch.put_bytes(&raw, &[*n], &value).is_ok()).count();
    assert!((1..=4).contains(&fit), "{fit} values of 16 MiB");
}

#[test]
fn a_prefix_is_deleted_and_its_neighbours_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let raw = db.bytes("raw").unwrap();
    let keys: [&[u8]; 5] = [b"d\xfe", b"d\xff", b"d\xff\xff", b"e", b"d\xff\x00x"];
    for key in keys {
        raw.put(key, b"v").unwrap();
    }
    let mut batch = db.batch();
    batch.delete_prefix(&raw, b"d\xff").unwrap();
    assert!(batch.delete_prefix(&raw, b"\xff").is_err());
    batch.commit().unwrap();
    let left: Vec<_> = raw.scan(b"").unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [b"d\xfe".to_vec(), b"e".to_vec()]);
}

#[test]
fn a_second_opener_is_told_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let first = Database::open(dir.path()).unwrap();
    assert!(matches!(Database::open(dir.path()), Err(StateError::Unavailable(_))));
    drop(first);
    Database::open(dir.path()).unwrap();
}

/// Crash: a torn tail loses only the record that was never acknowledged.
#[test]
fn a_torn_log_is_cut_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, records) = open(dir.path());
    (0..100).for_each(|n| records.put(&[n], &record(n.into())).unwrap());
    let crashed = crashed_copy(dir.path());
    let log = newest_log(crashed.path());
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 5]).unwrap();
    let (_db, records) = open(crashed.path());
    assert_eq!(records.scan(b"").unwrap().len(), 99);
}

/// Planted fault: a flipped bit before the end of the log is found, not skipped.
#[test]
fn a_flipped_bit_in_a_log_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, records) = open(dir.path());
    (0..100).for_each(|n| records.put(&[n], &record(n.into())).unwrap());
    let crashed = crashed_copy(dir.path());
    let log = newest_log(crashed.path());
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    assert!(matches!(Database::open(crashed.path()), Err(StateError::Corrupt(_))));
}

/// The files as a crash leaves them: nothing was closed.
fn crashed_copy(dir: &Path) -> tempfile::TempDir {
    let crashed = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), crashed.path().join(entry.file_name())).unwrap();
    }
    crashed
}

fn newest_log(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let logs = entries.filter(|path| path.extension().is_some_and(|ext| ext == "log"));
    logs.max().expect("a log")
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u64),
    Delete(u8),
    Batch(Vec<(u8, Option<u64>)>),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u8>(), any::<u64>()).prop_map(|(k, v)| Op::Put(k % 16, v)),
        2 => any::<u8>().prop_map(|k| Op::Delete(k % 16)),
        2 => prop::collection::vec((0..16u8, any::<Option<u64>>()), 0..5).prop_map(Op::Batch),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A keyspace is an ordered map that survives restarts.
    #[test]
    fn a_keyspace_behaves_like_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = BTreeMap::<u8, u64>::new();
        let mut db = Database::open(dir.path()).unwrap();
        let mut map = db.keyspace::<u64>("map").unwrap();
        for op in ops {
            match op {
                Op::Put(k, v) => { map.put(&[k], &v).unwrap(); model.insert(k, v); }
                Op::Delete(k) => { map.delete(&[k]).unwrap(); model.remove(&k); }
                Op::Batch(changes) => {
                    let mut batch = db.batch();
                    for (k, v) in changes {
                        match v {
                            Some(v) => { batch.put(&map, &[k], &v).unwrap(); model.insert(k, v); }
                            None => { batch.delete(&map, &[k]).unwrap(); model.remove(&k); }
                        }
                    }
                    batch.commit().unwrap();
                }
                Op::Reopen => {
                    drop((db, map));
                    db = Database::open(dir.path()).unwrap();
                    map = db.keyspace("map").unwrap();
                }
            }
            let found: Vec<_> = map.scan(b"").unwrap();
            let expected: Vec<_> = model.iter().map(|(k, v)| (vec![*k], *v)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
