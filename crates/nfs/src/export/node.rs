//! One file, folder or other thing of an export, as the server knows it in memory.

use super::identity::{DiskMark, Identity};
use super::latency::DiskLatency;
use super::write_queue::WriteQueue;
use crate::handle::{self, Mac};
use bytes::Bytes;
use nfsserve::nfs::{fattr3, ftype3, nfstime3, specdata3, wcc_attr};
use parking_lot::{Mutex, RwLock};
use rekindle_disk::Disk;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// What kind of thing a node is. Everything but folders is a regular file on disk, so that nothing there can
/// lead out of the export or reach a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Block,
    Char,
    Socket,
    Fifo,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        self.ftype() as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Block,
            4 => Self::Char,
            5 => Self::Symlink,
            6 => Self::Socket,
            7 => Self::Fifo,
            _ => return None,
        })
    }

    pub(crate) fn ftype(self) -> ftype3 {
        match self {
            Self::File => ftype3::NF3REG,
            Self::Dir => ftype3::NF3DIR,
            Self::Block => ftype3::NF3BLK,
            Self::Char => ftype3::NF3CHR,
            Self::Symlink => ftype3::NF3LNK,
            Self::Socket => ftype3::NF3SOCK,
            Self::Fifo => ftype3::NF3FIFO,
        }
    }
}

/// Nanoseconds since 1970, as far as NFSv3's 32-bit seconds go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(u64);

impl Time {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_nanos() as u64)
    }

    pub(crate) fn new(seconds: i64, nanos: i64) -> Self {
        let seconds = seconds.clamp(0, i64::from(u32::MAX)) as u64;
        Self(seconds * 1_000_000_000 + (nanos as u64).min(999_999_999))
    }

    /// A time that was asked for on the wire; `None` if its nanoseconds are not less than a second.
    pub(crate) fn from_wire(time: nfstime3) -> Option<Self> {
        (time.nseconds < 1_000_000_000)
            .then(|| Self(u64::from(time.seconds) * 1_000_000_000 + u64::from(time.nseconds)))
    }

    pub(crate) fn wire(self) -> nfstime3 {
        nfstime3 {
            seconds: (self.0 / 1_000_000_000) as u32,
            nseconds: (self.0 % 1_000_000_000) as u32,
        }
    }

    /// Now, but later than this in any case: each change of a file must show.
    fn after(self) -> Self {
        Self::now().max(Self(self.0 + 1))
    }
}

/// One name of a node.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) parent: u64,
    pub(crate) name: Box<[u8]>,
}

/// What changes of a node. Held under its lock for moments, never across a system call.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) used: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    /// Folders in this folder.
    pub(crate) subdirs: u32,
    pub(crate) links: SmallVec<[Link; 1]>,
    pub(crate) verifier: Option<[u8; 8]>,
}

impl Meta {
    pub(crate) fn data_changed(&mut self) {
        self.ctime = self.ctime.after();
        self.mtime = self.ctime;
    }

    pub(crate) fn changed(&mut self) {
        self.ctime = self.ctime.after();
    }
}

/// The entries of a folder by cookie: see [`super::cookie`].
pub(crate) type Entries = BTreeMap<u64, Entry>;

/// A name in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Box<[u8]>,
    pub(crate) id: u64,
}

/// A regular file's insides.
#[derive(Default)]
pub(crate) struct FileBody {
    /// Open while in use; [`super::open_files`] bounds how many are.
    pub(crate) open: Mutex<Option<Arc<File>>>,
    pub(crate) disk: RwLock<Option<DiskSlot>>,
    /// There once a disk was attached.
    pub(crate) latency: OnceLock<Box<DiskLatency>>,
    pub(crate) writes: WriteQueue,
}

/// The disk that a file is.
pub(crate) struct DiskSlot {
    pub(crate) mark: DiskMark,
    /// None until it is attached: calls wait for it.
    pub(crate) disk: Option<Arc<Disk>>,
}

pub(crate) enum Body {
    File(FileBody),
    Dir(RwLock<Entries>),
    Symlink(Bytes),
    Special,
}

/// One file, folder or other thing.
pub(crate) struct Node {
    pub(crate) id: u64,
    /// The real inode's number, to be sure that what was opened by a path is it.
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    pub(crate) mac: Mac,
    rdev: (u32, u32),
    pub(crate) body: Body,
    meta: Mutex<Meta>,
}

impl Node {
    pub(crate) fn new(identity: &Identity, ino: u64, mac: Mac, body: Body, meta: Meta) -> Self {
        let (id, kind, rdev) = (identity.id, identity.kind, identity.rdev);
        Self { id, ino, kind, mac, rdev, body, meta: Mutex::new(meta) }
    }

    pub(crate) fn meta(&self) -> parking_lot::MutexGuard<'_, Meta> {
        self.meta.lock()
    }

    pub(crate) fn file(&self) -> Option<&FileBody> {
        match &self.body {
            Body::File(file) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn entries(&self) -> Option<&RwLock<Entries>> {
        match &self.body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    /// The attached disk, and whether this is a disk at all.
    pub(crate) fn disk(&self) -> Option<Option<Arc<Disk>>> {
        self.file()?.disk.read().as_ref().map(|slot| slot.disk.clone())
    }

    /// Where the times of the disk's calls are counted, if this is one.
    pub(crate) fn latency(&self) -> Option<&DiskLatency> {
        self.file()?.latency.get().map(Box::as_ref)
    }

    pub(crate) fn handle(&self, export: u64) -> [u8; handle::LEN] {
        handle::encode(export, self.id, &self.mac)
    }

    /// Size: the disk's for a disk, whoever grew it.
    pub(crate) fn size(&self) -> u64 {
        match self.disk_sizes() {
            Some((size, _)) => size,
            None => self.meta().size,
        }
    }

    fn disk_sizes(&self) -> Option<(u64, u64)> {
        let slot = self.file()?.disk.read();
        let slot = slot.as_ref()?;
        Some(match &slot.disk {
            Some(disk) => (disk.size(), disk.used_bytes()),
            None => (slot.mark.size, 0),
        })
    }

    /// All attributes (RFC 1813 section 2.6).
    pub(crate) fn attributes(&self, fsid: u64) -> fattr3 {
        let disk = self.disk_sizes();
        let meta = self.meta();
        let (size, used) = disk.unwrap_or((meta.size, meta.used));
        fattr3 {
            ftype: self.kind.ftype(),
            mode: meta.mode,
            nlink: match self.kind {
                Kind::Dir => 2 + meta.subdirs,
                _ => meta.links.len() as u32,
            },
            uid: meta.uid,
            gid: meta.gid,
            size,
            used,
            rdev: specdata3 { specdata1: self.rdev.0, specdata2: self.rdev.1 },
            fsid,
            fileid: self.id,
            atime: meta.atime.wire(),
            mtime: meta.mtime.wire(),
            ctime: meta.ctime.wire(),
        }
    }

    /// The attributes that weak cache consistency compares.
    pub(crate) fn before(&self) -> wcc_attr {
        let disk = self.disk_sizes();
        let meta = self.meta();
        wcc_attr {
            size: disk.map_or(meta.size, |(size, _)| size),
            mtime: meta.mtime.wire(),
            ctime: meta.ctime.wire(),
        }
    }

    /// The identity to write on the inode.
    pub(crate) fn identity(&self, store: u64) -> Identity {
        let disk = self.file().and_then(|f| f.disk.read().as_ref().map(|slot| slot.mark.clone()));
        let meta = self.meta();
        Identity {
            store,
            id: self.id,
            kind: self.kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            rdev: self.rdev,
            verifier: meta.verifier,
            disk,
        }
    }
}
