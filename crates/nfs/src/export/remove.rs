//! Taking names away: REMOVE and RMDIR.

use super::access::Caller;
use super::node::{Body, Kind, Node};
use super::{CallKey, Export, Status, errno_status, status};
use nfsserve::nfs::nfsstat3::*;
use rustix::fs::AtFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Export {
    /// Removes a name, durably; `folders` says which of REMOVE and RMDIR it is. Blocks.
    pub(crate) fn remove(
        &self,
        caller: &Caller,
        (dir, name): (&Arc<Node>, &[u8]),
        folders: bool,
        call: Option<&CallKey>,
    ) -> Result<(), Status> {
        let entries = self.folder(dir)?;
        if name == b"." {
            return Err(NFS3ERR_INVAL);
        }
        self.check_name(dir, name)?;
        let mut intents = self.names.lock();
        self.folder(dir)?;
        let dir_fd = self.open_dir(dir)?;
        let found = self.shared.cookies.find(&entries.read(), name).map(|(_, entry)| entry.id);
        if let Some(again) = call.and_then(|call| intents.find(dir.id, &dir_fd, call))
            && found != Some(again)
        {
            drop(intents);
            return self.sync.sync(vec![dir_fd]).map_err(|e| status(&e));
        }
        let node = found.and_then(|id| self.node(id)).ok_or(NFS3ERR_NOENT)?;
        caller.may_remove(dir, &node)?;
        check_kind(&node, folders)?;
        if let Some(call) = call {
            intents.note(dir.id, &dir_fd, call, node.id).map_err(errno_status)?;
        }
        self.unlink(dir, &dir_fd, name, &node)?;
        drop(intents);
        self.sync.sync(vec![dir_fd]).map_err(|e| status(&e))
    }

    /// Removes a name on disk and then in the table. `names` must be held.
    pub(super) fn unlink(
        &self,
        dir: &Arc<Node>,
        dir_fd: &OwnedFd,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Result<(), Status> {
        let how = match node.kind {
            Kind::Dir => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        rustix::fs::unlinkat(dir_fd, super::lookup::name_of(name), how).map_err(errno_status)?;
        if let Some(entries) = dir.entries() {
            self.shared.cookies.remove(&mut entries.write(), name);
        }
        self.forget_link(dir, name, node);
        let mut meta = dir.meta();
        if node.kind == Kind::Dir {
            meta.subdirs = meta.subdirs.saturating_sub(1);
        }
        meta.data_changed();
        Ok(())
    }

    /// Takes one name from a node, and the node from the table with its last: its handle is stale from then on.
    pub(super) fn forget_link(&self, dir: &Node, name: &[u8], node: &Arc<Node>) {
        let gone = {
            let mut meta = node.meta();
            meta.links.retain(|link| !(link.parent == dir.id && *link.name == *name));
            meta.changed();
            meta.links.is_empty()
        };
        if !gone {
            return;
        }
        self.nodes.write().remove(&node.id);
        if let Body::File(body) = &node.body {
            *body.open.lock() = None;
            if let Some(slot) = body.disk.read().as_ref() {
                self.disks.lock().remove(&slot.mark.id);
            }
        }
    }
}

fn check_kind(node: &Node, folders: bool) -> Result<(), Status> {
    match (&node.body, folders) {
        (Body::Dir(entries), true) if entries.read().is_empty() => Ok(()),
        (Body::Dir(_), true) => Err(NFS3ERR_NOTEMPTY),
        (Body::Dir(_), false) => Err(NFS3ERR_ISDIR),
        (_, true) => Err(NFS3ERR_NOTDIR),
        (_, false) => Ok(()),
    }
}
