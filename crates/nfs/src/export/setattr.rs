//! SETATTR.

use super::access::{Caller, WRITE};
use super::node::{Kind, Meta, Node, Time};
use super::write_queue::{Change, drain};
use super::{CallKey, Export, Status, errno_status, status};
use nfsserve::nfs::nfsstat3::*;
use nfsserve::nfs::{
    nfstime3, sattr3, set_atime, set_gid3, set_mode3, set_mtime, set_size3, set_uid3,
};
use rustix::fs::{OFlags, Timespec, Timestamps};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const SETUID_SETGID: u32 = 0o6000;

/// What a time is set to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SetTime {
    Now,
    To(Time),
}

/// The attributes to be set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<SetTime>,
    pub(crate) mtime: Option<SetTime>,
}

impl TryFrom<&sattr3> for Changes {
    type Error = Status;

    fn try_from(set: &sattr3) -> Result<Self, Status> {
        let to = |time: nfstime3| Time::from_wire(time).map(SetTime::To).ok_or(NFS3ERR_INVAL);
        Ok(Self {
            mode: match set.mode {
                set_mode3::mode(mode) => Some(mode & 0o7777),
                set_mode3::Void => None,
            },
            uid: match set.uid {
                set_uid3::uid(uid) => Some(uid),
                set_uid3::Void => None,
            },
            gid: match set.gid {
                set_gid3::gid(gid) => Some(gid),
                set_gid3::Void => None,
            },
            size: match set.size {
                set_size3::size(size) => Some(size),
                set_size3::Void => None,
            },
            atime: match set.atime {
                set_atime::DONT_CHANGE => None,
                set_atime::SET_TO_SERVER_TIME => Some(SetTime::Now),
                set_atime::SET_TO_CLIENT_TIME(time) => Some(to(time)?),
            },
            mtime: match set.mtime {
                set_mtime::DONT_CHANGE => None,
                set_mtime::SET_TO_SERVER_TIME => Some(SetTime::Now),
                set_mtime::SET_TO_CLIENT_TIME(time) => Some(to(time)?),
            },
        })
    }
}

impl Changes {
    fn touches_inode(&self) -> bool {
        self.mode.is_some() || self.uid.is_some() || self.gid.is_some() || self.sets_times()
    }

    fn sets_times(&self) -> bool {
        self.atime.is_some() || self.mtime.is_some()
    }

    /// Sets the real inode's times.
    pub(super) fn set_times(&self, file: impl AsFd) -> Result<(), Status> {
        if !self.sets_times() {
            return Ok(());
        }
        let times =
            Timestamps { last_access: spec(self.atime), last_modification: spec(self.mtime) };
        rustix::fs::futimens(file, &times).map_err(errno_status)
    }

    fn check(&self, caller: &Caller, node: &Node) -> Result<(), Status> {
        if caller.is_root() {
            return Ok(());
        }
        let owner = caller.owns(node);
        let (uid, gid) = {
            let meta = node.meta();
            (meta.uid, meta.gid)
        };
        let gives_away = self.uid.is_some_and(|to| to != uid)
            || self.gid.is_some_and(|to| to != gid && !caller.in_group(to));
        if gives_away {
            return Err(NFS3ERR_PERM);
        }
        let is_set = |time: Option<SetTime>| matches!(time, Some(SetTime::To(_)));
        if self.mode.is_some() || self.gid.is_some() || is_set(self.atime) || is_set(self.mtime) {
            owner?;
        } else if self.sets_times() && owner.is_err() {
            caller.may(node, WRITE)?;
        }
        match self.size {
            Some(_) => caller.may_use(node, WRITE),
            None => Ok(()),
        }
    }

    /// Changes the attributes, not the size.
    fn apply(&self, caller: &Caller, meta: &mut Meta) {
        if self.uid.is_some() || self.gid.is_some() {
            meta.uid = self.uid.unwrap_or(meta.uid);
            meta.gid = self.gid.unwrap_or(meta.gid);
            if !caller.is_root() {
                meta.mode &= !SETUID_SETGID;
            }
        }
        meta.mode = self.mode.unwrap_or(meta.mode);
        meta.changed();
        let now = meta.ctime;
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        meta.atime = self.atime.map_or(meta.atime, time);
        meta.mtime = self.mtime.map_or(meta.mtime, time);
    }
}

fn spec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::To(time)) => {
            let wire = time.wire();
            Timespec { tv_sec: wire.seconds.into(), tv_nsec: wire.nseconds.into() }
        }
    }
}

impl Export {
    /// Sets attributes, durably (RFC 1813 section 3.3.2). Blocks.
    pub(crate) fn setattr(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        changes: &Changes,
    ) -> Result<(), Status> {
        changes.check(caller, node)?;
        if let Some(size) = changes.size {
            self.set_size(node, size)?;
        }
        if !changes.touches_inode() {
            return Ok(());
        }
        let names = self.names.lock();
        let file = self.set_inode(caller, node, changes)?;
        drop(names);
        self.sync.sync(vec![file]).map_err(|e| status(&e))
    }

    /// The same, but only if ctime is `guard`. One step: nothing else may change the file between the look and the
    /// change. Unlike without a guard it cannot just be done again, so that it was done is recorded on the file, with
    /// the change and after it. Blocks.
    pub(crate) fn setattr_guarded(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        changes: &Changes,
        (guard, call): (nfstime3, &CallKey),
    ) -> Result<(), Status> {
        changes.check(caller, node)?;
        let mut names = self.names.lock();
        let file = self.open_any(node)?;
        if names.find(node.id, &file, call).is_some() {
            drop(names);
            return self.sync.sync(vec![file]).map_err(|e| status(&e));
        }
        if Time::from_wire(guard) != Some(node.meta().ctime) {
            return Err(NFS3ERR_NOT_SYNC);
        }
        if let Some(size) = changes.size {
            self.set_size(node, size)?;
        }
        if changes.touches_inode() {
            self.set_inode(caller, node, changes)?;
        }
        names.note(node.id, &file, call, node.id).map_err(errno_status)?;
        drop(names);
        self.sync.sync(vec![file]).map_err(|e| status(&e))
    }

    /// Sets what is kept on the inode, and returns it to be synced. `names` must be held.
    fn set_inode(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        changes: &Changes,
    ) -> Result<OwnedFd, Status> {
        let file = self.open_any(node)?;
        let mut identity = node.identity(self.shared.store_id);
        {
            // The identity first, then the table: what clients see is on its way to the disk.
            identity.mode = changes.mode.unwrap_or(identity.mode);
            identity.uid = changes.uid.unwrap_or(identity.uid);
            identity.gid = changes.gid.unwrap_or(identity.gid);
            if !caller.is_root() && (changes.uid.is_some() || changes.gid.is_some()) {
                identity.mode &= !SETUID_SETGID;
            }
        }
        identity.write(&file).map_err(errno_status)?;
        changes.set_times(&file)?;
        changes.apply(caller, &mut node.meta());
        Ok(file)
    }

    fn open_any(&self, node: &Node) -> Result<OwnedFd, Status> {
        match node.kind {
            Kind::Dir => self.open_dir(node),
            Kind::File => Ok(self.open_file(node)?.try_clone().map_err(|e| status(&e))?.into()),
            _ => self.open(node, OFlags::RDONLY),
        }
    }

    /// Sets the size: a hole appears at once, whatever its length.
    fn set_size(&self, node: &Arc<Node>, size: u64) -> Result<(), Status> {
        let body = node.must_be_file()?;
        if size > crate::nfs::info::LARGEST_FILE {
            return Err(NFS3ERR_FBIG);
        }
        if let Some(disk) = node.disk() {
            return self.set_disk_size(node, disk, size);
        }
        let (outcome, must_drain) = body.writes.push(Change::SetSize(size));
        if must_drain {
            drain(self, node);
        }
        outcome.blocking_recv().map_err(|_| NFS3ERR_IO)?.map(|_| ())
    }
}
