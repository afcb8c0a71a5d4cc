use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{PointPlace, StoredPack, pack_object, pack_of, place_of};
use crate::RepoError;
use crate::id::PackId;
use crate::map::BlockRef;
use crate::tier::Tier;

/// Packs held open, so that a read costs no path walk. Each is one file descriptor.
const OPEN_PACKS: usize = 64;

/// A repository in a directory. Its objects are never changed, so readers take no lock; the one here
/// guards the list of open files, never I/O.
pub(crate) struct LocalDir {
    root: PathBuf,
    read_only: bool,
    open: Mutex<OpenPacks>,
}

#[derive(Default)]
struct OpenPacks {
    files: Vec<OpenPack>,
    uses: u64,
}

struct OpenPack {
    id: PackId,
    file: Arc<File>,
    used: u64,
}

impl LocalDir {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, read_only: false, open: Mutex::default() }
    }

    /// A directory that is only ever read.
    pub(crate) fn read_only(root: PathBuf) -> Self {
        Self { read_only: true, ..Self::new(root) }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn read_range(&self, object: &str, range: Range<u64>) -> Result<Vec<u8>, RepoError> {
        let read = || {
            let file = File::open(self.root.join(object))?;
            // Before the allocation: a forged length must not cost memory.
            if file.metadata()?.len() < range.end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start).map(|()| bytes)
        };
        read().map_err(|error| RepoError::referenced(object, error))
    }

    pub(crate) fn read_all(&self, object: &str, max: u64) -> Result<Vec<u8>, RepoError> {
        let mut bytes = Vec::new();
        File::open(self.root.join(object))
            .and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => RepoError::NotFound { what: object.to_owned() },
                _ => RepoError::io(format!("read {object}"), error),
            })?;
        if bytes.len() as u64 > max {
            return Err(RepoError::corrupt(object, format!("it is longer than {max} bytes")));
        }
        Ok(bytes)
    }

    pub(crate) fn read_stored(&self, block: &BlockRef) -> Result<Vec<u8>, RepoError> {
        let read = || {
            let file = self.open_pack(block.pack)?;
            let mut stored = vec![0; block.stored_len as usize];
            file.read_exact_at(&mut stored, u64::from(block.offset)).map(|()| stored)
        };
        read().map_err(|error| RepoError::referenced(&pack_object(block.pack), error))
    }

    fn open_pack(&self, id: PackId) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.lock().get(id) {
            return Ok(file);
        }
        let file = Arc::new(File::open(self.root.join(pack_object(id)))?);
        self.open.lock().put(id, file.clone());
        Ok(file)
    }

    pub(crate) fn list_points(&self) -> Result<Vec<PointPlace>, RepoError> {
        let list = || {
            let mut places = Vec::new();
            for vm in names(&self.root.join("points"))? {
                match names(&self.root.join("points").join(&vm)) {
                    Ok(names) => {
                        let objects = names.iter().map(|name| format!("points/{vm}/{name}"));
                        places.extend(objects.map(place_of));
                    }
                    // A stray file, or a directory nobody may read: damage of its own, not of the rest.
                    Err(_) => places.push(PointPlace { object: format!("points/{vm}"), ids: None }),
                }
            }
            Ok(places)
        };
        list().map_err(|error| RepoError::io("list the recovery points", error))
    }

    pub(crate) fn stored_packs(&self) -> Result<Vec<StoredPack>, RepoError> {
        let list = || {
            let mut packs = Vec::new();
            for shard in names(&self.root.join("packs"))? {
                let shard = self.root.join("packs").join(shard);
                for name in names(&shard)? {
                    if let Some(pack) = pack_of(&name) {
                        match fs::metadata(shard.join(&name)) {
                            Ok(meta) => packs.push(stored(pack, &meta)?),
                            // Deleted since it was listed.
                            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
            Ok(packs)
        };
        list().map_err(|error| RepoError::io("list the packs", error))
    }

    pub(crate) fn forget_packs(&self, packs: &[PackId]) {
        self.open.lock().files.retain(|open| !packs.contains(&open.id));
    }

    /// The objects in a folder that has no folders in it, by name; none if there is no such folder.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<String>, RepoError> {
        match names(&self.root.join(folder)) {
            Ok(names) => Ok(names.iter().map(|name| format!("{folder}{name}")).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(RepoError::io(format!("list {folder}"), error)),
        }
    }

    /// Bytes of an object, if it is there.
    pub(crate) fn len_of(&self, object: &str) -> Option<u64> {
        fs::metadata(self.root.join(object)).ok().map(|meta| meta.len())
    }

    pub(crate) fn read_end(&self, object: &str, len: u64) -> Result<(Vec<u8>, u64), RepoError> {
        let meta = fs::metadata(self.root.join(object));
        let size = meta.map_err(|error| RepoError::referenced(object, error))?.len();
        Ok((self.read_range(object, size.saturating_sub(len)..size)?, size))
    }
}

fn stored(pack: PackId, meta: &fs::Metadata) -> io::Result<StoredPack> {
    // A time that no clock can tell sorts first, and is as old as can be.
    let written_at = Timestamp::try_from(meta.modified()?).unwrap_or(Timestamp::MIN);
    Ok(StoredPack { pack, len: meta.len(), tier: Tier::Hot, written_at })
}

/// What is in a directory, sorted; names that are no UTF-8 are none of ours.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

impl OpenPacks {
    fn get(&mut self, id: PackId) -> Option<Arc<File>> {
        self.uses += 1;
        let open = self.files.iter_mut().find(|open| open.id == id)?;
        open.used = self.uses;
        Some(open.file.clone())
    }

    fn put(&mut self, id: PackId, file: Arc<File>) {
        if self.files.len() >= OPEN_PACKS {
            let oldest = self.files.iter().enumerate().min_by_key(|(_, open)| open.used);
            if let Some((at, _)) = oldest {
                self.files.swap_remove(at);
            }
        }
        self.files.push(OpenPack { id, file, used: self.uses });
    }
}
