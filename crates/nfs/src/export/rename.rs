//! RENAME, which replaces its target in one step, and LINK.

use super::access::{Caller, EXEC, WRITE};
use super::create::DEEPEST;
use super::node::{Body, Kind, Link, Node};
use super::{CallKey, Export, Status, errno_status, status};
use nfsserve::nfs::nfsstat3::*;
use rustix::fs::AtFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A name in a folder.
pub(crate) type Place<'a> = (&'a Arc<Node>, &'a [u8]);

/// A place whose folder is open.
type OpenPlace<'a> = (&'a Arc<Node>, &'a OwnedFd, &'a [u8]);

impl Export {
    /// Renames, durably (RFC 1813 section 3.3.14). Blocks.
    pub(crate) fn rename(
        &self,
        caller: &Caller,
        from: Place<'_>,
        to: Place<'_>,
        call: Option<&CallKey>,
    ) -> Result<(), Status> {
        for (dir, name) in [from, to] {
            self.folder(dir)?;
            match name {
                b"." | b".." => return Err(NFS3ERR_INVAL),
                _ => self.check_name(dir, name)?,
            }
        }
        let mut intents = self.names.lock();
        self.folder(from.0)?;
        self.folder(to.0)?;
        let (from_fd, to_fd) = (self.open_dir(from.0)?, self.open_dir(to.0)?);
        let source = self.at(from);
        let target = self.at(to);
        if let Some(again) = call.and_then(|call| intents.find(to.0.id, &to_fd, call))
            && target.as_ref().is_some_and(|node| node.id == again)
            && source.as_ref().is_none_or(|node| node.id != again)
        {
            drop(intents);
            return self.sync.sync(vec![from_fd, to_fd]).map_err(|e| status(&e));
        }
        let source = source.ok_or(NFS3ERR_NOENT)?;
        self.check_rename(caller, (from.0, &source), (to.0, target.as_ref()))?;
        // Two names of one file: RFC 1813 has this do nothing.
        if target.as_ref().is_some_and(|target| target.id == source.id) {
            return Ok(());
        }
        if let Some(call) = call {
            intents.note(to.0.id, &to_fd, call, source.id).map_err(errno_status)?;
        }
        self.move_name((from.0, &from_fd, from.1), (to.0, &to_fd, to.1), &source, target)?;
        drop(intents);
        self.sync.sync(vec![to_fd, from_fd]).map_err(|e| status(&e))
    }

    fn at(&self, (dir, name): Place<'_>) -> Option<Arc<Node>> {
        let entries = dir.entries()?;
        let id = self.shared.cookies.find(&entries.read(), name).map(|(_, entry)| entry.id)?;
        self.node(id)
    }

    fn check_rename(
        &self,
        caller: &Caller,
        (from_dir, source): (&Arc<Node>, &Arc<Node>),
        (to_dir, target): (&Arc<Node>, Option<&Arc<Node>>),
    ) -> Result<(), Status> {
        caller.may_remove(from_dir, source)?;
        caller.may(to_dir, WRITE | EXEC)?;
        let source_is_dir = source.kind == Kind::Dir;
        if let Some(target) = target.filter(|target| target.id != source.id) {
            caller.may_remove(to_dir, target)?;
            match (&target.body, source_is_dir) {
                (Body::Dir(entries), true) if !entries.read().is_empty() => {
                    return Err(NFS3ERR_NOTEMPTY);
                }
                (Body::Dir(_), false) => return Err(NFS3ERR_ISDIR),
                (Body::Dir(_), true) | (_, false) => {}
                (_, true) => return Err(NFS3ERR_NOTDIR),
            }
        }
        if source_is_dir && from_dir.id != to_dir.id {
            if self.is_within(to_dir, source) {
                return Err(NFS3ERR_INVAL);
            }
            if self.depth(to_dir) + self.height(source) > DEEPEST {
                return Err(NFS3ERR_NAMETOOLONG);
            }
        }
        Ok(())
    }

    /// How many folders deep the folder is.
    fn height(&self, dir: &Arc<Node>) -> usize {
        let mut level = vec![dir.clone()];
        let mut height = 0;
        while !level.is_empty() {
            height += 1;
            level = level.iter().flat_map(|dir| self.subfolders(dir)).collect();
        }
        height
    }

    fn subfolders(&self, dir: &Arc<Node>) -> Vec<Arc<Node>> {
        if dir.meta().subdirs == 0 {
            return Vec::new();
        }
        let Some(entries) = dir.entries() else { return Vec::new() };
        let ids: Vec<u64> = entries.read().values().map(|entry| entry.id).collect();
        let nodes = ids.iter().filter_map(|id| self.node(*id));
        nodes.filter(|node| node.kind == Kind::Dir).collect()
    }

    /// Moves the name on disk and then in the table. `names` must be held.
    fn move_name(
        &self,
        (from_dir, from_fd, from_name): OpenPlace<'_>,
        (to_dir, to_fd, to_name): OpenPlace<'_>,
        source: &Arc<Node>,
        target: Option<Arc<Node>>,
    ) -> Result<(), Status> {
        let (from, to) = (super::lookup::name_of(from_name), super::lookup::name_of(to_name));
        rustix::fs::renameat(from_fd, from, to_fd, to).map_err(errno_status)?;
        let cookies = &self.shared.cookies;
        {
            // The new name first: who lists both folders meanwhile sees the file twice rather than never.
            let mut meta = source.meta();
            meta.links.retain(|l| !(l.parent == from_dir.id && *l.name == *from_name));
            meta.links.push(Link { parent: to_dir.id, name: to_name.into() });
            meta.changed();
        }
        self.replace_entry(to_dir, to_name, source.id)?;
        if let Some(entries) = from_dir.entries() {
            cookies.remove(&mut entries.write(), from_name);
        }
        self.count_move(from_dir, to_dir, source, target.as_ref());
        if let Some(target) = target {
            self.forget_link(to_dir, to_name, &target);
        }
        Ok(())
    }

    fn replace_entry(&self, dir: &Node, name: &[u8], id: u64) -> Result<(), Status> {
        let cookies = &self.shared.cookies;
        let mut entries = dir.entries().ok_or(NFS3ERR_NOTDIR)?.write();
        cookies.remove(&mut entries, name);
        match cookies.insert(&mut entries, name, id) {
            true => Ok(()),
            false => Err(NFS3ERR_SERVERFAULT),
        }
    }

    fn count_move(&self, from: &Node, to: &Node, source: &Node, target: Option<&Arc<Node>>) {
        {
            let mut meta = from.meta();
            if source.kind == Kind::Dir {
                meta.subdirs = meta.subdirs.saturating_sub(1);
            }
            meta.data_changed();
        }
        let mut meta = to.meta();
        if source.kind == Kind::Dir {
            meta.subdirs += 1;
        }
        if target.is_some_and(|target| target.kind == Kind::Dir) {
            meta.subdirs = meta.subdirs.saturating_sub(1);
        }
        meta.data_changed();
    }

    /// Gives a file one more name, durably (RFC 1813 section 3.3.15). Blocks.
    pub(crate) fn link(
        &self,
        caller: &Caller,
        file: &Arc<Node>,
        (dir, name): Place<'_>,
        call: Option<&CallKey>,
    ) -> Result<(), Status> {
        self.folder(dir)?;
        self.check_name(dir, name)?;
        if file.kind == Kind::Dir {
            return Err(NFS3ERR_INVAL);
        }
        let mut intents = self.names.lock();
        self.folder(dir)?;
        let dir_fd = self.open_dir(dir)?;
        if let Some(taken) = self.at((dir, name)) {
            let again = call.and_then(|call| intents.find(dir.id, &dir_fd, call));
            drop(intents);
            return match again == Some(file.id) && taken.id == file.id {
                true => self.sync.sync(vec![dir_fd]).map_err(|e| status(&e)),
                false => Err(NFS3ERR_EXIST),
            };
        }
        caller.may(dir, WRITE | EXEC)?;
        let old = file.meta().links.first().cloned().ok_or(NFS3ERR_STALE)?;
        let old_dir = self.node(old.parent).ok_or(NFS3ERR_STALE)?;
        let old_fd = self.open_dir(&old_dir)?;
        if let Some(call) = call {
            intents.note(dir.id, &dir_fd, call, file.id).map_err(errno_status)?;
        }
        let (from, to) = (super::lookup::name_of(&old.name), super::lookup::name_of(name));
        rustix::fs::linkat(&old_fd, from, &dir_fd, to, AtFlags::empty()).map_err(errno_status)?;
        {
            let mut meta = file.meta();
            meta.links.push(Link { parent: dir.id, name: name.into() });
            meta.changed();
        }
        self.replace_entry(dir, name, file.id)?;
        dir.meta().data_changed();
        drop(intents);
        self.sync.sync(vec![dir_fd]).map_err(|e| status(&e))
    }
}
