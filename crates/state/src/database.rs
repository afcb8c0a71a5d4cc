use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, DBRecoveryMode, DBWithThreadMode, LogLevel,
    MultiThreaded, Options, WriteBatch, WriteOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Batch, BytesKeyspace, KEYSPACES_MAX, Keyspace, StateError};

/// Bytes of one memtable. Records are small and few; a larger one only lengthens replay.
const WRITE_BUFFER: usize = 1 << 20;
/// All memtables together: past it the largest is flushed.
const ALL_WRITE_BUFFERS: usize = 16 << 20;
/// Log kept for keyspaces that are seldom written; bounds what `open` replays.
const LOG_MAX: u64 = 32 << 20;
/// Cache of table blocks, shared by all keyspaces.
const BLOCK_CACHE: usize = 8 << 20;
/// Threads for flush and compaction, in all.
const BACKGROUND_JOBS: i32 = 2;
/// Table files open at once.
const OPEN_FILES: i32 = 128;
/// RocksDB's own text logs: 2 files of 1 MiB.
const TEXT_LOGS: usize = 2;
const TEXT_LOG_MAX: usize = 1 << 20;
/// Longest name of a keyspace, in bytes.
pub(crate) const NAME_MAX: usize = 64;
/// The column family that RocksDB insists on; no keyspace may be called so.
const RESERVED: &str = "default";

type Rocks = DBWithThreadMode<MultiThreaded>;

/// One database of small durable records. A cheap handle: clones share it, and the last one to be
/// dropped (keyspaces and batches count) closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    rocks: Rocks,
    /// The column families that there are. Held while one is looked up and made, so that two threads
    /// cannot make it twice.
    families: Mutex<BTreeSet<String>>,
}

impl Database {
    /// Opens the database in `dir` with every keyspace it has, making `dir` (mode 0700) if needed.
    ///
    /// `Unavailable` while another process has it open; `Corrupt` when its log or tables are
    /// damaged.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        make_dir(dir)?;
        let options = database_options();
        let names = existing_keyspaces(&options, dir)?;
        let families = names.iter().map(|name| (name.as_str(), family_options()));
        let rocks = Rocks::open_cf_with_opts(&options, dir, families)?;
        let families = Mutex::new(names.into_iter().filter(|name| name != RESERVED).collect());
        Ok(Self { inner: Arc::new(Inner { rocks, families }) })
    }

    /// The keyspace `name` of values `V`, made if it is new. `name` is `[a-z0-9_-]{1,64}`.
    pub fn keyspace<V>(&self, name: &'static str) -> Result<Keyspace<V>, StateError>
    where
        V: Serialize + DeserializeOwned,
    {
        Ok(Keyspace::new(self.bytes(name)?))
    }

    /// The keyspace `name` of raw bytes, made if it is new. `name` is `[a-z0-9_-]{1,64}`.
    pub fn bytes(&self, name: &'static str) -> Result<BytesKeyspace, StateError> {
        self.make_family(name)?;
        Ok(BytesKeyspace::new(self.clone(), name))
    }

    /// An empty batch: what is put in takes effect at its commit, as a whole.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Has a column family of this name, made if it is new.
    pub(crate) fn make_family(&self, name: &str) -> Result<(), StateError> {
        check_name(name)?;
        let mut families = self.families();
        if !families.contains(name) {
            if families.len() >= KEYSPACES_MAX {
                return Err(StateError::Refused(format!("more than {KEYSPACES_MAX} keyspaces")));
            }
            self.inner.rocks.create_cf(name, &family_options())?;
            families.insert(name.to_owned());
        }
        Ok(())
    }

    /// The names of all keyspaces.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.families().clone()
    }

    fn families(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.inner.families.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn rocks(&self) -> &Rocks {
        &self.inner.rocks
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn family(&self, name: &str) -> Result<Arc<BoundColumnFamily<'_>>, StateError> {
        let family = self.inner.rocks.cf_handle(name);
        family.ok_or_else(|| StateError::Refused(format!("no keyspace {name}")))
    }

    /// The one door for writes: synced, so that `Ok` means durable (invariant 1).
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), StateError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.inner.rocks.write_opt(batch, &options)?)
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), StateError> {
    let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if name == RESERVED || !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(good) {
        return Err(StateError::Refused(format!("{name:?} is no keyspace name")));
    }
    Ok(())
}

/// Makes `dir` and its name durable: RocksDB syncs what is in `dir`, not `dir`'s own entry.
fn make_dir(dir: &Path) -> Result<(), StateError> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| StateError::io("create database directory", &e))?;
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(|e| StateError::io("sync parent of database directory", &e))
}

fn existing_keyspaces(options: &Options, dir: &Path) -> Result<Vec<String>, StateError> {
    if !dir.join("CURRENT").exists() {
        return Ok(Vec::new());
    }
    Ok(Rocks::list_cf(options, dir)?)
}

fn database_options() -> Options {
    let mut options = family_options();
    options.create_if_missing(true);
    options.set_db_write_buffer_size(ALL_WRITE_BUFFERS);
    options.set_max_total_wal_size(LOG_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(OPEN_FILES);
    options.set_keep_log_file_num(TEXT_LOGS);
    options.set_max_log_file_size(TEXT_LOG_MAX);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    // A torn tail was never acknowledged; damage before it must be seen, not skipped.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

fn family_options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(block_cache());
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_block_based_table_factory(&tables);
    options
}

/// One cache for every keyspace of the process.
fn block_cache() -> &'static Cache {
    static CACHE: std::sync::OnceLock<Cache> = std::sync::OnceLock::new();
    CACHE.get_or_init(|| Cache::new_lru_cache(BLOCK_CACHE))
}
