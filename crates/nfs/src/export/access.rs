//! Who may do what to a file: the honest mode check. Root (uid 0) is not squashed and may do everything.

use super::Status;
use super::node::{Kind, Meta, Node};
use nfsserve::nfs::nfsstat3::{NFS3ERR_ACCES, NFS3ERR_PERM};
use smallvec::SmallVec;

pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const EXEC: u32 = 1;

/// ACCESS bits of RFC 1813 section 3.3.4.
const ACCESS_READ: u32 = 0x01;
const ACCESS_LOOKUP: u32 = 0x02;
const ACCESS_MODIFY: u32 = 0x04;
const ACCESS_EXTEND: u32 = 0x08;
const ACCESS_DELETE: u32 = 0x10;
const ACCESS_EXECUTE: u32 = 0x20;

const STICKY: u32 = 0o1000;

/// Who makes a call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) gids: SmallVec<[u32; 16]>,
}

impl Caller {
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.gids.contains(&gid)
    }

    /// The rwx bits that the caller has.
    fn bits(&self, meta: &Meta, kind: Kind) -> u32 {
        if self.is_root() {
            // Root executes only what somebody may.
            let exec = kind == Kind::Dir || meta.mode & 0o111 != 0;
            return READ | WRITE | if exec { EXEC } else { 0 };
        }
        let shift = match () {
            () if meta.uid == self.uid => 6,
            () if self.in_group(meta.gid) => 3,
            () => 0,
        };
        meta.mode >> shift & 7
    }

    /// Whether the caller has all of these rwx bits.
    pub(crate) fn may(&self, node: &Node, bits: u32) -> Result<(), Status> {
        if self.is_root() || self.bits(&node.meta(), node.kind) & bits == bits {
            return Ok(());
        }
        Err(NFS3ERR_ACCES)
    }

    /// The same for the data of a file, which its owner may use whatever its mode: the client that has it open
    /// checked the mode at that time.
    pub(crate) fn may_use(&self, node: &Node, bits: u32) -> Result<(), Status> {
        if self.is_root() || node.meta().uid == self.uid {
            return Ok(());
        }
        self.may(node, bits)
    }

    /// Whether the caller owns it.
    pub(crate) fn owns(&self, node: &Node) -> Result<(), Status> {
        if self.is_root() || node.meta().uid == self.uid {
            return Ok(());
        }
        Err(NFS3ERR_PERM)
    }

    /// Whether the caller may take the name of `child` out of `parent`: a sticky folder keeps others' files.
    pub(crate) fn may_remove(&self, parent: &Node, child: &Node) -> Result<(), Status> {
        self.may(parent, WRITE | EXEC)?;
        let sticky = parent.meta().mode & STICKY != 0;
        if sticky && self.owns(child).is_err() {
            return self.owns(parent);
        }
        Ok(())
    }

    /// The answer to ACCESS: those of the asked bits that are granted.
    pub(crate) fn access(&self, node: &Node, asked: u32) -> u32 {
        let bits = self.bits(&node.meta(), node.kind);
        let mut granted = 0;
        if bits & READ != 0 {
            granted |= ACCESS_READ;
        }
        if bits & WRITE != 0 {
            granted |= ACCESS_MODIFY | ACCESS_EXTEND;
        }
        match node.kind {
            Kind::Dir => {
                if bits & EXEC != 0 {
                    granted |= ACCESS_LOOKUP;
                }
                if bits & WRITE != 0 {
                    granted |= ACCESS_DELETE;
                }
            }
            _ if bits & EXEC != 0 => granted |= ACCESS_EXECUTE,
            _ => {}
        }
        granted & asked
    }
}
