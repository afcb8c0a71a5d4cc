use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::steps::export::{remove_dir, sync_parent};
use crate::steps::files::SmallFile;
use crate::{JobError, JobId};

/// The file that tells how far a copy is.
const COPIED: &str = ".copied";

/// How far a copy is: for each disk, up to which byte the recovery point is in it, durably.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copied(Vec<u64>);

impl Copied {
    pub(crate) fn of(&self, disk: usize) -> u64 {
        self.0.get(disk).copied().unwrap_or(0)
    }

    pub(crate) fn reached(&mut self, disk: usize, bytes: u64) {
        if self.0.len() <= disk {
            self.0.resize(disk + 1, 0);
        }
        self.0[disk] = bytes;
    }
}

/// Where a migration writes, before what it wrote gets its name.
///
/// ```text
/// <parent>/.<name>.rekindle-<job>/   while it is written and verified
///          .copied                   how far it is, for a restart; gone before the rename
/// <parent>/<name>/                   after one rename; absent or empty before
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Staging {
    directory: PathBuf,
    hidden: PathBuf,
}

impl Staging {
    pub(crate) fn new(directory: &Path, job: &JobId) -> Self {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        // 255 bytes are a name's limit; the job's id has at most 40.
        let name: String = name.chars().take(40).collect();
        let hidden = directory.with_file_name(format!(".{name}.rekindle-{job}"));
        Self { directory: directory.to_owned(), hidden }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory to write to: with what an earlier try of this copy made durable, else empty.
    pub(crate) fn make(&self) -> Result<Copied, JobError> {
        check_vacant(&self.directory)?;
        if let Some(copied) = self.copied() {
            return Ok(copied);
        }
        self.make_afresh().map(|()| Copied::default())
    }

    /// What is durable of an earlier try; `None` if that is not known.
    fn copied(&self) -> Option<Copied> {
        serde_json::from_slice(&std::fs::read(self.hidden.join(COPIED)).ok()?).ok()
    }

    /// Remembers how far the copy is. What it says must be durable already.
    ///
    /// 1. write and sync a new file     crash here: what the old one says holds still
    /// 2. rename it over the old one    crash here: either holds
    pub(crate) fn note(&self, copied: &Copied) -> Result<(), JobError> {
        let path = self.hidden.join(COPIED);
        let failed = |e| JobError::io(format!("write {}", path.display()), e);
        let bytes = serde_json::to_vec(copied).map_err(|e| failed(e.into()))?;
        let new = SmallFile { name: format!("{COPIED}.new"), bytes, mode: 0o600 };
        self.write(&new)?;
        std::fs::rename(self.hidden.join(&new.name), &path).map_err(failed)
    }

    /// Removes what [`Staging::note`] wrote: the copy is whole.
    pub(crate) fn forget(&self) -> Result<(), JobError> {
        for name in [COPIED.to_owned(), format!("{COPIED}.new")] {
            match std::fs::remove_file(self.hidden.join(&name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(JobError::io(format!("remove {name}"), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes that the copy takes of its file system so far.
    pub(crate) fn taken(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.hidden) else { return 0 };
        let files = entries.flatten().filter_map(|entry| entry.metadata().ok());
        files.fold(0, |sum, file| sum.saturating_add(file.blocks() * 512))
    }

    /// An empty directory, whatever an earlier try left.
    fn make_afresh(&self) -> Result<(), JobError> {
        remove_dir(&self.hidden)?;
        let made = DirBuilder::new().mode(0o700).create(&self.hidden);
        made.map_err(|e| JobError::io(format!("make {}", self.hidden.display()), e))?;
        sync_parent(&self.hidden)
    }

    /// The file of a disk: read and write, empty if it is new.
    pub(crate) fn open(&self, name: &str) -> Result<File, JobError> {
        let path = self.hidden.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        file.map_err(|e| JobError::io(format!("open {}", path.display()), e))
    }

    /// Writes a small file as a whole.
    pub(crate) fn write(&self, small: &SmallFile) -> Result<(), JobError> {
        let path = self.hidden.join(&small.name);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(small.mode)
            .open(&path)
            .and_then(|mut file| file.write_all(&small.bytes).and_then(|()| file.sync_all()));
        written.map_err(|e| JobError::io(format!("write {}", path.display()), e))
    }

    /// Makes the directory's names durable; its files are already.
    pub(crate) fn sync(&self) -> Result<(), JobError> {
        let synced = File::open(&self.hidden).and_then(|dir| dir.sync_all());
        synced.map_err(|e| JobError::io(format!("sync {}", self.hidden.display()), e))
    }

    /// Gives the copy its name. When it has it already, because a crash came just after, all is
    /// well: the hidden directory is only ever gone because it was renamed.
    pub(crate) fn publish(&self) -> Result<(), JobError> {
        let what = || format!("rename the copy to {}", self.directory.display());
        if self.hidden.exists() {
            check_vacant(&self.directory)?;
            // rename(2) replaces an empty directory, and no other.
            std::fs::rename(&self.hidden, &self.directory).map_err(|e| JobError::io(what(), e))?;
        } else if !self.directory.is_dir() {
            let message = format!("neither the copy nor {} is there", self.directory.display());
            return Err(JobError::conflict("copy_lost", message));
        }
        sync_parent(&self.directory)
    }

    /// Removes what was not published; it need not exist.
    pub(crate) fn remove(&self) -> Result<(), JobError> {
        match self.hidden.parent() {
            Some(parent) if parent.is_dir() => remove_dir(&self.hidden),
            Some(_) | None => Ok(()),
        }
    }
}

/// Refuses a directory that a migration cannot or must not write to: its parent must exist, itself
/// must not, or be empty, and it must lie outside the appliance's own directories.
pub(crate) fn check_directory(directory: &Path, own: &[PathBuf]) -> Result<(), JobError> {
    let refused = |message: String| JobError::refused("bad_directory", message);
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(refused("the root directory cannot be migrated to".into()));
    };
    // Resolved, so that no link leads into the appliance's own directories.
    let parent = parent
        .canonicalize()
        .map_err(|e| refused(format!("{} cannot be used: {e}", parent.display())))?;
    if !parent.is_dir() {
        return Err(refused(format!("{} is not a directory", parent.display())));
    }
    let real = parent.join(name);
    for own in own {
        let own = own.canonicalize().unwrap_or_else(|_| own.clone());
        if real.starts_with(&own) || own.starts_with(&real) {
            let message = format!("{} is the appliance's own: choose another", own.display());
            return Err(refused(message));
        }
    }
    check_vacant(&real)
}

fn check_vacant(directory: &Path) -> Result<(), JobError> {
    let refused =
        |what: &str| JobError::refused("bad_directory", format!("{} {what}", directory.display()));
    match std::fs::symlink_metadata(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(JobError::io(format!("look at {}", directory.display()), e)),
        Ok(found) if !found.is_dir() => return Err(refused("is not a directory")),
        Ok(_) => {}
    }
    let mut entries = std::fs::read_dir(directory)
        .map_err(|e| JobError::io(format!("list {}", directory.display()), e))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(refused("is not empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> JobId {
        "20250101-000000-abcd".parse().unwrap()
    }

    #[test]
    fn only_a_vacant_directory_of_somebody_else_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("state");
        std::fs::create_dir_all(own.join("exports")).unwrap();
        std::fs::create_dir_all(dir.path().join("full/x")).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink(&own, dir.path().join("link")).unwrap();
        let check =
            |path: &str| check_directory(&dir.path().join(path), std::slice::from_ref(&own));
        for good in ["new", "empty", "full/new"] {
            check(good).unwrap();
        }
        for bad in ["full", "file", "link", "link/x", "state", "state/exports/x", "no/such/dir"] {
            assert_eq!(check(bad).unwrap_err().code(), "bad_directory", "{bad}");
        }
        assert_eq!(check_directory(dir.path(), &[own]).unwrap_err().code(), "bad_directory");
    }

    #[test]
    fn what_is_durable_of_a_copy_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::new(&dir.path().join("vm"), &id());
        let mut copied = staging.make().unwrap();
        std::fs::write(staging.hidden.join("disk"), b"x").unwrap();
        copied.reached(1, 7);
        assert_eq!((copied.of(0), copied.of(1), copied.of(2)), (0, 7, 0));
        staging.note(&copied).unwrap();
        assert_eq!(staging.make().unwrap(), copied);
        assert!(staging.hidden.join("disk").exists());
        std::fs::write(staging.hidden.join(COPIED), b"[1").unwrap();
        assert_eq!(staging.make().unwrap(), Copied::default(), "nobody knows");
        assert!(!staging.hidden.join("disk").exists());
        staging.note(&copied).unwrap();
        staging.forget().unwrap();
        staging.forget().unwrap();
        assert_eq!(std::fs::read_dir(&staging.hidden).unwrap().count(), 0);
    }

    #[test]
    fn publishing_may_be_repeated_but_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::new(&dir.path().join("vm"), &id());
        assert_eq!(staging.publish().unwrap_err().code(), "copy_lost");
        assert_eq!(staging.make().unwrap(), Copied::default());
        let small = SmallFile { name: "a".into(), bytes: b"1".to_vec(), mode: 0o600 };
        staging.write(&small).unwrap();
        std::fs::create_dir_all(dir.path().join("vm")).unwrap();
        std::fs::write(dir.path().join("vm/other"), b"x").unwrap();
        assert_eq!(staging.publish().unwrap_err().code(), "bad_directory");
        std::fs::remove_file(dir.path().join("vm/other")).unwrap();
        staging.publish().unwrap();
        staging.publish().unwrap();
        assert_eq!(std::fs::read(dir.path().join("vm/a")).unwrap(), b"1");
        staging.remove().unwrap();
        assert_eq!(std::fs::read(dir.path().join("vm/a")).unwrap(), b"1");
    }
}
