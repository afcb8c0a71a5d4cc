//! NFS version 3 (RFC 1813): what each procedure's arguments and results look like. What they mean is in
//! [`crate::export`].

mod change;
pub(crate) mod info;
mod listing;
mod look;
mod read;
mod write;

pub(crate) use crate::export::access::Caller;
use crate::export::node::Node;
use crate::export::{Export, Session, Status};
use crate::handle;
use crate::rpc::{self, Call};
use crate::service::{Outcome, Peer, Service, count};
use crate::wire::{Args, Garbage, Put};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::*;
pub(crate) use nfsserve::nfs::{PROGRAM, VERSION};
use nfsserve::nfs::{fattr3, wcc_attr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use subtle::ConstantTimeEq;

pub(crate) const LAST_PROCEDURE: u32 = 21;
/// NFS3_FHSIZE.
pub(crate) const LONGEST_HANDLE: usize = 64;
/// Names longer than the file system's 255 bytes are refused by their status, and longer than this as garbage.
const LONGEST_ARGUMENT_NAME: usize = 4096;

/// A file of an export.
#[derive(Clone)]
pub(crate) struct At {
    pub(crate) export: Arc<Export>,
    pub(crate) node: Arc<Node>,
}

impl At {
    fn attributes(&self) -> fattr3 {
        self.node.attributes(self.export.id())
    }
}

/// Finds what a handle names, if the client may use it at all.
pub(crate) fn resolve(service: &Service, peer: &Peer, handle: &[u8]) -> Result<At, Status> {
    let named = handle::decode(handle).ok_or(NFS3ERR_BADHANDLE)?;
    let gone = || match service.exports.is_genuine(&named) {
        true => NFS3ERR_STALE,
        false => NFS3ERR_BADHANDLE,
    };
    let export = service.exports.by_id(named.export).ok_or_else(gone)?;
    if !export.allows(peer.ip) {
        count(&service.counters.refused);
        // Who guesses does not learn which exports there are.
        return Err(match service.exports.is_genuine(&named) {
            true => NFS3ERR_ACCES,
            false => NFS3ERR_BADHANDLE,
        });
    }
    match export.node(named.file) {
        Some(node) if bool::from(node.mac.ct_eq(&named.mac)) => Ok(At { export, node }),
        Some(_) => Err(NFS3ERR_BADHANDLE),
        None => Err(gone()),
    }
}

/// A failed call's results: the status, and that its attributes are not there.
pub(crate) fn put_failure(out: &mut Vec<u8>, procedure: u32, status: Status) {
    out.put_u32(status as u32);
    let absent = match procedure {
        1 => 0,
        2 | 7..=13 | 21 => 2,
        14 => 4,
        15 => 3,
        _ => 1,
    };
    for _ in 0..absent {
        out.put_u32(0);
    }
}

/// A call whose handle was found and whose caller is known.
pub(crate) struct Request<'a> {
    pub(crate) service: &'a Arc<Service>,
    pub(crate) peer: &'a Peer,
    pub(crate) caller: Caller,
    pub(crate) call: &'a Call<'a>,
    pub(crate) at: At,
}

impl Request<'_> {
    /// Answers the call. `args` are those after the handle.
    pub(crate) fn run(
        self,
        args: Args<'_>,
        record: &Bytes,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Garbage> {
        let session = self.at.export.session(self.peer.ip);
        self.count(&session);
        match self.call.procedure {
            6 => return self.read(args, &session, out),
            7 => return self.write(args, &session, record, out),
            2 | 8..=15 => return self.change(args, record, out),
            _ => {}
        }
        rpc::put_success(out, self.call.xid);
        let from = out.len();
        let done = match self.call.procedure {
            1 => self.getattr(out),
            3 => self.lookup(args, out)?,
            4 => self.access(args, out)?,
            5 => self.readlink(out),
            16 => self.readdir(args, out)?,
            17 => self.readdirplus(args, out)?,
            18 => self.fsstat(out),
            19 => self.fsinfo(out),
            20 => self.pathconf(out),
            21 => self.commit(args, out)?,
            _ => Err(NFS3ERR_NOTSUPP),
        };
        if let Err(status) = done {
            out.truncate(from);
            self.count_error();
            self.put_error(out, status);
        }
        Ok(Outcome::Reply)
    }

    fn count(&self, session: &Session) {
        self.at.export.stats.calls.fetch_add(1, Ordering::Relaxed);
        session.calls.fetch_add(1, Ordering::Relaxed);
        session.last_seen.store(now_seconds(), Ordering::Relaxed);
    }

    fn count_error(&self) {
        count(&self.at.export.stats.errors);
    }

    /// A failed reading call's results: the status and the attributes of the file.
    fn put_error(&self, out: &mut Vec<u8>, status: Status) {
        out.put_u32(status as u32);
        match self.call.procedure {
            1 => {}
            21 => out.put_wcc(None, Some(&self.at.attributes())),
            _ => out.put_attributes(Some(&self.at.attributes())),
        }
    }
}

fn now_seconds() -> u64 {
    u64::from(crate::export::node::Time::now().wire().seconds)
}

/// The attributes of a file before and after it was changed.
pub(crate) struct Wcc {
    before: Option<wcc_attr>,
    after: Option<fattr3>,
}

impl Wcc {
    fn new(before: Option<wcc_attr>, at: &At) -> Self {
        Self { before, after: Some(at.attributes()) }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_wcc(self.before.as_ref(), self.after.as_ref());
    }
}
