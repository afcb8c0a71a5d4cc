use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Whence, lseek};

use crate::ImageError;
use crate::tar::{self, Member};

/// A directory that an image must not leave. The kernel holds it (`RESOLVE_BENEATH`): neither `..`,
/// nor an absolute name, nor a symbolic link leads out. Or an archive, which has nothing outside it.
#[derive(Clone, Debug)]
pub struct Folder {
    place: Place,
    root: PathBuf,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(Arc<OwnedFd>),
    Archive(Arc<Archive>),
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
        Ok(Self { place: Place::Directory(Arc::new(file.into())), root: root.to_owned() })
    }

    /// Opens the tar file `name` of this folder, an OVA, as a folder of its members.
    pub fn open_archive(&self, name: &Path) -> Result<Self, ImageError> {
        let file = self.open_file(name)?;
        let members = tar::members(&file)?;
        let place = Place::Archive(Arc::new(Archive { file, members }));
        Ok(Self { place, root: self.root.join(name) })
    }

    /// The names of an archive's members in their order; none for a directory.
    pub fn members(&self) -> impl Iterator<Item = &Path> {
        let members = match &self.place {
            Place::Directory(_) => &[][..],
            Place::Archive(archive) => &archive.members,
        };
        members.iter().map(|member| member.name.as_path())
    }

    /// Opens a regular file by its name relative to the directory.
    pub fn open_file(&self, name: &Path) -> Result<SourceFile, ImageError> {
        let text = name.display().to_string();
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if text.is_empty() || !name.components().all(plain) {
            return Err(self.escapes(text));
        }
        match &self.place {
            Place::Directory(fd) => self.open_beneath(fd, name, text),
            Place::Archive(archive) => archive.member(name, text),
        }
    }

    fn open_beneath(
        &self,
        fd: &OwnedFd,
        name: &Path,
        text: String,
    ) -> Result<SourceFile, ImageError> {
        // Non-blocking, so that a FIFO in the directory cannot hang the caller before it is refused.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let fd = openat2(fd.as_fd(), name, how).map_err(|errno| match errno {
            Errno::EXDEV | Errno::ELOOP => self.escapes(text.clone()),
            other => ImageError::io(&text, other.into()),
        })?;
        SourceFile::new(File::from(fd), text)
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
        Ok(SourceFile {
            file: self.file.file.clone(),
            name: text,
            base: self.file.base + member.start,
            len: member.len,
            stamp: self.file.stamp,
        })
    }
}

/// An open file of an image. Every read is positioned and whole; none moves a shared cursor.
#[derive(Debug)]
pub struct SourceFile {
    file: Arc<File>,
    name: String,
    /// Where it starts in `file`: the members of an archive lie in one.
    base: u64,
    len: u64,
    stamp: Stamp,
}

/// When a file was last changed, and which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 6]);

impl Stamp {
    fn of(m: &Metadata) -> Self {
        let (dev, ino) = (m.dev().cast_signed(), m.ino().cast_signed());
        Self([dev, ino, m.size().cast_signed(), m.mtime(), m.mtime_nsec(), m.ctime()])
    }
}

impl SourceFile {
    fn new(file: File, name: String) -> Result<Self, ImageError> {
        let meta = file.metadata().map_err(|e| ImageError::io(&name, e))?;
        if !meta.is_file() {
            return Err(ImageError::unsupported(&name, "it is no regular file"));
        }
        Ok(Self { file: Arc::new(file), name, base: 0, len: meta.len(), stamp: Stamp::of(&meta) })
    }

    /// Its name relative to the image's directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in it when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset`. A file that ends before is an error, never zeros.
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            let detail =
                format!("it has {} bytes where {} are wanted at {offset}", self.len, buf.len());
            return Err(self.corrupt(detail));
        }
        self.file.read_exact_at(buf, self.base + offset).map_err(|e| ImageError::io(&self.name, e))
    }

    /// `len` bytes from `offset`, which must be there before memory is taken for them.
    pub(crate) fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>, ImageError> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(self.corrupt(format!("its {len} bytes at {offset} lie behind its end")));
        }
        let mut bytes = vec![0; len];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The whole file, if it has at most `max` bytes.
    pub fn read_all(&self, max: u64) -> Result<Vec<u8>, ImageError> {
        if self.len > max {
            let what = format!("{} bytes are more than {max}", self.len);
            return Err(ImageError::unsupported(&self.name, what));
        }
        self.read_vec(0, self.len as usize)
    }

    /// The next run of bytes at or behind `from` that the file system has stored; `None` when only
    /// holes follow.
    pub(crate) fn next_stored(&self, from: u64) -> Result<Option<Range<u64>>, ImageError> {
        if from >= self.len {
            return Ok(None);
        }
        let seek = |at: u64, whence| match lseek(self.file.as_fd(), at.cast_signed(), whence) {
            Ok(found) => Ok(Some(found.cast_unsigned())),
            Err(Errno::ENXIO) => Ok(None),
            Err(other) => Err(ImageError::io(&self.name, io::Error::from(other))),
        };
        let Some(start) = seek(self.base + from, Whence::SeekData)? else { return Ok(None) };
        let end = seek(start, Whence::SeekHole)?.map_or(self.len, |end| end - self.base);
        let start = start - self.base;
        Ok(Some(start..end.min(self.len)).filter(|range| !range.is_empty()))
    }

    /// What the file system has of `len` bytes at `offset`: a preallocated image is one large hole. Relative
    /// to `offset`. What lies behind the file's end counts as there, so that reading it is an error.
    pub(crate) fn stored_part(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Ok(Some(0..len));
        }
        let stored = self.next_stored(offset)?.filter(|stored| stored.start < offset + len);
        Ok(stored.map(|stored| stored.start - offset..(stored.end - offset).min(len)))
    }

    /// Refuses a file that was written to since it was opened: what was read of it may be half old and
    /// half new.
    pub(crate) fn check_unchanged(&self) -> Result<(), ImageError> {
        let meta = self.file.metadata().map_err(|e| ImageError::io(&self.name, e))?;
        match Stamp::of(&meta) == self.stamp {
            true => Ok(()),
            false => Err(self.corrupt("it was written to while it was read".into())),
        }
    }

    pub(crate) fn corrupt(&self, detail: String) -> ImageError {
        ImageError::corrupt(&self.name, detail)
    }
}
