use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};

use jiff::Timestamp;

use crate::{BackupHead, Database, StateError};

const PREFIX: &str = "rekindle-state-";
const SUFFIX: &str = ".backup";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// Files of the directory that are looked at.
const FILES_MAX: usize = 100_000;
/// Characters of the host's name that are in a file's.
const HOST_MAX: usize = 64;

/// Where backups of a database are kept, and which.
#[derive(Clone, Debug)]
pub struct BackupsConfig {
    /// The directory, made if it is missing. Other files in it are left alone, those of other hosts too.
    pub dir: PathBuf,
    /// So many of them; the oldest go.
    pub keep: usize,
    /// Keyspaces that are of no use elsewhere.
    pub left_out: Vec<&'static str>,
    /// The host and the version that a backup says it is of.
    pub host: String,
    /// See `host`.
    pub version: String,
}

/// A directory of backups. It may be another machine's, which does not answer: only [`Backups::look`] and [`Backups::make`]
/// touch it, and wait for it as long as it takes.
pub struct Backups {
    db: Database,
    config: BackupsConfig,
    /// What the names of this host's files begin with.
    prefix: String,
    making: Mutex<()>,
    /// As they were when they were last looked at.
    known: Mutex<Vec<BackupFile>>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was made.
    pub made_at: Timestamp,
}

/// No backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// One is being made.
    #[error("a backup is being made")]
    Busy,
    /// Its directory cannot be used; try again once that is mended.
    #[error("{dir}: {why}")]
    Failed {
        /// The directory.
        dir: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Backups {
    /// Backups of `db`. Touches nothing.
    pub fn new(db: &Database, config: BackupsConfig) -> Self {
        let good = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let host: String = config.host.chars().take(HOST_MAX).map(good).collect();
        let host = if host.is_empty() { "appliance".into() } else { host };
        let prefix = format!("{PREFIX}{host}-");
        Self { db: db.clone(), config, prefix, making: Mutex::default(), known: Mutex::default() }
    }

    /// Where they are, and which are kept.
    pub fn config(&self) -> &BackupsConfig {
        &self.config
    }

    /// Those that there were when they were last looked at, the newest first. Asks nobody.
    pub fn known(&self) -> Vec<BackupFile> {
        self.held().clone()
    }

    fn held(&self) -> MutexGuard<'_, Vec<BackupFile>> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Those that there are, the newest first; those from the future, of a clock that was wrong, last. Blocks.
    pub fn look(&self) -> Result<Vec<BackupFile>, BackupError> {
        let found = self.list(Timestamp::now()).map_err(|e| self.failed(&e))?;
        self.held().clone_from(&found);
        Ok(found)
    }

    fn list(&self, now: Timestamp) -> io::Result<Vec<BackupFile>> {
        let entries = match fs::read_dir(&self.config.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries.take(FILES_MAX).filter_map(Result::ok) {
            let Some(made_at) = entry.file_name().to_str().and_then(|name| self.time_of(name))
            else {
                continue;
            };
            // Gone since, or not to be looked at: none of ours.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_file() {
                found.push(BackupFile { path: entry.path(), bytes: metadata.len(), made_at });
            }
        }
        found.sort_by_key(|file| std::cmp::Reverse((file.made_at <= now, file.made_at)));
        Ok(found)
    }

    /// Makes one, durably, and removes those that are too many. Blocks.
    pub fn make(&self) -> Result<BackupFile, BackupError> {
        let _alone = match self.making.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(BackupError::Busy),
        };
        let dir = &self.config.dir;
        make_dir(dir).map_err(|e| self.failed(&e))?;
        let made_at = Timestamp::now();
        let name = format!("{}{}{SUFFIX}", self.prefix, made_at.strftime(TIME));
        let (path, partial) = (dir.join(&name), dir.join(format!(".{name}.tmp")));
        self.sweep();
        let written = self.write(&partial, made_at).and_then(|bytes| {
            let renamed = fs::rename(&partial, &path).and_then(|()| File::open(dir)?.sync_all());
            renamed.map_err(|e| self.failed(&e))?;
            Ok(bytes)
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        let made = BackupFile { path, bytes: written?, made_at };
        self.prune();
        Ok(made)
    }

    fn write(&self, path: &Path, made_at: Timestamp) -> Result<u64, BackupError> {
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(path);
        let file = opened.map_err(|e| self.failed(&e))?;
        let BackupsConfig { host, version, left_out, .. } = &self.config;
        let head = BackupHead { made_at, host: host.clone(), version: version.clone() };
        let mut out = BufWriter::new(&file);
        self.db.back_up(&head, left_out, &mut out).map_err(|error| match error {
            StateError::Full => self.failed(&ErrorKind::StorageFull.into()),
            StateError::Unavailable(why) | StateError::Corrupt(why) | StateError::Refused(why) => {
                BackupError::Failed { dir: self.config.dir.display().to_string(), why }
            }
        })?;
        let written = out.flush().and_then(|()| file.sync_all()).and_then(|()| file.metadata());
        Ok(written.map_err(|e| self.failed(&e))?.len())
    }

    fn failed(&self, error: &io::Error) -> BackupError {
        let dir = self.config.dir.display().to_string();
        let why = match error.kind() {
            ErrorKind::StorageFull => "its file system is full".into(),
            _ => error.to_string(),
        };
        BackupError::Failed { dir, why }
    }

    /// Removes what a process left that ended while it wrote one.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.config.dir) else { return };
        for entry in entries.take(FILES_MAX).filter_map(Result::ok) {
            let name = entry.file_name();
            let whole = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp"));
            if whole.and_then(|name| self.time_of(name)).is_some() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What cannot be removed is tried again with the next one.
    fn prune(&self) {
        let Ok(files) = self.look() else { return };
        for old in files.iter().skip(self.config.keep.max(1)) {
            let _ = fs::remove_file(&old.path);
        }
        let _ = self.look();
    }

    /// When this host's backup of this name was made; `None` if it is none.
    fn time_of(&self, name: &str) -> Option<Timestamp> {
        let time = name.strip_prefix(self.prefix.as_str())?.strip_suffix(SUFFIX)?;
        let time = jiff::civil::DateTime::strptime(TIME, time).ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    }
}

/// With its name durable, if it is made.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
