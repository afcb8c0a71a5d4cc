//! Finding nodes by name, and real files by node.

use super::node::{Kind, Link, Node};
use super::{Export, STAGING, Status, errno_status};
use nfsserve::nfs::nfsstat3::*;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Longest name (RFC 1813 leaves it to the server; ext4, xfs and btrfs have the same).
pub(crate) const LONGEST_NAME: usize = 255;
/// Longest part of a path that is opened in one call; the kernel takes 4095 bytes.
const LONGEST_STEP: usize = 3000;
/// How often a file is looked for whose path changes meanwhile.
const TRIES: usize = 16;

impl Export {
    /// The node of a name in a folder (RFC 1813 section 3.3.3). The root's `..` is the root.
    pub(crate) fn lookup(&self, dir: &Arc<Node>, name: &[u8]) -> Result<Arc<Node>, Status> {
        let entries = dir.entries().ok_or(NFS3ERR_NOTDIR)?;
        match name {
            b"." => return Ok(dir.clone()),
            b".." => return self.parent(dir).ok_or(NFS3ERR_STALE),
            _ if name.len() > LONGEST_NAME => return Err(NFS3ERR_NAMETOOLONG),
            _ => {}
        }
        let id = self.shared.cookies.find(&entries.read(), name).map(|(_, entry)| entry.id);
        id.and_then(|id| self.node(id)).ok_or(NFS3ERR_NOENT)
    }

    /// The folder that a folder is in.
    pub(crate) fn parent(&self, dir: &Arc<Node>) -> Option<Arc<Node>> {
        if dir.id == self.id {
            return Some(dir.clone());
        }
        let parent = dir.meta().links.first()?.parent;
        self.node(parent)
    }

    /// Whether `node` is `folder` or in it.
    pub(crate) fn is_within(&self, node: &Arc<Node>, folder: &Arc<Node>) -> bool {
        let mut at = node.clone();
        loop {
            if at.id == folder.id {
                return true;
            }
            match self.parent(&at) {
                Some(parent) if parent.id != at.id => at = parent,
                _ => return false,
            }
        }
    }

    /// The folder, if it still has a name, for a change of its entries.
    pub(crate) fn folder<'a>(
        &self,
        dir: &'a Arc<Node>,
    ) -> Result<&'a parking_lot::RwLock<super::node::Entries>, Status> {
        let entries = dir.entries().ok_or(NFS3ERR_NOTDIR)?;
        match self.nodes.read().contains_key(&dir.id) && !self.is_closed() {
            true => Ok(entries),
            false => Err(NFS3ERR_STALE),
        }
    }

    /// Checks a name that is to be made or taken away.
    pub(crate) fn check_name(&self, dir: &Node, name: &[u8]) -> Result<(), Status> {
        match name {
            b"" => Err(NFS3ERR_INVAL),
            b"." | b".." => Err(NFS3ERR_EXIST),
            _ if name.len() > LONGEST_NAME => Err(NFS3ERR_NAMETOOLONG),
            _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(NFS3ERR_INVAL),
            _ if dir.id == self.id && name == STAGING.as_bytes() => Err(NFS3ERR_ACCES),
            _ => Ok(()),
        }
    }

    /// Opens the real file or folder of a node.
    pub(crate) fn open(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, Status> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut last = Errno::NOENT;
        for _ in 0..TRIES {
            let path = self.real_path(node)?;
            // Between the two a rename may have put another file there, or nothing.
            match walk(self.root_dir.as_fd(), &path, flags) {
                Ok(fd) if rustix::fs::fstat(&fd).is_ok_and(|s| s.st_ino == node.ino) => {
                    return Ok(fd);
                }
                Ok(_) => last = Errno::NOENT,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::AGAIN) => {}
                Err(e) => return Err(errno_status(e)),
            }
        }
        Err(errno_status(last))
    }

    /// Opens a folder, for changes of its entries and for its sync.
    pub(crate) fn open_dir(&self, node: &Node) -> Result<OwnedFd, Status> {
        self.open(node, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The names from the root to a node.
    fn real_path(&self, node: &Node) -> Result<Vec<Box<[u8]>>, Status> {
        let mut names = Vec::new();
        if node.id == self.id {
            return Ok(names);
        }
        let mut link = first_link(node)?;
        loop {
            names.push(link.name);
            if link.parent == self.id {
                names.reverse();
                return Ok(names);
            }
            link = first_link(&*self.node(link.parent).ok_or(NFS3ERR_STALE)?)?;
        }
    }
}

fn first_link(node: &Node) -> Result<Link, Status> {
    node.meta().links.first().cloned().ok_or(NFS3ERR_STALE)
}

/// Opens a path below `root`, however long, without following links.
fn walk(root: BorrowedFd<'_>, path: &[Box<[u8]>], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut held: Option<OwnedFd> = None;
    let mut step: Vec<u8> = Vec::with_capacity(64);
    for (at, name) in path.iter().enumerate() {
        if step.len() + name.len() > LONGEST_STEP && at > 0 {
            let from = held.as_ref().map_or(root, |fd| fd.as_fd());
            let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat2(from, name_of(&step), through, Mode::empty(), resolve)?;
            held = Some(fd);
            step.clear();
        }
        if !step.is_empty() {
            step.push(b'/');
        }
        step.extend_from_slice(name);
    }
    if step.is_empty() {
        step.push(b'.');
    }
    let from = held.as_ref().map_or(root, |fd| fd.as_fd());
    rustix::fs::openat2(from, name_of(&step), flags, Mode::empty(), resolve)
}

pub(crate) fn name_of(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Node {
    /// That it is a regular file, or what the status for anything else is.
    pub(crate) fn must_be_file(&self) -> Result<&super::node::FileBody, Status> {
        self.file().ok_or(match self.kind {
            Kind::Dir => NFS3ERR_ISDIR,
            _ => NFS3ERR_INVAL,
        })
    }
}
