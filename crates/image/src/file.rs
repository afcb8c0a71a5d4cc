use std::fmt::Debug;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::ImageError;

/// A file that is read where it lies beyond the network, a part at a time.
pub trait RemoteFile: Debug + Send + Sync {
    /// Bytes in it.
    fn size(&self) -> u64;

    /// Which content it is: the revision that every read is of.
    fn revision(&self) -> &Revision;

    /// Fills `buf` from `offset`, which the caller has checked to be in the file. Blocks. An error if the file is of
    /// another revision by now.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError>;
}

/// Which content a file has: another whenever it was written to, replaced or touched. It stays the same while nobody
/// does, over restarts and whatever device the file is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// That of a file of this machine: its length, and when its content and its i-node were changed.
    pub fn of(m: &Metadata) -> Self {
        let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
        let text = format!(
            "{} bytes of {}.{:09}, {}.{:09}",
            m.size(),
            modified.0,
            modified.1,
            changed.0,
            changed.1
        );
        Self(text.into())
    }

    /// That of a file of `len` bytes whose content a store knows by `tag`.
    pub fn tagged(len: u64, tag: &str) -> Self {
        Self(format!("{len} bytes of {tag}").into())
    }

    /// A text for it, the same for the same revision only.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An open file of an image. Every read is positioned and whole; none moves a shared cursor.
#[derive(Clone, Debug)]
pub struct SourceFile {
    origin: Origin,
    name: String,
    /// Where it starts in its origin: the members of an archive lie in one.
    base: u64,
    len: u64,
}

#[derive(Clone, Debug)]
enum Origin {
    Local(Arc<LocalFile>),
    Remote(Arc<dyn RemoteFile>),
}

#[derive(Debug)]
struct LocalFile {
    file: File,
    stamp: Stamp,
    revision: Revision,
}

/// What is done with each file of an image.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&SourceFile) -> Result<(), ImageError>;

/// When a file was last changed, and which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(m: &Metadata) -> Self {
        let (dev, ino) = (m.dev().cast_signed(), m.ino().cast_signed());
        let (size, changed) = (m.size().cast_signed(), (m.ctime(), m.ctime_nsec()));
        Self([dev, ino, size, m.mtime(), m.mtime_nsec(), changed.0, changed.1])
    }
}

impl SourceFile {
    pub(crate) fn local(file: File, name: String) -> Result<Self, ImageError> {
        let meta = file.metadata().map_err(|e| ImageError::io(&name, e))?;
        if !meta.is_file() {
            return Err(ImageError::unsupported(&name, "it is no regular file"));
        }
        let local = LocalFile { file, stamp: Stamp::of(&meta), revision: Revision::of(&meta) };
        Ok(Self { origin: Origin::Local(Arc::new(local)), name, base: 0, len: meta.len() })
    }

    pub(crate) fn remote(file: Arc<dyn RemoteFile>, name: String) -> Self {
        let len = file.size();
        Self { origin: Origin::Remote(file), name, base: 0, len }
    }

    /// A part of it as a file of its own; it lies in the file.
    pub(crate) fn part(&self, start: u64, len: u64, name: String) -> Self {
        Self { origin: self.origin.clone(), name, base: self.base + start, len }
    }

    /// Which content it had when it was opened; of a part, that of the whole.
    pub fn revision(&self) -> &Revision {
        match &self.origin {
            Origin::Local(local) => &local.revision,
            Origin::Remote(file) => file.revision(),
        }
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
        match &self.origin {
            Origin::Local(local) => {
                let read = local.file.read_exact_at(buf, self.base + offset);
                read.map_err(|e| ImageError::io(&self.name, e))
            }
            Origin::Remote(file) => file.read_exact_at(self.base + offset, buf),
        }
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
    /// holes follow. Of a file that is elsewhere no holes are known.
    pub(crate) fn next_stored(&self, from: u64) -> Result<Option<Range<u64>>, ImageError> {
        if from >= self.len {
            return Ok(None);
        }
        let Origin::Local(local) = &self.origin else { return Ok(Some(from..self.len)) };
        let seek = |at: u64, whence| match lseek(local.file.as_fd(), at.cast_signed(), whence) {
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
    /// half new. One that is elsewhere is asked at each read.
    pub(crate) fn check_unchanged(&self) -> Result<(), ImageError> {
        let Origin::Local(local) = &self.origin else { return Ok(()) };
        let meta = local.file.metadata().map_err(|e| ImageError::io(&self.name, e))?;
        match Stamp::of(&meta) == local.stamp {
            true => Ok(()),
            false => Err(self.corrupt("it was written to while it was read".into())),
        }
    }

    pub(crate) fn corrupt(&self, detail: String) -> ImageError {
        ImageError::corrupt(&self.name, detail)
    }
}
