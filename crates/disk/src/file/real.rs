use std::fs::DirBuilder;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{ALIGN, LARGE, Purpose, Space};

/// A file of the operating system.
#[derive(Debug)]
pub(crate) struct RealFile {
    fd: OwnedFd,
    /// Whether `fd` goes past the page cache.
    direct: bool,
    /// The same file past the page cache, for large writes beside a cached `fd`.
    past_cache: Option<OwnedFd>,
}

impl RealFile {
    pub(super) fn open(path: &Path, purpose: Purpose, create: bool) -> io::Result<Self> {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        flags.set(OFlags::CREATE, create);
        let mode = Mode::RUSR | Mode::WUSR;
        let direct = match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Ok(fd) => Some(fd),
            // This file system has no direct I/O (tmpfs of old kernels, some network ones).
            Err(Errno::INVAL) => None,
            Err(error) => return Err(error.into()),
        };
        match (direct, purpose) {
            (Some(fd), Purpose::Journal) => Ok(Self { fd, direct: true, past_cache: None }),
            (past_cache, _) => {
                let fd = rustix::fs::open(path, flags, mode)?;
                // No read-ahead: a page that it brought in while a direct write of that page is under way would stay,
                // stale, if a cached write of a neighbour made it dirty. Read is only what the overlay owns, and
                // while it changes there is no direct write of it.
                rustix::fs::fadvise(&fd, 0, None, Advice::Random)?;
                Ok(Self { fd, direct: false, past_cache })
            }
        }
    }

    pub(super) fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    pub(super) fn read_cached(&self, buf: &mut [u8], at: u64) -> bool {
        let len = buf.len();
        let mut bufs = [IoSliceMut::new(buf)];
        // A short count means that the rest is not in the page cache; any error is for the path
        // that may wait to find again.
        rustix::io::preadv2(&self.fd, &mut bufs, at, ReadWriteFlags::NOWAIT) == Ok(len)
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match &self.past_cache {
            Some(fd) if is_large(bytes, at) => match write_both(fd, bytes, &[], at) {
                // A device that wants more alignment than we give.
                Err(Errno::INVAL) => self.write_both(bytes, &[], at),
                done => Ok(done?),
            },
            _ => self.write_both(bytes, &[], at),
        }
    }

    pub(super) fn write_both(&self, head: &[u8], body: &[u8], at: u64) -> io::Result<()> {
        Ok(write_both(&self.fd, head, body, at)?)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    pub(super) fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        super::write_back::write_back(&self.fd, range)
    }

    pub(super) fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range)
    }

    pub(super) fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.fallocate(FallocateFlags::KEEP_SIZE, range)
    }

    fn fallocate(&self, flags: FallocateFlags, range: Range<u64>) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.fd, flags, range.start, range.end - range.start) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.fd, len)?)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    pub(super) fn allocated(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks as u64 * 512)
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }
}

fn is_large(bytes: &[u8], at: u64) -> bool {
    let aligned = |n: usize| n.is_multiple_of(ALIGN);
    bytes.len() >= LARGE
        && aligned(bytes.len())
        && aligned(bytes.as_ptr().addr())
        && aligned(at as usize)
}

fn write_both(fd: &OwnedFd, head: &[u8], body: &[u8], at: u64) -> Result<(), Errno> {
    let total = head.len() + body.len();
    let mut done = 0;
    while done < total {
        let head_left = &head[done.min(head.len())..];
        let body_left = &body[done.saturating_sub(head.len())..];
        let bufs = [IoSlice::new(head_left), IoSlice::new(body_left)];
        match rustix::io::pwritev(fd, &bufs, at + done as u64) {
            // Nothing was written and nothing is wrong: there is no such answer for a file.
            Ok(0) => return Err(Errno::IO),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    absent_is_done(std::fs::remove_dir_all(dir))
}

pub(super) fn absent_is_done(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

pub(super) fn folders(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

pub(super) fn space(dir: &Path) -> io::Result<Space> {
    let fs = rustix::fs::statvfs(dir)?;
    Ok(Space { total: fs.f_blocks * fs.f_frsize, free: fs.f_bavail * fs.f_frsize })
}
