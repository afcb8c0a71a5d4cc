//! The server's own small records: the handle key and the counter of file ids.
//!
//! # Crash
//!
//! A range of ids is durable as taken before the first id of it is given out, so that a crash skips ids and
//! never gives one out twice.

use crate::NfsError;
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How many ids are taken at one time: one durable record for that many new files.
const ID_RANGE: u64 = 1 << 16;
/// Ids below this are never given out, so that a zeroed record cannot name a file.
const FIRST_ID: u64 = 64;

/// The server's directory.
pub(crate) struct Store {
    dir: PathBuf,
    key: [u8; 32],
    ids: Mutex<IdRange>,
}

struct IdRange {
    next: u64,
    end: u64,
}

impl Store {
    /// Opens the directory, making it and the key at first use.
    pub(crate) fn open(dir: &Path) -> Result<Self, NfsError> {
        if !dir.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(NfsError::io(format!("create {}", dir.display())))?;
        }
        let key = read_key(dir)?;
        let end = read_ids(dir)?;
        Ok(Self { dir: dir.to_owned(), key, ids: Mutex::new(IdRange { next: end, end }) })
    }

    /// A key for one purpose, derived from the stored one.
    pub(crate) fn key(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(&format!("rekindle nfs {purpose} v1"), &self.key)
    }

    /// An id that was never given out before. Syncs a record once in [`ID_RANGE`] calls.
    pub(crate) fn new_id(&self) -> io::Result<u64> {
        let mut ids = self.ids.lock();
        if ids.next == ids.end {
            let end = ids.end + ID_RANGE;
            replace(&self.dir, "file-ids", format!("{end}\n").as_bytes())?;
            ids.end = end;
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }
}

fn read_key(dir: &Path) -> Result<[u8; 32], NfsError> {
    match fs::read(dir.join("handle-key")) {
        Ok(bytes) => bytes.try_into().map_err(|_| NfsError::Corrupt("the handle key".into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key)
                .map_err(|e| NfsError::io("draw a handle key")(io::Error::other(e.to_string())))?;
            replace(dir, "handle-key", &key).map_err(NfsError::io("write the handle key"))?;
            Ok(key)
        }
        Err(e) => Err(NfsError::io("read the handle key")(e)),
    }
}

fn read_ids(dir: &Path) -> Result<u64, NfsError> {
    match fs::read_to_string(dir.join("file-ids")) {
        Ok(text) => text
            .trim_end()
            .parse()
            .ok()
            .filter(|end| *end >= FIRST_ID)
            .ok_or_else(|| NfsError::Corrupt("the counter of file ids".into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(FIRST_ID),
        Err(e) => Err(NfsError::io("read the counter of file ids")(e)),
    }
}

/// Replaces a small file by one that is durable: write, sync, rename, sync the directory.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{ID_RANGE, Store};
    use std::collections::HashSet;

    #[test]
    fn no_id_is_given_out_twice_over_reopenings() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..3 {
            let store = Store::open(dir.path()).unwrap();
            for _ in 0..ID_RANGE + 3 {
                assert!(seen.insert(store.new_id().unwrap()));
            }
        }
    }

    #[test]
    fn the_key_stays_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = Store::open(dir.path()).unwrap().key("handle");
        assert_eq!(Store::open(dir.path()).unwrap().key("handle"), key);
        std::fs::write(dir.path().join("handle-key"), b"short").unwrap();
        assert!(Store::open(dir.path()).is_err());
    }

    #[test]
    fn a_damaged_counter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file-ids"), b"").unwrap();
        assert!(Store::open(dir.path()).is_err());
    }
}
