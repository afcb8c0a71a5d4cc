use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::ImageError;
use crate::file::{RemoteFile, Revision, SourceFile};
use crate::tar::{self, Member};

/// A directory that an image must not leave. The kernel holds it (`RESOLVE_BENEATH`): neither `..`,
/// nor an absolute name, nor a symbolic link leads out. Or an archive, or files that are elsewhere: these have
/// nothing outside them.
#[derive(Clone, Debug)]
pub struct Folder {
    place: Place,
    root: PathBuf,
    links: Links,
    opened: Option<Opened>,
}

/// What was opened of a folder, by name; `None` for what was not there.
type Opened = Arc<Mutex<BTreeMap<PathBuf, Option<Revision>>>>;

#[derive(Clone, Debug)]
enum Place {
    Directory(Arc<OwnedFd>),
    Archive(Arc<Archive>),
    Elsewhere { files: Arc<BTreeMap<PathBuf, Arc<dyn RemoteFile>>>, dir: PathBuf },
}

/// Whether symbolic links are followed, which stay within the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

#[derive(Debug)]
struct Archive {
    file: SourceFile,
    members: Vec<Member>,
}

impl Folder {
    /// Opens the directory `root`.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let name = root.display().to_string();
        let file = File::open(root).map_err(|e| ImageError::io(&name, e))?;
        if !file.metadata().map_err(|e| ImageError::io(&name, e))?.is_dir() {
            return Err(ImageError::unsupported(&name, "it is no directory"));
        }
        let place = Place::Directory(Arc::new(file.into()));
        Ok(Self { place, root: root.to_owned(), links: Links::Followed, opened: None })
    }

    /// Opens the directory `root`, in which no symbolic link is followed.
    pub fn open_without_links(root: &Path) -> Result<Self, ImageError> {
        Ok(Self { links: Links::Refused, ..Self::open(root)? })
    }

    /// Files that are elsewhere, by their names relative to the folder, which is shown as `root`.
    pub fn elsewhere(root: &Path, files: BTreeMap<PathBuf, Arc<dyn RemoteFile>>) -> Self {
        let place = Place::Elsewhere { files: Arc::new(files), dir: PathBuf::new() };
        Self { place, root: root.to_owned(), links: Links::Refused, opened: None }
    }

    /// The folder `name` of this one, which in turn cannot be left. The empty name is this folder.
    pub fn open_folder(&self, name: &Path) -> Result<Self, ImageError> {
        let text = name.display().to_string();
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(self.escapes(text));
        }
        let place = match &self.place {
            _ if text.is_empty() => self.place.clone(),
            Place::Directory(fd) => {
                let fd = self.open_beneath(fd, name, OFlag::O_DIRECTORY)?;
                Place::Directory(Arc::new(fd))
            }
            Place::Elsewhere { files, dir } => {
                Place::Elsewhere { files: files.clone(), dir: dir.join(name) }
            }
            Place::Archive(_) => {
                return Err(ImageError::unsupported(&text, "it is a folder of an archive"));
            }
        };
        Ok(Self { place, root: self.root.join(name), ..self.clone() })
    }

    /// This folder, which from now on remembers what is opened in it.
    pub fn watched(&self) -> Self {
        Self { opened: Some(Opened::default()), ..self.clone() }
    }

    /// What was opened since [`Self::watched`], by the names it was asked for; `None` for files that were not there.
    pub fn opened(&self) -> BTreeMap<PathBuf, Option<Revision>> {
        let opened = self.opened.as_ref();
        opened
            .map(|all| all.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }

    /// Opens the tar file `name` of this folder, an OVA, as a folder of its members.
    pub fn open_archive(&self, name: &Path) -> Result<Self, ImageError> {
        let file = self.open_file(name)?;
        let members = tar::members(&file)?;
        let place = Place::Archive(Arc::new(Archive { file, members }));
        Ok(Self { place, root: self.root.join(name), links: self.links, opened: None })
    }

    /// The names of an archive's members in their order; none for a directory.
    pub fn members(&self) -> impl Iterator<Item = &Path> {
        let members = match &self.place {
            Place::Directory(_) | Place::Elsewhere { .. } => &[][..],
            Place::Archive(archive) => &archive.members,
        };
        members.iter().map(|member| member.name.as_path())
    }

    /// Opens a regular file by its name relative to the directory.
    pub fn open_file(&self, name: &Path) -> Result<SourceFile, ImageError> {
        let text = name.display().to_string();
        let within = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if text.is_empty() || !name.components().all(within) {
            return Err(self.escapes(text));
        }
        let found = match &self.place {
            Place::Directory(fd) => {
                let fd = self.open_beneath(fd, name, OFlag::empty());
                fd.and_then(|fd| SourceFile::local(File::from(fd), text))
            }
            Place::Archive(archive) => archive.member(name, text),
            Place::Elsewhere { files, dir } => match files.get(&dir.join(tar::plain(name))) {
                Some(file) => Ok(SourceFile::remote(file.clone(), text)),
                None => Err(ImageError::NotFound { file: text }),
            },
        };
        self.remember(name, &found)?;
        found
    }

    /// A file that is opened twice must be the same both times: what was read of it belongs together.
    fn remember(
        &self,
        name: &Path,
        found: &Result<SourceFile, ImageError>,
    ) -> Result<(), ImageError> {
        let Some(opened) = &self.opened else { return Ok(()) };
        let now = match found {
            Ok(file) => Some(file.revision().clone()),
            Err(ImageError::NotFound { .. }) => None,
            // There is something, and it cannot be told what.
            Err(_) => return Ok(()),
        };
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        let before = opened.entry(tar::plain(name)).or_insert_with(|| now.clone());
        match *before == now {
            true => Ok(()),
            false => Err(ImageError::corrupt(
                &name.display().to_string(),
                "it was written to while it was opened",
            )),
        }
    }

    fn open_beneath(&self, fd: &OwnedFd, name: &Path, more: OFlag) -> Result<OwnedFd, ImageError> {
        let text = name.display().to_string();
        let links = match self.links {
            Links::Followed => ResolveFlag::RESOLVE_NO_MAGICLINKS,
            Links::Refused => ResolveFlag::RESOLVE_NO_SYMLINKS,
        };
        // Non-blocking, so that a FIFO in the directory cannot hang the caller before it is refused.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let how = OpenHow::new().flags(flags | more).resolve(ResolveFlag::RESOLVE_BENEATH | links);
        openat2(fd.as_fd(), name, how).map_err(|errno| match errno {
            Errno::EXDEV | Errno::ELOOP => self.escapes(text.clone()),
            other => ImageError::io(&text, other.into()),
        })
    }

    fn escapes(&self, name: String) -> ImageError {
        ImageError::Escapes { name, root: self.root.clone() }
    }
}

impl Archive {
    fn member(&self, name: &Path, text: String) -> Result<SourceFile, ImageError> {
        let name = tar::plain(name);
        let member = self.members.iter().find(|member| member.name == name);
        let member = member.ok_or_else(|| ImageError::NotFound { file: text.clone() })?;
        Ok(self.file.part(member.start, member.len, text))
    }
}
