use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rekindle_image::{Folder, RemoteFile, Revision};

use crate::ingest::source::refuse;
use crate::repository::DamagedPoint;
use crate::store::{Chunks, S3Bucket, S3File, Store};
use crate::{Location, RepoError};

/// Files that are looked at: with their names and revisions some 20 MiB.
const MAX_FILES: usize = 65_536;
/// Directories in one another.
const MAX_DEPTH: usize = 16;

/// Where the files are.
pub(super) enum Place {
    Local(PathBuf),
    S3 { bucket: Arc<S3Bucket>, shown: PathBuf, chunks: Arc<Chunks> },
}

/// The files of a place, by their names relative to it.
#[derive(Clone, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<PathBuf, Found>,
    /// What is there and cannot be looked at.
    pub(super) odd: Vec<DamagedPoint>,
}

#[derive(Clone)]
pub(super) struct Found {
    pub(super) revision: Revision,
    pub(super) modified: Timestamp,
    /// How it is read where it is no file of this machine.
    remote: Option<Arc<dyn RemoteFile>>,
}

impl Place {
    pub(super) fn new(location: &Location, store: &Store) -> Self {
        match (location, store) {
            (Location::S3(place), Store::S3(bucket)) => Self::S3 {
                bucket: Arc::clone(bucket),
                shown: place.to_string().into(),
                chunks: Arc::default(),
            },
            (Location::Local(dir), _) => Self::Local(dir.clone()),
            (Location::S3(_), Store::Local(dir)) => Self::Local(dir.root().to_owned()),
        }
    }

    /// All files that are there now.
    pub(super) fn tree(&self) -> Result<Tree, RepoError> {
        let mut tree = Tree::default();
        match self {
            Self::Local(root) => tree.walk(root, Path::new(""), 0)?,
            Self::S3 { bucket, chunks, .. } => {
                for file in bucket.list_files_blocking()? {
                    tree.add_remote(bucket, file, chunks)?;
                }
            }
        }
        Ok(tree)
    }

    /// The place as a folder that cannot be left. What is elsewhere is as `tree` has it.
    pub(super) fn folder(&self, tree: &Tree) -> Result<Folder, RepoError> {
        match self {
            Self::Local(root) => Folder::open_without_links(root).map_err(refuse),
            Self::S3 { shown, .. } => {
                let remote =
                    |(name, found): (&PathBuf, &Found)| Some((name.clone(), found.remote.clone()?));
                Ok(Folder::elsewhere(shown, tree.files.iter().filter_map(remote).collect()))
            }
        }
    }

    /// VMs that are opened at once: a store takes its time for each answer.
    pub(super) fn parallel(&self) -> usize {
        match self {
            Self::Local(_) => std::thread::available_parallelism().map_or(1, usize::from).min(16),
            Self::S3 { .. } => 16,
        }
    }
}

impl Tree {
    fn walk(&mut self, root: &Path, dir: &Path, depth: usize) -> Result<(), RepoError> {
        let shown = root.join(dir);
        let failed = |e| RepoError::io(format!("list {}", shown.display()), e);
        for entry in fs::read_dir(&shown).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = dir.join(entry.file_name());
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Of a link its own: it is not followed.
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Removed since.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            if meta.is_dir() {
                match depth < MAX_DEPTH {
                    true => self.walk(root, &name, depth + 1)?,
                    false => self.odd(&name, "it lies too deep to be looked into"),
                }
            } else if name.to_str().is_none() {
                self.odd(&name, "its name is no UTF-8");
            } else if meta.is_symlink() {
                self.odd(&name, "it is a symbolic link, and none is followed");
            } else if meta.is_file() {
                let nanos = i32::try_from(meta.mtime_nsec()).unwrap_or_default();
                let modified = Timestamp::new(meta.mtime(), nanos).unwrap_or_default();
                let found = Found { revision: Revision::of(&meta), modified, remote: None };
                self.add(name, found)?;
            }
        }
        Ok(())
    }

    fn add_remote(
        &mut self,
        bucket: &Arc<S3Bucket>,
        file: crate::store::ListedFile,
        chunks: &Arc<Chunks>,
    ) -> Result<(), RepoError> {
        let name = PathBuf::from(&file.object);
        // What ends with a slash stands for a directory.
        if file.object.ends_with('/') || name.components().any(is_hidden) {
            return Ok(());
        }
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.as_os_str() != name.components().collect::<PathBuf>().as_os_str() {
            self.odd(&name, "its name is none that a file can have");
            return Ok(());
        }
        let modified = file.modified;
        let remote: Arc<dyn RemoteFile> = Arc::new(S3File::new(bucket, file, chunks));
        let revision = remote.revision().clone();
        self.add(name, Found { revision, modified, remote: Some(remote) })
    }

    fn add(&mut self, name: PathBuf, found: Found) -> Result<(), RepoError> {
        if self.files.len() == MAX_FILES {
            let what = format!("there are more than {MAX_FILES} files: name a part of the place");
            return Err(RepoError::refused(what));
        }
        self.files.insert(name, found);
        Ok(())
    }

    fn odd(&mut self, name: &Path, reason: &str) {
        let object = name.display().to_string();
        if self.odd.len() < MAX_FILES {
            self.odd.push(DamagedPoint { object, reason: reason.into() });
        }
    }
}

fn is_hidden(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(name) if name.as_encoded_bytes().starts_with(b"."))
}
