//! Building the table of nodes from a real directory.

use super::identity::Identity;
use super::node::{Body, DiskSlot, Entries, FileBody, Kind, Link, Meta, Node, Time};
use super::{STAGING, Shared};
use crate::NfsError;
use bytes::Bytes;
use parking_lot::RwLock;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The longest target of a symbolic link.
pub(crate) const LONGEST_TARGET: usize = 4095;

/// What a scan found.
pub(crate) struct Scanned {
    pub(crate) root: Arc<Node>,
    pub(crate) nodes: HashMap<u64, Arc<Node>>,
    pub(crate) disks: HashMap<String, u64>,
}

/// A folder whose entries are being read.
struct Frame {
    dir: OwnedFd,
    node: Arc<Node>,
    /// Names of folders in it that are still to be entered.
    folders: Vec<Box<[u8]>>,
}

struct Scan<'a> {
    shared: &'a Shared,
    export: u64,
    nodes: HashMap<u64, Arc<Node>>,
    disks: HashMap<String, u64>,
    foreign: u64,
}

/// Reads a directory whole. Files without an identity of ours get one.
pub(crate) fn scan(shared: &Shared, root_dir: &OwnedFd) -> Result<Scanned, NfsError> {
    let fail = |e: Errno| NfsError::os("scan the export's directory")(e);
    clear_staging(root_dir).map_err(fail)?;
    let mut stat = rustix::fs::fstat(root_dir).map_err(fail)?;
    // The directory is closed to other users of this machine, and its root open to those of clients, as far as the
    // modes of what is in it go.
    stat.st_mode |= 0o055;
    let identity = identify(shared, root_dir, &stat, Kind::Dir, |_| false).map_err(fail)?;
    let mut scan = Scan {
        shared,
        // The root's file id names the export: it lives with the directory and is never given out again.
        export: identity.id,
        nodes: HashMap::new(),
        disks: HashMap::new(),
        foreign: 0,
    };
    let root = scan.node(&identity, &stat, Body::Dir(RwLock::default()), None);
    scan.nodes.insert(root.id, root.clone());
    let top = Frame {
        dir: root_dir.try_clone().map_err(NfsError::io("scan"))?,
        node: root.clone(),
        folders: Vec::new(),
    };
    scan.tree(top).map_err(fail)?;
    if scan.foreign > 0 {
        tracing::warn!(
            entries = scan.foreign,
            "links and special files in the export's directory are not served"
        );
    }
    Ok(Scanned { root, nodes: scan.nodes, disks: scan.disks })
}

impl Scan<'_> {
    /// Depth first, so that as many folders are open as the tree is deep.
    fn tree(&mut self, top: Frame) -> Result<(), Errno> {
        let mut frames = vec![top];
        self.fill(&mut frames[0])?;
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.folders.pop() else {
                frames.pop();
                continue;
            };
            if frames.len() > 2000 {
                return Err(Errno::LOOP);
            }
            let Some(mut inner) = self.enter(frames.last().ok_or(Errno::IO)?, &name)? else {
                continue;
            };
            self.fill(&mut inner)?;
            frames.push(inner);
        }
        Ok(())
    }

    fn enter(&mut self, frame: &Frame, name: &[u8]) -> Result<Option<Frame>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            rustix::fs::openat(&frame.dir, super::lookup::name_of(name), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&dir)?;
        let nodes = &self.nodes;
        let identity = identify(self.shared, &dir, &stat, Kind::Dir, |id| nodes.contains_key(&id))?;
        let link = Link { parent: frame.node.id, name: name.into() };
        let node = self.node(&identity, &stat, Body::Dir(RwLock::default()), Some(link));
        self.nodes.insert(node.id, node.clone());
        self.add_entry(&frame.node, name, node.id)?;
        frame.node.meta().subdirs += 1;
        Ok(Some(Frame { dir, node, folders: Vec::new() }))
    }

    fn fill(&mut self, frame: &mut Frame) -> Result<(), Errno> {
        let at_root = frame.node.id == self.export;
        for entry in Dir::read_from(&frame.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..")
                || (at_root && name.to_bytes() == STAGING.as_bytes())
            {
                continue;
            }
            let stat = rustix::fs::statat(&frame.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => frame.folders.push(name.to_bytes().into()),
                FileType::RegularFile => self.file(frame, name)?,
                _ => self.foreign += 1,
            }
        }
        Ok(())
    }

    fn file(&mut self, frame: &Frame, name: &CStr) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&frame.dir, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        let name = name.to_bytes();
        let link = Link { parent: frame.node.id, name: name.into() };
        let nodes = &self.nodes;
        // The same inode under a second name is a hard link; another inode with the same id is a copy.
        let is_other = |id| nodes.get(&id).is_some_and(|node: &Arc<Node>| node.ino != stat.st_ino);
        let identity = identify(self.shared, &file, &stat, Kind::File, is_other)?;
        let id = identity.id;
        match self.nodes.get(&id) {
            Some(node) => node.meta().links.push(link),
            None => {
                let body = self.body(&identity, file)?;
                let node = self.node(&identity, &stat, body, Some(link));
                self.nodes.insert(id, node);
            }
        }
        self.add_entry(&frame.node, name, id)
    }

    fn body(&mut self, identity: &Identity, file: OwnedFd) -> Result<Body, Errno> {
        Ok(match identity.kind {
            Kind::File => {
                let slot = identity.disk.clone().map(|mark| {
                    self.disks.insert(mark.id.clone(), identity.id);
                    DiskSlot { mark, disk: None }
                });
                Body::File(FileBody { disk: RwLock::new(slot), ..FileBody::default() })
            }
            Kind::Symlink => {
                let mut target = Vec::new();
                let mut reader = File::from(file).take(LONGEST_TARGET as u64);
                reader.read_to_end(&mut target).map_err(|_| Errno::IO)?;
                Body::Symlink(Bytes::from(target))
            }
            _ => Body::Special,
        })
    }

    fn node(&self, identity: &Identity, stat: &Stat, body: Body, link: Option<Link>) -> Arc<Node> {
        let mac = self.shared.handles.mac(self.export, identity.id);
        let mut meta = meta(identity, stat, link);
        if identity.disk.is_some() {
            // When it was last written is not known: a time that no client has seen makes them look again.
            meta.data_changed();
        }
        Arc::new(Node::new(identity, stat.st_ino, mac, body, meta))
    }

    fn add_entry(&self, dir: &Node, name: &[u8], id: u64) -> Result<(), Errno> {
        let mut entries: parking_lot::RwLockWriteGuard<'_, Entries> =
            dir.entries().ok_or(Errno::NOTDIR)?.write();
        match self.shared.cookies.insert(&mut entries, name, id) {
            true => Ok(()),
            false => Err(Errno::EXIST),
        }
    }
}

/// A node's changing part as it is after a restart: times and size are the real inode's.
pub(crate) fn meta(identity: &Identity, stat: &Stat, link: Option<Link>) -> Meta {
    Meta {
        mode: identity.mode,
        uid: identity.uid,
        gid: identity.gid,
        size: stat.st_size as u64,
        used: stat.st_blocks as u64 * 512,
        atime: Time::new(stat.st_atime, stat.st_atime_nsec as i64),
        mtime: Time::new(stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime: Time::new(stat.st_ctime, stat.st_ctime_nsec as i64),
        subdirs: 0,
        links: link.into_iter().collect::<SmallVec<_>>(),
        verifier: identity.verifier,
    }
}

/// The identity of a real file, made and written if it has none of ours or one that is taken.
fn identify(
    shared: &Shared,
    file: &OwnedFd,
    stat: &Stat,
    kind: Kind,
    taken: impl Fn(u64) -> bool,
) -> Result<Identity, Errno> {
    let found = Identity::read(file)?;
    let is_dir = kind == Kind::Dir;
    if let Some(found) = &found
        && found.store == shared.store_id
        && !taken(found.id)
        && (found.kind == Kind::Dir) == is_dir
    {
        return Ok(found.clone());
    }
    let id = shared.store.new_id().map_err(|_| Errno::IO)?;
    let mode = stat.st_mode & 0o7777;
    let identity = match found {
        // A copy is no disk: the disk stays with the first.
        Some(found) if (found.kind == Kind::Dir) == is_dir => {
            Identity { store: shared.store_id, id, disk: None, ..found }
        }
        _ => Identity {
            store: shared.store_id,
            id,
            kind,
            mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: (0, 0),
            verifier: None,
            disk: None,
        },
    };
    identity.write(file)?;
    rustix::fs::fsync(file)?;
    Ok(identity)
}

/// Removes what a crash left in the staging folder: files that never got their names.
fn clear_staging(root: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let staging = match rustix::fs::openat(root, STAGING, flags, Mode::empty()) {
        Ok(staging) => staging,
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(root, STAGING, Mode::RWXU)?;
            return rustix::fs::fsync(root);
        }
        Err(e) => return Err(e),
    };
    for entry in Dir::read_from(&staging)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_dir = entry.file_type() == FileType::Directory;
        let how = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&staging, name, how)?;
    }
    Ok(())
}

/// Reads a whole small file.
pub(crate) fn read_small(file: &File, limit: usize) -> std::io::Result<Vec<u8>> {
    let len = file.metadata()?.len().min(limit as u64) as usize;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
