use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};

use crate::RepoError;
use crate::id::random;
use crate::map::build::MapSink;

/// The right to write to a local repository: at most one holds it, in whatever process. Readers need
/// none. Dropping it, or dying, gives it back.
///
/// # Crash
///
/// An object is made in this order, so that it is whole under its name or not there at all:
///
/// 1. create it in `tmp/`     crash here: the next writer deletes it
/// 2. write and sync it       crash here: the same
/// 3. rename, not replacing   crash here: there or not, but never in part
/// 4. sync the directory      crash after: there
///
/// What checks found is written without the right, beside its final place: nobody else's names are like those.
pub(crate) struct LocalWriter {
    root: PathBuf,
    lock: Option<Flock<File>>,
}

/// How long a file of a writer without the lock may be on its way.
const BESIDE_FOR: Duration = Duration::from_secs(3600);

impl LocalWriter {
    /// Takes the lock and deletes what a killed writer left in `tmp/`.
    pub(super) fn lock(root: &Path) -> Result<Self, RepoError> {
        let unavailable = |e| RepoError::io("lock the repository for writing", e);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .map_err(unavailable)?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    Errno::EWOULDBLOCK => RepoError::Unavailable {
                        what: "write to the repository".into(),
                        source: anyhow::anyhow!(
                            "somebody else is writing to it: an ingest or a prune"
                        ),
                    },
                    other => unavailable(other.into()),
                },
            )?;
        let writer = Self { root: root.to_owned(), lock: Some(lock) };
        writer.empty_tmp().map_err(|e| RepoError::io("empty tmp/ of the repository", e))?;
        Ok(writer)
    }

    /// Writes beside whoever holds the lock: objects of which it is nobody's business to know.
    pub(super) fn beside_others(root: &Path) -> Self {
        Self { root: root.to_owned(), lock: None }
    }

    fn empty_tmp(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("tmp"))? {
            fs::remove_file(entry?.path())?;
        }
        let Ok(beside) = fs::read_dir(self.root.join("checks")) else { return Ok(()) };
        for entry in beside {
            let entry = entry?;
            let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > BESIDE_FOR);
            if old && entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// A new object, in `tmp/` until it is published, and gone again when dropped before.
    pub(super) fn create(&self, object: String) -> Result<LocalObject, RepoError> {
        let name = hex::encode(random::<8>()?);
        let path = match self.lock {
            Some(_) => self.root.join("tmp").join(name),
            None => {
                let target = self.root.join(&object);
                let parent = target.parent().unwrap_or(&self.root);
                create_dir_durably(parent).map_err(|e| RepoError::io("create an object", e))?;
                parent.join(format!(".{name}"))
            }
        };
        let file = OpenOptions::new().create_new(true).write(true).mode(0o644).open(&path);
        let file = file.map_err(|e| RepoError::io("create an object", e))?;
        Ok(LocalObject { root: self.root.clone(), object, path, file, published: false })
    }

    /// Takes back an object that nothing refers to yet.
    pub(super) fn remove(&self, object: &str) -> Result<(), RepoError> {
        fs::remove_file(self.root.join(object))
            .map_err(|e| RepoError::io(format!("remove {object}"), e))
    }

    /// Deletes objects, of which some may be gone. When it returns, none comes back after a power cut.
    pub(super) fn remove_all(&self, objects: &[String]) -> Result<(), RepoError> {
        let mut dirs = BTreeSet::new();
        for object in objects {
            let path = self.root.join(object);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RepoError::io(format!("delete {object}"), error)),
            }
            dirs.extend(path.parent().map(Path::to_owned));
        }
        // One that was gone may have gone a moment before a crash: its directory is synced as well.
        for dir in dirs {
            match sync_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RepoError::io("delete objects", error)),
            }
        }
        Ok(())
    }
}

/// An object that is being written; it has no name yet.
pub(crate) struct LocalObject {
    root: PathBuf,
    object: String,
    path: PathBuf,
    file: File,
    published: bool,
}

impl LocalObject {
    /// Syncs it and gives it its name, which must be new.
    pub(super) fn publish(mut self) -> Result<(), RepoError> {
        let target = self.root.join(&self.object);
        let publish = || {
            self.file.sync_all()?;
            let parent = target.parent().unwrap_or(&self.root);
            create_dir_durably(parent)?;
            rename_new(&self.path, &target)?;
            sync_dir(parent)
        };
        publish().map_err(|e| RepoError::io(format!("write {}", self.object), e))?;
        self.published = true;
        Ok(())
    }
}

impl MapSink for LocalObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        self.file.write_all(bytes).map_err(|e| RepoError::io("write an object", e))
    }
}

impl Drop for LocalObject {
    fn drop(&mut self) {
        if !self.published {
            // If this fails the next writer deletes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames without replacing. File systems that cannot (some network ones) get a hard link, which
/// does not replace either.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => other.map_err(io::Error::from),
    }
}

fn create_dir_durably(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => dir.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
