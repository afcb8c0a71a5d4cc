//! All records of a database in one file, and a database of such a file.
//!
//! # Layout
//!
//! ```text
//! "rekindle state 1\n" | bytes of the head: u32 | head as JSON
//! a record: bytes of its keyspace's name, of its key and of its value: u32 each | the three
//! 0: u32 | how many records: u64 | BLAKE3 of all before: 32 bytes
//! ```
//!
//! Numbers are little endian.
//!
//! # Bounds
//!
//! Lengths are those of a database; [`HEAD_MAX`]. A file is looked through as a whole before any of it counts.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use jiff::Timestamp;
use rocksdb::{IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};

use crate::database::{NAME_MAX, check_name};
use crate::keyspace::{check_key, check_value};
use crate::{Database, KEY_MAX, StateError, VALUE_MAX};

const MAGIC: &[u8; 17] = b"rekindle state 1\n";
const HASH_BYTES: u64 = 32;
/// Longest head, in bytes.
const HEAD_MAX: usize = 4096;
/// Bytes that are written to a new database at once.
const AT_ONCE: usize = 4 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHead {
    /// When it was made.
    pub made_at: Timestamp,
    /// Of which host.
    pub host: String,
    /// By which version of the program.
    pub version: String,
}

/// A backup that was found whole.
#[derive(Debug)]
pub struct Backup {
    file: File,
    head: BackupHead,
    /// Where its records begin and end.
    records: std::ops::Range<u64>,
}

impl Database {
    /// Writes all records as they are at one moment, but for these keyspaces, and says how many.
    pub fn back_up(
        &self,
        head: &BackupHead,
        left_out: &[&str],
        out: impl Write,
    ) -> Result<u64, StateError> {
        let mut out = Hashed { out, hasher: blake3::Hasher::new() };
        let encoded =
            serde_json::to_vec(head).map_err(|e| StateError::Refused(format!("a head: {e}")))?;
        out.bytes(MAGIC)?;
        out.length(encoded.len())?;
        out.bytes(&encoded)?;
        let mut count = 0u64;
        let names = self.names();
        let snapshot = self.rocks().snapshot();
        for name in names.iter().filter(|name| !left_out.contains(&name.as_str())) {
            for entry in snapshot.iterator_cf(&self.family(name)?, IteratorMode::Start) {
                let (key, value) = entry?;
                for part in [name.as_bytes(), &key, &value] {
                    out.length(part.len())?;
                }
                for part in [name.as_bytes(), &key, &value] {
                    out.bytes(part)?;
                }
                count += 1;
            }
        }
        out.length(0)?;
        out.bytes(&count.to_le_bytes())?;
        let hash = out.hasher.finalize();
        out.bytes(hash.as_bytes())?;
        out.out.flush().map_err(|e| StateError::io("write a backup", &e))?;
        Ok(count)
    }
}

/// What goes through it is hashed.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Hashed<W> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(|e| StateError::io("write a backup", &e))
    }

    fn length(&mut self, length: usize) -> Result<(), StateError> {
        let length = u32::try_from(length);
        let length = length.map_err(|_| StateError::Refused("a part of 4 GiB".into()))?;
        self.bytes(&length.to_le_bytes())
    }
}

impl Backup {
    /// Looks through the file: `Corrupt` if it is no backup, or was changed or cut short.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut file = File::open(path).map_err(|e| StateError::io("open the backup", &e))?;
        let metadata = file.metadata().map_err(|e| StateError::io("open the backup", &e))?;
        let hashed = metadata.len().checked_sub(HASH_BYTES).filter(|_| metadata.is_file());
        let hashed = hashed.ok_or_else(not_one)?;
        let mut hasher = blake3::Hasher::new();
        let mut reader = Reader { from: BufReader::new(&file), left: hashed };
        let head = reader.head()?;
        let begin = hashed - reader.left;
        file.rewind().map_err(|e| StateError::io("read the backup", &e))?;
        hasher.update_reader((&file).take(hashed)).map_err(|e| StateError::io("read", &e))?;
        let mut said = Vec::new();
        (&file).read_to_end(&mut said).map_err(|e| StateError::io("read the backup", &e))?;
        if said != hasher.finalize().as_bytes() {
            return Err(StateError::Corrupt(
                "the backup was changed or cut short after it was made".into(),
            ));
        }
        Ok(Self { file, head, records: begin..hashed })
    }

    /// What it says of itself.
    pub fn head(&self) -> &BackupHead {
        &self.head
    }

    /// Makes the database `dir` of it, which must not be there. Durable when it returns; after an error `dir` holds a part.
    pub fn restore(&mut self, dir: &Path) -> Result<Database, StateError> {
        if dir.exists() {
            return Err(StateError::Refused(format!("{} exists", dir.display())));
        }
        let start = SeekFrom::Start(self.records.start);
        self.file.seek(start).map_err(|e| StateError::io("read the backup", &e))?;
        let left = self.records.end - self.records.start;
        let mut reader = Reader { from: BufReader::new(&self.file), left };
        let db = Database::open(dir)?;
        let (mut batch, mut count) = (WriteBatch::default(), 0u64);
        while let Some((name, key, value)) = reader.record()? {
            db.make_family(&name)?;
            batch.put_cf(&db.family(&name)?, &key, &value);
            count += 1;
            if batch.size_in_bytes() > AT_ONCE {
                db.write(std::mem::take(&mut batch))?;
            }
        }
        db.write(batch)?;
        if reader.array::<8>()? != count.to_le_bytes() || reader.left != 0 {
            return Err(StateError::Corrupt("the backup's records do not add up".into()));
        }
        Ok(db)
    }
}

/// A record: its keyspace's name, its key and its value.
type Record = (String, Vec<u8>, Vec<u8>);

/// Reads parts of known length, of as much as there is.
struct Reader<R> {
    from: R,
    left: u64,
}

impl<R: Read> Reader<R> {
    fn head(&mut self) -> Result<BackupHead, StateError> {
        if self.array()? != *MAGIC {
            return Err(not_one());
        }
        let len = self.length(HEAD_MAX)?;
        serde_json::from_slice(&self.bytes(len)?).map_err(|_| not_one())
    }

    /// The next record, if there is one.
    fn record(&mut self) -> Result<Option<Record>, StateError> {
        let name = self.length(NAME_MAX)?;
        if name == 0 {
            return Ok(None);
        }
        let (key, value) = (self.length(KEY_MAX)?, self.length(VALUE_MAX)?);
        let name = String::from_utf8(self.bytes(name)?).map_err(|_| not_one())?;
        let (key, value) = (self.bytes(key)?, self.bytes(value)?);
        check_name(&name).and_then(|()| check_key(&key)).and_then(|()| check_value(&value))?;
        Ok(Some((name, key, value)))
    }

    fn length(&mut self, most: usize) -> Result<usize, StateError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        if length > most {
            return Err(StateError::Corrupt(format!("a part of {length} bytes in the backup")));
        }
        Ok(length)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StateError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(not_one)?;
        self.from.read_exact(bytes).map_err(|e| StateError::io("read the backup", &e))
    }
}

fn not_one() -> StateError {
    StateError::Corrupt(
        "this is no backup of an appliance's state, or one of a newer version".into(),
    )
}
