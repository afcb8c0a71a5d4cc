//! The only door to files. A closed set: the real one, and one that loses what was not synced.

use std::io;
use std::ops::Range;
use std::path::Path;

use serde::Serialize;

#[cfg(feature = "testing")]
mod faulty;
mod real;
mod write_back;

#[cfg(feature = "testing")]
pub(crate) use faulty::FaultyFile;
#[cfg(feature = "testing")]
pub use faulty::{FailedCommit, Faults, FaultyStorage, WriteBacks};
use real::RealFile;

/// Alignment, in memory and in the file, that direct I/O asks for.
pub(crate) const ALIGN: usize = 4096;
/// Aligned writes of this many bytes and more go past the page cache where the file system allows it: the copy and the
/// later write-back cost more than the device.
pub(crate) const LARGE: usize = 32 << 10;

/// The file system that holds the overlays, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What an unprivileged process may still use.
    pub free: u64,
}

/// What a file is for: it decides how it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An overlay's bytes, through the page cache but for large writes.
    Data,
    /// A journal segment, past the page cache where the file system allows it.
    Journal,
}

/// Where files live.
#[derive(Clone, Debug, Default)]
pub(crate) enum Storage {
    /// The operating system's files.
    #[default]
    Real,
    /// Files in memory that lose, tear and reorder what was not synced.
    #[cfg(feature = "testing")]
    Faulty(FaultyStorage),
}

impl Storage {
    /// Makes `dir` and what leads to it, mode 0700, and makes its name durable.
    pub(crate) fn make_dir(&self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Real => real::make_dir(dir),
            #[cfg(feature = "testing")]
            Self::Faulty(_) => Ok(()),
        }
    }

    /// Makes the names in `dir` durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Real => std::fs::File::open(dir)?.sync_all(),
            #[cfg(feature = "testing")]
            Self::Faulty(faulty) => faulty.sync_dir(dir),
        }
    }

    /// Opens `path` to read and write, mode 0600; makes it if `create`.
    pub(crate) fn open(&self, path: &Path, purpose: Purpose, create: bool) -> io::Result<DiskFile> {
        match self {
            Self::Real => RealFile::open(path, purpose, create).map(DiskFile::Real),
            #[cfg(feature = "testing")]
            Self::Faulty(faulty) => faulty.open(path, purpose, create).map(DiskFile::Faulty),
        }
    }

    /// Removes the folder `dir` with the files in it, if it exists.
    pub(crate) fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Real => real::remove_dir(dir),
            #[cfg(feature = "testing")]
            Self::Faulty(faulty) => faulty.remove_dir(dir),
        }
    }

    /// The names of the folders in `dir`.
    pub(crate) fn folders(&self, dir: &Path) -> io::Result<Vec<String>> {
        match self {
            Self::Real => real::folders(dir),
            #[cfg(feature = "testing")]
            Self::Faulty(faulty) => Ok(faulty.folders(dir)),
        }
    }

    /// The file system that holds `dir`.
    pub(crate) fn space(&self, dir: &Path) -> io::Result<Space> {
        match self {
            Self::Real => real::space(dir),
            #[cfg(feature = "testing")]
            Self::Faulty(faulty) => Ok(faulty.space()),
        }
    }
}

/// An open file. All calls may block.
#[derive(Debug)]
pub(crate) enum DiskFile {
    Real(RealFile),
    #[cfg(feature = "testing")]
    Faulty(FaultyFile),
}

macro_rules! each {
    ($self:ident, $file:ident => $call:expr) => {
        match $self {
            DiskFile::Real($file) => $call,
            #[cfg(feature = "testing")]
            DiskFile::Faulty($file) => $call,
        }
    };
}

impl DiskFile {
    /// Fills `buf` from `at` on; fewer bytes only where the file ends.
    pub(crate) fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        each!(self, file => file.read_at(buf, at))
    }

    /// Fills `buf` if the page cache has all of it. Never waits for the device.
    pub(crate) fn read_cached(&self, buf: &mut [u8], at: u64) -> bool {
        each!(self, file => file.read_cached(buf, at))
    }

    /// Writes `bytes` at `at`.
    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        each!(self, file => file.write_at(bytes, at))
    }

    /// Writes `head` at `at` and `body` behind it, as one write.
    pub(crate) fn write_both(&self, head: &[u8], body: &[u8], at: u64) -> io::Result<()> {
        each!(self, file => file.write_both(head, body, at))
    }

    /// Makes all that was written durable: `fdatasync`.
    pub(crate) fn sync(&self) -> io::Result<()> {
        each!(self, file => file.sync())
    }

    /// Hands what was written to `range` to the device and waits until it has it: the next sync has less to do, and
    /// nothing is durable before that. A failure is told here, and perhaps not again by that sync.
    pub(crate) fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        each!(self, file => file.write_back(range))
    }

    /// Gives the space of `range` back; it reads as zeros. Where the file system cannot, nothing
    /// happens.
    pub(crate) fn punch(&self, range: Range<u64>) -> io::Result<()> {
        each!(self, file => file.punch(range))
    }

    /// Makes sure that a write in `range` finds space. Where the file system cannot, nothing
    /// happens. What reads from `range` does not change.
    pub(crate) fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        each!(self, file => file.allocate(range))
    }

    /// Makes the file `len` bytes long.
    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        each!(self, file => file.set_len(len))
    }

    /// Bytes in the file, holes counted.
    pub(crate) fn len(&self) -> io::Result<u64> {
        each!(self, file => file.len())
    }

    /// Bytes that the file takes on its device.
    pub(crate) fn allocated(&self) -> io::Result<u64> {
        each!(self, file => file.allocated())
    }

    /// Whether writes go past the page cache, so that a failed one is reported to its writer.
    pub(crate) fn is_direct(&self) -> bool {
        each!(self, file => file.is_direct())
    }
}
