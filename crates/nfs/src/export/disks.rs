//! Files that are disks.
//!
//! The disk's id is recorded on the file, so that the file is found again wherever a client moved it, and a file
//! whose disk is not attached is known as such: its READs and WRITEs wait, and never see the placeholder's bytes.

use super::create::{Creation, New};
use super::identity::DiskMark;
use super::local::{local_name, not_there};
use super::node::{Body, DiskSlot, Kind, Node};
use super::{Export, Status};
use crate::NfsError;
use nfsserve::nfs::nfsstat3::*;
use rekindle_disk::{Disk, DiskError, DiskId};
use std::path::Path;
use std::sync::Arc;

const DISK_MODE: u32 = 0o600;

/// The only place a disk's error becomes an NFS status.
pub(crate) fn disk_status(e: &DiskError) -> Status {
    match e {
        DiskError::Unavailable { .. } => NFS3ERR_JUKEBOX,
        DiskError::Corrupt(_) => NFS3ERR_IO,
        DiskError::Full => NFS3ERR_NOSPC,
        DiskError::OutOfRange { .. } => NFS3ERR_INVAL,
        DiskError::Stopped(_) => NFS3ERR_IO,
        DiskError::Gone => NFS3ERR_STALE,
        DiskError::Refused(_) => NFS3ERR_INVAL,
    }
}

/// What a failed attempt to make a disk longer looks like to a client: the disk or its file system ends before that.
pub(crate) fn growth_status(e: &DiskError) -> Status {
    match e {
        DiskError::Refused(_) => NFS3ERR_FBIG,
        e => disk_status(e),
    }
}

impl Export {
    /// Makes the file at `path` that disk, or finds the file that is it already, and attaches the disk: from then on
    /// READs and WRITEs of the file go to it. Idempotent; the mark is durable when this returns. Blocks.
    pub fn attach_disk(&self, path: &Path, id: &DiskId, disk: Arc<Disk>) -> Result<(), NfsError> {
        if self.reattach_disk(id, disk.clone())? {
            return Ok(());
        }
        let what = || format!("attach disk {id}");
        let (dir, name) = self.local_parent(path)?;
        let mark = DiskMark { id: id.as_str().to_owned(), size: disk.size() };
        let found = self.lookup(&dir, &name).ok();
        match found {
            Some(node) => self.mark(&node, mark)?,
            None => {
                let identity = self
                    .own_identity(Kind::File, DISK_MODE, Some(mark))
                    .map_err(local_name(what()))?;
                self.put((&dir, &name), identity, &New::File(Creation::Guarded), None)
                    .map_err(local_name(what()))?;
            }
        }
        let node = self.lookup(&dir, &name).map_err(local_name(what()))?;
        self.disks.lock().insert(id.as_str().to_owned(), node.id);
        match self.reattach_disk(id, disk)? {
            true => Ok(()),
            false => Err(not_there(path)),
        }
    }

    /// Attaches the disk to the file that is marked as it, wherever a client moved that; false if there is none, that
    /// is, a client removed it.
    pub fn reattach_disk(&self, id: &DiskId, disk: Arc<Disk>) -> Result<bool, NfsError> {
        let Some(node) = self.disk_node(id) else { return Ok(false) };
        let Body::File(body) = &node.body else { return Ok(false) };
        let mut slot = body.disk.write();
        let Some(slot) = slot.as_mut() else { return Ok(false) };
        slot.mark.size = disk.size();
        slot.disk = Some(disk);
        body.latency.get_or_init(Box::default);
        Ok(true)
    }

    /// Lets go of the disk. Its file stays; READs and WRITEs of it wait until it is attached again.
    pub fn detach_disk(&self, id: &DiskId) {
        if let Some(node) = self.disk_node(id)
            && let Some(slot) =
                node.file().and_then(|body| body.disk.write().as_mut().map(|s| s.disk.take()))
        {
            drop(slot);
        }
    }

    /// Whether a file is that disk: false once a client has removed it.
    pub fn disk_present(&self, id: &DiskId) -> bool {
        self.disk_node(id).is_some()
    }

    fn disk_node(&self, id: &DiskId) -> Option<Arc<Node>> {
        let node = self.disks.lock().get(id.as_str()).copied()?;
        self.node(node)
    }

    /// Marks an existing file as a disk.
    fn mark(&self, node: &Arc<Node>, mark: DiskMark) -> Result<(), NfsError> {
        let refuse = |why: &str| Err(NfsError::Refused(format!("disk {}: {why}", mark.id)));
        let Body::File(body) = &node.body else { return refuse("its path is not a file") };
        if let Some(other) = &*body.disk.read() {
            return refuse(&format!("its file is disk {}", other.mark.id));
        }
        let names = self.names.lock();
        let file = self.open_file(node).map_err(local_name("open a disk's file"))?;
        let mut identity = node.identity(self.shared.store_id);
        identity.disk = Some(mark.clone());
        identity.write(&*file).map_err(NfsError::os("mark a disk's file"))?;
        drop(names);
        file.sync_all().map_err(NfsError::io("mark a disk's file"))?;
        *body.disk.write() = Some(DiskSlot { mark, disk: None });
        Ok(())
    }

    /// SETATTR of a disk's size: it grows; what the guest wrote is never cut off.
    pub(super) fn set_disk_size(
        &self,
        node: &Node,
        disk: Option<Arc<Disk>>,
        size: u64,
    ) -> Result<(), Status> {
        let disk = disk.ok_or(NFS3ERR_JUKEBOX)?;
        let now = disk.size();
        if size < now {
            return Err(NFS3ERR_INVAL);
        }
        if size > now {
            let runtime = tokio::runtime::Handle::try_current().map_err(|_| NFS3ERR_SERVERFAULT)?;
            runtime.block_on(disk.set_size(size)).map_err(|e| growth_status(&e))?;
        }
        node.meta().data_changed();
        Ok(())
    }
}
