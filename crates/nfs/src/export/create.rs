//! Making files, folders, links and special files.
//!
//! # Crash
//!
//! 1. the thing is made in the staging folder, with its identity   crash: the next scan removes it
//! 2. the call is noted in its folder to be                         crash: the note names a file that is not there
//! 3. it is renamed to its name                                     crash: all of it or nothing is there
//! 4. the folder is synced, and the call answered

use super::access::{Caller, EXEC, WRITE};
use super::identity::{DiskMark, Identity};
use super::node::{Body, DiskSlot, FileBody, Kind, Link, Node};
use super::scan::{LONGEST_TARGET, meta};
use super::setattr::Changes;
use super::{CallKey, Export, Intents, STAGING, Status, errno_status, status};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::*;
use parking_lot::RwLock;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const SETGID: u32 = 0o2000;
/// How deep folders may be; a scan holds one open per level.
pub(super) const DEEPEST: usize = 512;

/// What a CREATE does where the name is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Creation {
    Unchecked,
    Guarded,
    Exclusive([u8; 8]),
}

/// What is to be made.
#[derive(Clone, Debug)]
pub(crate) enum New {
    File(Creation),
    Dir,
    Symlink(Bytes),
    Special(Kind, (u32, u32)),
}

/// Something in the staging folder.
pub(super) struct Staged {
    pub(super) identity: Identity,
    pub(super) file: OwnedFd,
    pub(super) body: Body,
}

impl Export {
    /// Makes something and returns it, durable. Blocks.
    pub(crate) fn create(
        &self,
        caller: &Caller,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &New,
        set: &Changes,
        call: Option<&CallKey>,
    ) -> Result<Arc<Node>, Status> {
        let entries = self.folder(dir)?;
        self.check_name(dir, name)?;
        let mut intents = self.names.lock();
        self.folder(dir)?;
        let found = self.shared.cookies.find(&entries.read(), name).map(|(_, entry)| entry.id);
        if let Some(node) = found.and_then(|id| self.node(id)) {
            let dir_fd = self.open_dir(dir)?;
            let again = call.and_then(|call| intents.find(dir.id, &dir_fd, call));
            drop(intents);
            return match again == Some(node.id) {
                true => self.sync.sync(vec![dir_fd]).map_err(|e| status(&e)).map(|()| node),
                false => self.create_over(caller, dir, node, new, set),
            };
        }
        caller.may(dir, WRITE | EXEC)?;
        self.room(dir, new)?;
        let dir_fd = self.open_dir(dir)?;
        let identity = self.new_identity(caller, dir, new, set)?;
        let staged = self.stage(identity, new, set, None)?;
        let node = self.publish(&mut intents, (dir, &dir_fd, name), staged, call)?;
        drop(intents);
        self.sync.sync(vec![dir_fd]).map_err(|e| status(&e))?;
        Ok(node)
    }

    /// CREATE of a name that is taken (RFC 1813 section 3.3.8).
    fn create_over(
        &self,
        caller: &Caller,
        dir: &Arc<Node>,
        node: Arc<Node>,
        new: &New,
        set: &Changes,
    ) -> Result<Arc<Node>, Status> {
        match new {
            New::File(Creation::Exclusive(verifier)) => {
                let same = node.meta().verifier == Some(*verifier);
                // It may have been made a moment ago by the same call, still to be synced.
                let dir_fd = self.open_dir(dir)?;
                self.sync.sync(vec![dir_fd]).map_err(|e| status(&e))?;
                if same { Ok(node) } else { Err(NFS3ERR_EXIST) }
            }
            New::File(Creation::Unchecked) if node.kind == Kind::File => {
                let size_only = Changes { size: set.size, ..Changes::default() };
                if size_only.size.is_some() {
                    self.setattr(caller, &node, &size_only)?;
                }
                Ok(node)
            }
            _ => Err(NFS3ERR_EXIST),
        }
    }

    /// Whether one more fits.
    fn room(&self, dir: &Arc<Node>, new: &New) -> Result<(), Status> {
        if self.nodes.read().len() >= self.shared.files_per_export {
            return Err(NFS3ERR_NOSPC);
        }
        if matches!(new, New::Dir) && self.depth(dir) >= DEEPEST {
            return Err(NFS3ERR_NAMETOOLONG);
        }
        Ok(())
    }

    pub(super) fn depth(&self, dir: &Arc<Node>) -> usize {
        let (mut at, mut depth) = (dir.clone(), 0);
        while let Some(parent) = self.parent(&at).filter(|parent| parent.id != at.id) {
            (at, depth) = (parent, depth + 1);
        }
        depth
    }

    fn new_identity(
        &self,
        caller: &Caller,
        dir: &Node,
        new: &New,
        set: &Changes,
    ) -> Result<Identity, Status> {
        let foreign = set.uid.is_some_and(|uid| uid != caller.uid)
            || set.gid.is_some_and(|gid| !caller.in_group(gid));
        if foreign && !caller.is_root() {
            return Err(NFS3ERR_PERM);
        }
        let (dir_mode, dir_gid) = {
            let meta = dir.meta();
            (meta.mode, meta.gid)
        };
        let inherits = dir_mode & SETGID != 0;
        let (kind, default_mode, rdev, verifier) = match new {
            New::File(Creation::Exclusive(verifier)) => {
                (Kind::File, 0o600, (0, 0), Some(*verifier))
            }
            New::File(_) => (Kind::File, 0o644, (0, 0), None),
            New::Dir => (Kind::Dir, 0o755, (0, 0), None),
            New::Symlink(_) => (Kind::Symlink, 0o777, (0, 0), None),
            New::Special(kind, rdev) => (*kind, 0o644, *rdev, None),
        };
        let mut mode = set.mode.unwrap_or(default_mode) & 0o7777;
        if inherits && kind == Kind::Dir {
            mode |= SETGID;
        }
        Ok(Identity {
            store: self.shared.store_id,
            id: self.shared.store.new_id().map_err(|e| status(&e))?,
            kind,
            mode,
            uid: set.uid.unwrap_or(caller.uid),
            gid: set.gid.unwrap_or(if inherits { dir_gid } else { caller.gid }),
            rdev,
            verifier,
            disk: None,
        })
    }

    /// Makes the thing in the staging folder, with `content` if it is a file.
    pub(super) fn stage(
        &self,
        identity: Identity,
        new: &New,
        set: &Changes,
        content: Option<&[u8]>,
    ) -> Result<Staged, Status> {
        let staging = self.staging()?;
        let name = staged_name(identity.id);
        let file = match identity.kind {
            Kind::Dir => make_dir(&staging, &name),
            _ => make_file(&staging, &name),
        }
        .map_err(errno_status)?;
        let made = self.fill(&file, &identity, new, set, content);
        match made {
            Ok(body) => Ok(Staged { identity, file, body }),
            Err(e) => {
                self.unstage(&identity);
                Err(e)
            }
        }
    }

    fn fill(
        &self,
        file: &OwnedFd,
        identity: &Identity,
        new: &New,
        set: &Changes,
        content: Option<&[u8]>,
    ) -> Result<Body, Status> {
        identity.write(file).map_err(errno_status)?;
        let target = match new {
            New::Symlink(target) if target.len() > LONGEST_TARGET => {
                return Err(NFS3ERR_NAMETOOLONG);
            }
            New::Symlink(target) => Some(&target[..]),
            _ => content,
        };
        if let Some(bytes) = target {
            // The folder's sync does not cover a file's bytes.
            let file = File::from(file.try_clone().map_err(|e| status(&e))?);
            file.write_all_at(bytes, 0).and_then(|()| file.sync_all()).map_err(|e| status(&e))?;
        }
        if let (Kind::File, Some(size)) = (identity.kind, set.size) {
            rustix::fs::ftruncate(file, size).map_err(errno_status)?;
        }
        set.set_times(file)?;
        Ok(match new {
            New::File(_) => {
                let slot = identity.disk.clone().map(|mark| DiskSlot { mark, disk: None });
                Body::File(FileBody { disk: RwLock::new(slot), ..FileBody::default() })
            }
            New::Dir => Body::Dir(RwLock::default()),
            New::Symlink(target) => Body::Symlink(target.clone()),
            New::Special(..) => Body::Special,
        })
    }

    /// Gives a staged thing its name, which must be free, on disk and then in the table.
    pub(super) fn publish(
        &self,
        intents: &mut Intents,
        (dir, dir_fd, name): (&Arc<Node>, &OwnedFd, &[u8]),
        staged: Staged,
        call: Option<&CallKey>,
    ) -> Result<Arc<Node>, Status> {
        let published = self.move_in(intents, (dir, dir_fd, name), &staged, call);
        if let Err(e) = published {
            self.unstage(&staged.identity);
            return Err(e);
        }
        let stat = rustix::fs::fstat(&staged.file).map_err(errno_status)?;
        let Staged { identity, file, body } = staged;
        let link = Link { parent: dir.id, name: name.into() };
        let mac = self.shared.handles.mac(self.id, identity.id);
        let meta = meta(&identity, &stat, Some(link));
        if let Body::File(body) = &body {
            *body.open.lock() = Some(Arc::new(File::from(file)));
        }
        let node = Arc::new(Node::new(&identity, stat.st_ino, mac, body, meta));
        if let Body::File(_) = &node.body {
            self.shared.open_files.added(&node);
        }
        self.insert(dir, name, &node)?;
        Ok(node)
    }

    fn move_in(
        &self,
        intents: &mut Intents,
        (dir, dir_fd, name): (&Arc<Node>, &OwnedFd, &[u8]),
        staged: &Staged,
        call: Option<&CallKey>,
    ) -> Result<(), Status> {
        if let Some(call) = call {
            intents.note(dir.id, dir_fd, call, staged.identity.id).map_err(errno_status)?;
        }
        let staging = self.staging()?;
        let staged_name = staged_name(staged.identity.id);
        let to = super::lookup::name_of(name);
        rustix::fs::renameat_with(&staging, &staged_name, dir_fd, to, RenameFlags::NOREPLACE)
            .map_err(errno_status)
    }

    /// Puts a node into the table, and its name into its folder.
    fn insert(&self, dir: &Arc<Node>, name: &[u8], node: &Arc<Node>) -> Result<(), Status> {
        self.nodes.write().insert(node.id, node.clone());
        let mut entries = self.folder(dir)?.write();
        if !self.shared.cookies.insert(&mut entries, name, node.id) {
            return Err(NFS3ERR_SERVERFAULT);
        }
        let mut meta = dir.meta();
        if node.kind == Kind::Dir {
            meta.subdirs += 1;
        }
        meta.data_changed();
        Ok(())
    }

    pub(super) fn staging(&self) -> Result<OwnedFd, Status> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root_dir, STAGING, flags, Mode::empty()).map_err(errno_status)
    }

    /// Takes back what was staged and could not be published; the next scan does if this fails.
    fn unstage(&self, identity: &Identity) {
        let how = match identity.kind {
            Kind::Dir => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        if let Ok(staging) = self.staging() {
            let _ = rustix::fs::unlinkat(&staging, staged_name(identity.id), how);
        }
    }

    /// The identity of something that the appliance itself puts into the export.
    pub(super) fn own_identity(
        &self,
        kind: Kind,
        mode: u32,
        disk: Option<DiskMark>,
    ) -> Result<Identity, Status> {
        Ok(Identity {
            store: self.shared.store_id,
            id: self.shared.store.new_id().map_err(|e| status(&e))?,
            kind,
            mode,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            verifier: None,
            disk,
        })
    }
}

fn staged_name(id: u64) -> String {
    format!("{id:x}")
}

fn make_dir(staging: &OwnedFd, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::mkdirat(staging, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(staging, name, flags, Mode::empty())
}

fn make_file(staging: &OwnedFd, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(staging, name, flags, Mode::RUSR | Mode::WUSR)
}
