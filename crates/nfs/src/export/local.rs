//! What the appliance itself does in an export. All of it blocks and is durable when it returns.

use super::access::Caller;
use super::create::{Creation, New};
use super::identity::Identity;
use super::node::{Kind, Node};
use super::setattr::Changes;
use super::{Export, Status, errno_status, scan, status};
use crate::NfsError;
use nfsserve::nfs::nfsstat3::*;
use rustix::fs::{AtFlags, OFlags};
use smallvec::SmallVec;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

/// The largest file that [`Export::read_file`] returns.
const READ_LIMIT: u64 = 1 << 20;

impl Export {
    /// Puts a file in place, replacing one of that name in one step. The folder must be there.
    pub fn put_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), NfsError> {
        let fail = || local_name(format!("write {}", path.display()));
        let (dir, name) = self.local_parent(path)?;
        let identity = self.own_identity(Kind::File, mode & 0o7777, None).map_err(fail())?;
        if self.lookup(&dir, &name).is_ok_and(|node| node.kind == Kind::Dir) {
            return Err(NfsError::Refused(format!("{} is a folder", path.display())));
        }
        self.put((&dir, &name), identity, &New::File(Creation::Unchecked), Some(bytes))
            .map_err(fail())
    }

    /// Makes a folder and those that it is in, as far as they are missing.
    pub fn make_dir(&self, path: &Path) -> Result<(), NfsError> {
        let mut dir = self.root.clone();
        for name in components(path)? {
            dir = match self.lookup(&dir, name) {
                Ok(found) if found.kind == Kind::Dir => found,
                Ok(_) => return Err(NfsError::Refused(format!("{} is a file", path.display()))),
                Err(_) => self
                    .create(&appliance(), (&dir, name), &New::Dir, &Changes::default(), None)
                    .map_err(local_name(format!("make folder {}", path.display())))?,
            };
        }
        Ok(())
    }

    /// Removes a file, or a folder with all in it. Nothing there is no error. Handles of what was in it are stale.
    pub fn remove_tree(&self, path: &Path) -> Result<(), NfsError> {
        let fail = || local_name(format!("remove {}", path.display()));
        let Ok((dir, name)) = self.local_parent(path) else { return Ok(()) };
        let names = self.names.lock();
        let Ok(node) = self.lookup(&dir, &name) else { return Ok(()) };
        self.remove_below(&node).map_err(fail())?;
        let dir_fd = self.open_dir(&dir).map_err(fail())?;
        self.unlink(&dir, &dir_fd, &name, &node).map_err(fail())?;
        drop(names);
        self.sync.sync(vec![dir_fd]).map_err(NfsError::io(format!("remove {}", path.display())))
    }

    fn remove_below(&self, top: &Arc<Node>) -> Result<(), Status> {
        let mut folders = vec![top.clone()];
        while let Some(dir) = folders.last().cloned() {
            let Some(entries) = dir.entries() else { return Ok(()) };
            let found: Vec<_> = entries.read().values().cloned().collect();
            let before = folders.len();
            let dir_fd = self.open_dir(&dir)?;
            for entry in &found {
                let Some(node) = self.node(entry.id) else { continue };
                let full = node.entries().is_some_and(|entries| !entries.read().is_empty());
                match full {
                    true => folders.push(node),
                    false => self.unlink(&dir, &dir_fd, &entry.name, &node)?,
                }
            }
            if folders.len() == before {
                folders.pop();
            }
        }
        Ok(())
    }

    /// Whether anything is at this path: a file, or a folder with something in it.
    pub fn has_entries(&self, path: &Path) -> bool {
        match self.local(path) {
            Some(node) => node.entries().is_none_or(|entries| !entries.read().is_empty()),
            None => false,
        }
    }

    /// The bytes of a small file; `None` if there is none at this path. Refuses files over 1 MiB and disks.
    pub fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, NfsError> {
        let Some(node) = self.local(path) else { return Ok(None) };
        let is_small =
            node.kind == Kind::File && node.disk().is_none() && node.size() <= READ_LIMIT;
        if !is_small {
            return Err(NfsError::Refused(format!("{} is not a small file", path.display())));
        }
        let fail = || local_name(format!("read {}", path.display()));
        let file = File::from(self.open(&node, OFlags::RDONLY).map_err(fail())?);
        let what = format!("read {}", path.display());
        scan::read_small(&file, READ_LIMIT as usize).map(Some).map_err(NfsError::io(what))
    }

    fn local(&self, path: &Path) -> Option<Arc<Node>> {
        let mut node = self.root.clone();
        for name in components(path).ok()? {
            node = self.lookup(&node, name).ok()?;
        }
        Some(node)
    }

    /// The folder that a path's last name is in, and that name.
    pub(super) fn local_parent(&self, path: &Path) -> Result<(Arc<Node>, Vec<u8>), NfsError> {
        let names = components(path)?;
        let Some((last, folders)) = names.split_last() else {
            return Err(NfsError::Refused("the export's root is not a file".into()));
        };
        let mut dir = self.root.clone();
        for name in folders {
            dir = self.lookup(&dir, name).map_err(|_| not_there(path))?;
        }
        match dir.kind {
            Kind::Dir => Ok((dir, last.to_vec())),
            _ => Err(not_there(path)),
        }
    }

    /// Puts something of the appliance's at a place, over a file that is there.
    pub(super) fn put(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        identity: Identity,
        new: &New,
        content: Option<&[u8]>,
    ) -> Result<(), Status> {
        self.check_name(dir, name)?;
        let staged = self.stage(identity, new, &Changes::default(), content)?;
        let mut names = self.names.lock();
        let dir_fd = self.open_dir(dir)?;
        if let Ok(old) = self.lookup(dir, name) {
            // Two steps on disk are one to clients; after a crash between them the caller puts it again.
            let link = super::lookup::name_of(name);
            rustix::fs::unlinkat(&dir_fd, link, AtFlags::empty()).map_err(errno_status)?;
            let entries = dir.entries().ok_or(NFS3ERR_NOTDIR)?;
            self.shared.cookies.remove(&mut entries.write(), name);
            self.forget_link(dir, name, &old);
        }
        let published = self.publish(&mut names, (dir, &dir_fd, name), staged, None);
        drop(names);
        published?;
        self.sync.sync(vec![dir_fd]).map_err(|e| status(&e))
    }
}

/// The names of a relative path; anything but names is refused.
fn components(path: &Path) -> Result<Vec<&[u8]>, NfsError> {
    path.components()
        .map(|component| match component {
            Component::Normal(name) => Ok(name.as_bytes()),
            _ => Err(NfsError::Refused(format!("{} leads out of the export", path.display()))),
        })
        .collect()
}

fn appliance() -> Caller {
    Caller { uid: 0, gid: 0, gids: SmallVec::new() }
}

pub(super) fn not_there(path: &Path) -> NfsError {
    NfsError::NotFound(path.display().to_string())
}

/// An NFS status, for one who is no NFS client.
pub(super) fn local_name(what: impl Into<String>) -> impl FnOnce(Status) -> NfsError {
    let what = what.into();
    move |status| match status {
        NFS3ERR_NOSPC | NFS3ERR_DQUOT => NfsError::Full(what),
        NFS3ERR_NOENT | NFS3ERR_STALE => NfsError::NotFound(what),
        NFS3ERR_IO | NFS3ERR_SERVERFAULT | NFS3ERR_JUKEBOX => {
            NfsError::Io { what, source: std::io::Error::other(format!("{status:?}")) }
        }
        other => NfsError::Refused(format!("{what}: {other:?}")),
    }
}
