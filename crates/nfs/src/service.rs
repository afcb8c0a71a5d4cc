//! From a record to its reply: which program, who calls, and whether that may be.

use crate::config::NfsConfig;
use crate::drc::{Drc, WriteLog};
use crate::rpc::{self, AuthError, Call, Credential};
use crate::wire::{Garbage, Put};
use crate::{Exports, mount, nfs, portmap};
use bytes::Bytes;
use rekindle_disk::Segments;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// A reply that came later.
pub(crate) struct Late {
    pub(crate) head: Vec<u8>,
    /// Data after the head, padded to a multiple of four by the one who sends it.
    pub(crate) data: Segments,
}

impl From<Vec<u8>> for Late {
    fn from(head: Vec<u8>) -> Self {
        Self { head, data: Segments::new() }
    }
}

/// A call that waits.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = Late> + Send>>;

/// What became of a call.
pub(crate) enum Outcome {
    /// The reply was written.
    Reply,
    /// The reply's head was written; this data follows.
    ReplyWith(Segments),
    /// The reply comes later; nothing was written.
    Later(Waiting),
    /// There is no reply, and the stream is not worth reading on.
    HangUp,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    /// Counts up with each connection.
    pub(crate) connection: u64,
    /// Calls that it has made.
    pub(crate) calls: Arc<AtomicU64>,
}

/// All programs, and what they share.
pub(crate) struct Service {
    pub(crate) exports: Exports,
    pub(crate) config: NfsConfig,
    pub(crate) drc: Drc,
    pub(crate) write_log: WriteLog,
    /// Constant while the server runs; WRITEs are durable when answered, so it need not tell more.
    pub(crate) write_verifier: [u8; 8],
    pub(crate) call_key: [u8; 32],
    pub(crate) name_changes: Arc<Semaphore>,
    /// Permits are KiB.
    pub(crate) read_memory: Arc<Semaphore>,
    pub(crate) port: AtomicU16,
    pub(crate) counters: Counters,
}

/// Counters of the whole server.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: AtomicU64,
    pub(crate) replayed: AtomicU64,
    /// Calls from addresses that may not make them.
    pub(crate) refused: AtomicU64,
    /// Records that were no calls, or of garbage.
    pub(crate) garbage: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Service {
    /// Answers a record, or says how it will be answered. Never blocks.
    pub(crate) fn call(
        self: &Arc<Self>,
        peer: &Peer,
        record: &Bytes,
        out: &mut Vec<u8>,
    ) -> Outcome {
        count(&self.counters.calls);
        count(&peer.calls);
        let call = match Call::parse(record) {
            Ok(call) => call,
            Err(bad) => {
                count(&self.counters.garbage);
                return match rpc::put_bad_call(out, bad) {
                    true => Outcome::Reply,
                    false => Outcome::HangUp,
                };
            }
        };
        let from = out.len();
        let answered = match call.program {
            nfs::PROGRAM => self.nfs_call(peer, &call, record, out),
            mount::PROGRAM => mount::call(self, peer, &call, out).map(|()| Outcome::Reply),
            portmap::PROGRAM => portmap::call(self, peer, &call, out).map(|()| Outcome::Reply),
            _ => {
                rpc::put_program_unavailable(out, call.xid);
                Ok(Outcome::Reply)
            }
        };
        answered.unwrap_or_else(|Garbage| {
            count(&self.counters.garbage);
            out.truncate(from);
            rpc::put_garbage(out, call.xid);
            Outcome::Reply
        })
    }

    fn nfs_call(
        self: &Arc<Self>,
        peer: &Peer,
        call: &Call<'_>,
        record: &Bytes,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Garbage> {
        if call.version != nfs::VERSION {
            rpc::put_version_mismatch(out, call.xid, (nfs::VERSION, nfs::VERSION));
            return Ok(Outcome::Reply);
        }
        if call.procedure == 0 {
            rpc::put_success(out, call.xid);
            return Ok(Outcome::Reply);
        }
        if call.procedure > nfs::LAST_PROCEDURE {
            rpc::put_procedure_unavailable(out, call.xid);
            return Ok(Outcome::Reply);
        }
        let mut args = call.args;
        // Each procedure's first argument is a handle.
        let handle = args.opaque(nfs::LONGEST_HANDLE)?;
        let at = match nfs::resolve(self, peer, handle) {
            Ok(at) => at,
            Err(status) => {
                rpc::put_success(out, call.xid);
                nfs::put_failure(out, call.procedure, status);
                return Ok(Outcome::Reply);
            }
        };
        let Credential::Sys { uid, gid, ref gids } = call.credential else {
            rpc::put_denied(out, call.xid, AuthError::TooWeak);
            return Ok(Outcome::Reply);
        };
        let caller = nfs::Caller { uid, gid, gids: gids.clone() };
        nfs::Request { service: self, peer, caller, call, at }.run(args, record, out)
    }
}

/// The head of a reply with nothing but an NFS status and the attributes that are not there.
pub(crate) fn failure(xid: u32, procedure: u32, status: nfsserve::nfs::nfsstat3) -> Late {
    let mut head = Vec::with_capacity(64);
    rpc::put_success(&mut head, xid);
    nfs::put_failure(&mut head, procedure, status);
    head.into()
}

/// A reply of one word after its head.
pub(crate) fn put_word(out: &mut Vec<u8>, xid: u32, word: u32) {
    rpc::put_success(out, xid);
    out.put_u32(word);
}
