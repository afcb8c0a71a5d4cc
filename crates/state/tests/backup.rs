//! A backup is the state of one moment, and what is not whole is no backup.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;
use rekindle_state::{Backup, BackupHead, Backups, BackupsConfig, Database, StateError};

type Content = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

const NAMES: [&str; 3] = ["jobs", "users", "left-out"];

fn head() -> BackupHead {
    let made_at = Timestamp::from_second(1_700_000_000).unwrap();
    BackupHead { made_at, host: "appliance".into(), version: "1.2.3".into() }
}

fn content(db: &Database) -> Content {
    let of = |name: &'static str| {
        let entries = db.bytes(name).unwrap().scan(b"").unwrap();
        entries.into_iter().map(move |(key, value)| ((name, key), value))
    };
    NAMES.into_iter().flat_map(of).collect()
}

fn filled(dir: &Path) -> Database {
    let db = Database::open(dir).unwrap();
    for (number, name) in NAMES.into_iter().enumerate() {
        let keys = db.bytes(name).unwrap();
        for key in 0..50u8 {
            keys.put(&[key + 1], &vec![key; usize::from(key) * 7 * number]).unwrap();
        }
    }
    db
}

fn backup_of(db: &Database, path: &Path) -> u64 {
    db.back_up(&head(), &["left-out"], fs::File::create(path).unwrap()).unwrap()
}

#[test]
fn a_database_of_a_backup_has_all_but_what_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("db"));
    let path = dir.path().join("backup");
    assert_eq!(backup_of(&db, &path), 100);
    db.bytes("jobs").unwrap().put(b"later", b"not in it").unwrap();
    let mut backup = Backup::open(&path).unwrap();
    assert_eq!(*backup.head(), head());
    let made = dir.path().join("made");
    drop(backup.restore(&made).unwrap());
    let mut wanted = content(&db);
    wanted.retain(|(name, key), _| *name != "left-out" && key != b"later");
    assert_eq!(content(&Database::open(&made).unwrap()), wanted);
    assert!(matches!(backup.restore(&made), Err(StateError::Refused(_))));
}

/// Readers of the state see batches whole, and so does a backup.
#[test]
fn a_backup_is_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("db")).unwrap();
    let (one, two) = (db.bytes("one").unwrap(), db.bytes("two").unwrap());
    std::thread::scope(|scope| {
        let (done, over) = std::sync::mpsc::channel::<()>();
        let (db, one, two) = (&db, &one, &two);
        scope.spawn(move || {
            for number in 0u64.. {
                if over.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                    break;
                }
                let mut batch = db.batch();
                batch.put_bytes(one, b"n", &number.to_le_bytes()).unwrap();
                batch.put_bytes(two, b"n", &number.to_le_bytes()).unwrap();
                batch.commit().unwrap();
            }
        });
        for round in 0..20 {
            let path = dir.path().join(format!("{round}"));
            backup_of(db, &path);
            let restored = Backup::open(&path).unwrap().restore(&path.with_extension("db"));
            let restored = restored.unwrap();
            let value = |name| restored.bytes(name).unwrap().get(b"n").unwrap();
            assert_eq!(value("one"), value("two"));
        }
        drop(done);
    });
}

#[test]
fn the_oldest_go_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("db"));
    let to = dir.path().join("to/deep");
    fs::create_dir_all(&to).unwrap();
    let old = |day: u32| to.join(format!("rekindle-state-h-202501{day:02}T000000Z.backup"));
    for day in 1..=5 {
        fs::write(old(day), "x").unwrap();
    }
    // Of the host `h-i`, too.
    let others = [
        "notes.txt",
        "rekindle-state-h-x.backup",
        ".rekindle-state-h-20250101T000000Z.tmp",
        "rekindle-state-h-i-20250101T000000Z.backup",
    ];
    others.iter().for_each(|name| fs::write(to.join(name), "x").unwrap());
    let cut_short = to.join(".rekindle-state-h-20250101T000000Z.backup.tmp");
    fs::write(&cut_short, "x").unwrap();
    let (host, version) = ("h".into(), "v".into());
    let config = BackupsConfig { dir: to.clone(), keep: 3, left_out: vec![], host, version };
    let backups = Backups::new(&db, config);
    let made = backups.make().unwrap();
    let files = backups.known();
    assert_eq!(files[0].path, made.path);
    assert_eq!([&files[1].path, &files[2].path], [&old(5), &old(4)]);
    assert_eq!(files.len(), 3);
    assert!(others.iter().all(|name| to.join(name).exists()) && !cut_short.exists());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&made.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Backup::open(&made.path).unwrap().head().host, "h");
}

/// A clock that was wrong once neither makes the appliance forget what it has, nor have no backups for as long.
#[test]
fn those_from_the_future_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("db"));
    let to = dir.path().join("to");
    fs::create_dir_all(&to).unwrap();
    for year in [2025, 2090, 2091] {
        fs::write(to.join(format!("rekindle-state-h-{year}0101T000000Z.backup")), "x").unwrap();
    }
    let (host, version) = ("h".into(), "v".into());
    let config = BackupsConfig { dir: to, keep: 2, left_out: vec![], host, version };
    let backups = Backups::new(&db, config);
    let newest = backups.look().unwrap().remove(0).made_at;
    assert!(newest < Timestamp::now());
    let made = backups.make().unwrap();
    let known: Vec<_> = backups.known().into_iter().map(|file| file.path).collect();
    assert_eq!(known.len(), 2);
    assert!(known[0] == made.path && made.path.exists());
    assert!(known[1].to_str().unwrap().contains("2025"));
}

#[test]
fn one_that_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("db"));
    fs::write(dir.path().join("file"), "x").unwrap();
    let (host, version) = (String::new(), String::new());
    let config =
        BackupsConfig { dir: dir.path().join("file"), keep: 3, left_out: vec![], host, version };
    let error = Backups::new(&db, config).make().unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

/// What `bytes` restore to, if they are a backup.
fn restored(bytes: &[u8]) -> Result<Content, StateError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    fs::write(&path, bytes).unwrap();
    Backup::open(&path)?.restore(&dir.path().join("db")).map(|db| content(&db))
}

/// The same with a hash that is right.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

fn good() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    backup_of(&filled(&dir.path().join("db")), &path);
    fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_that_was_changed_or_cut_short_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>()) {
        let mut bytes = good();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        prop_assert!(matches!(restored(&bytes), Err(StateError::Corrupt(_))));
    }

    /// The hash says what was written, not that it was written by a friend.
    #[test]
    fn one_that_was_made_up_is_refused_or_taken_and_never_more(
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..12),
    ) {
        let mut bytes = good();
        bytes.truncate(bytes.len() - 32);
        let at = at.index(bytes.len());
        for (place, byte) in bytes[at..].iter_mut().zip(with) {
            *place = byte;
        }
        match restored(&sealed(bytes)) {
            Ok(content) => prop_assert!(content.len() <= 100),
            Err(error) => prop_assert!(
                matches!(error, StateError::Corrupt(_) | StateError::Refused(_)), "{error}"
            ),
        }
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_read() {
    let mut bytes = good();
    bytes.truncate(17);
    for length in [4097u32, u32::MAX] {
        let mut made_up = bytes.clone();
        made_up.extend_from_slice(&length.to_le_bytes());
        made_up.extend_from_slice(&[b' '; 8192]);
        assert!(matches!(restored(&sealed(made_up)), Err(StateError::Corrupt(_))));
    }
    for file in [vec![], b"rekindle".to_vec(), vec![0; 31], sealed(b"rekindle state 2\n".to_vec())]
    {
        assert!(matches!(restored(&file), Err(StateError::Corrupt(_))));
    }
}
