use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
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

/// Where backups of a database are kept, and which.
#[derive(Clone, Debug)]
pub struct BackupsConfig {
    /// The directory, made if it is missing. Other files in it are left alone.
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

impl Backups {
    /// Backups of `db`. Touches nothing.
    pub fn new(db: &Database, config: BackupsConfig) -> Self {
        Self { db: db.clone(), config, making: Mutex::default(), known: Mutex::default() }
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

    /// Those that there are, the newest first. Blocks.
    pub fn look(&self) -> Result<Vec<BackupFile>, StateError> {
        let found = self.list()?;
        self.held().clone_from(&found);
        Ok(found)
    }

    fn list(&self) -> Result<Vec<BackupFile>, StateError> {
        let entries = match fs::read_dir(&self.config.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| StateError::io("list the backups", &e))?,
        };
        let mut found = Vec::new();
        for entry in entries.take(FILES_MAX).filter_map(Result::ok) {
            let Some(made_at) = entry.file_name().to_str().and_then(time_of) else { continue };
            // Gone since, or not to be looked at: none of ours.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_file() {
                found.push(BackupFile { path: entry.path(), bytes: metadata.len(), made_at });
            }
        }
        found.sort_by_key(|file| std::cmp::Reverse(file.made_at));
        Ok(found)
    }

    /// Makes one, durably, and removes those that are too many. Blocks; refused while one is being made.
    pub fn make(&self) -> Result<BackupFile, StateError> {
        let _alone = match self.making.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Refused("a backup is being made".into()));
            }
        };
        let dir = &self.config.dir;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| StateError::io(&format!("make {}", dir.display()), &e))?;
        let made_at = Timestamp::now();
        let name = format!("{PREFIX}{}{SUFFIX}", made_at.strftime(TIME));
        let (path, partial) = (dir.join(&name), dir.join(format!(".{name}.tmp")));
        self.sweep();
        let written = self.write(&partial, made_at).and_then(|bytes| {
            let renamed = fs::rename(&partial, &path).and_then(|()| File::open(dir)?.sync_all());
            renamed.map_err(|e| StateError::io(&format!("keep {}", path.display()), &e))?;
            Ok(bytes)
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        let made = BackupFile { path, bytes: written?, made_at };
        self.prune();
        Ok(made)
    }

    fn write(&self, path: &Path, made_at: Timestamp) -> Result<u64, StateError> {
        let failed = |e: std::io::Error| StateError::io(&format!("write {}", path.display()), &e);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let BackupsConfig { host, version, left_out, .. } = &self.config;
        let head = BackupHead { made_at, host: host.clone(), version: version.clone() };
        let mut out = BufWriter::new(&file);
        self.db.back_up(&head, left_out, &mut out)?;
        out.flush().and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(file.metadata().map_err(failed)?.len())
    }

    /// Removes what a process left that ended while it wrote one.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.config.dir) else { return };
        for entry in entries.take(FILES_MAX).filter_map(Result::ok) {
            let name = entry.file_name();
            let whole = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp"));
            if whole.and_then(time_of).is_some() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What cannot be removed is tried again with the next one.
    fn prune(&self) {
        let Ok(files) = self.list() else { return };
        for old in files.iter().skip(self.config.keep.max(1)) {
            let _ = fs::remove_file(&old.path);
        }
        let _ = self.look();
    }
}

/// When the backup of this name was made; `None` if it is none.
fn time_of(name: &str) -> Option<Timestamp> {
    let time = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let time = jiff::civil::DateTime::strptime(TIME, time).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}
