//! The calls that must not be done twice: SETATTR, CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME and LINK.
//!
//! Each is done by a thread that may block, once, whatever becomes of the connection; its reply is kept for those who
//! send the same call again.

use super::{At, Caller, LONGEST_ARGUMENT_NAME, Request, Wcc, resolve};
use crate::drc::{Begun, Ticket, call_key};
use crate::export::node::{Kind, Node};
use crate::export::{CallKey, Changes, Creation, New, Status};
use crate::rpc;
use crate::service::{Late, Outcome, Service, count, failure};
use crate::wire::{Args, Garbage, Put};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::*;
use nfsserve::nfs::{nfstime3, sattr3};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// NFS3_PATHLEN is the server's to choose.
const LONGEST_TARGET: usize = 4096;

/// A change, decoded, with all it needs to be made later.
enum Change {
    SetAttr {
        changes: Result<Changes, Status>,
        guard: Option<nfstime3>,
    },
    Make {
        name: Bytes,
        new: New,
        changes: Result<Changes, Status>,
    },
    /// MKNOD of a kind that it cannot make.
    BadType,
    Remove {
        name: Bytes,
        folders: bool,
    },
    Rename {
        name: Bytes,
        to: Result<At, Status>,
        to_name: Bytes,
    },
    Link {
        to: Result<At, Status>,
        name: Bytes,
    },
}

/// A change and for whom it is made.
struct Order {
    xid: u32,
    procedure: u32,
    caller: Caller,
    at: At,
    change: Change,
    key: CallKey,
}

impl Request<'_> {
    pub(super) fn change(
        self,
        args: Args<'_>,
        record: &Bytes,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Garbage> {
        let change = self.decode(args, record)?;
        let service = self.service.clone();
        let key = call_key(&service.call_key, self.peer.ip, self.call);
        let (xid, procedure) = (self.call.xid, self.call.procedure);
        let order = Order { xid, procedure, caller: self.caller, at: self.at, change, key };
        let connection = self.peer.connection;
        let begun = match service.drc.begin(key, connection) {
            Begun::Done(reply) => {
                count(&service.counters.replayed);
                out.extend_from_slice(&reply);
                return Ok(Outcome::Reply);
            }
            begun => begun,
        };
        Ok(Outcome::Later(match begun {
            Begun::Unsure => Box::pin(async move {
                let begun = service.drc.settle(key, connection).await;
                reply(service, order, begun).await
            }),
            // A new call is begun now: it is done also if its connection goes.
            begun => Box::pin(reply(service, order, begun)),
        }))
    }

    fn decode(&self, mut args: Args<'_>, record: &Bytes) -> Result<Change, Garbage> {
        let take = |args: &mut Args<'_>, limit| args.opaque(limit).map(|b| record.slice_ref(b));
        let name = |args: &mut Args<'_>| take(args, LONGEST_ARGUMENT_NAME);
        let changes = |args: &mut Args<'_>| args.value().map(|set: sattr3| Changes::try_from(&set));
        let place = |args: &mut Args<'_>| {
            let handle = args.opaque(super::LONGEST_HANDLE)?;
            Ok(resolve(self.service, self.peer, handle))
        };
        Ok(match self.call.procedure {
            2 => {
                let changes = changes(&mut args)?;
                let guard = args.flag()?.then(|| args.value()).transpose()?;
                Change::SetAttr { changes, guard }
            }
            8 => {
                let name = name(&mut args)?;
                let (how, changes) = creation(&mut args)?;
                Change::Make { name, new: New::File(how), changes }
            }
            9 => {
                let name = name(&mut args)?;
                Change::Make { name, new: New::Dir, changes: changes(&mut args)? }
            }
            10 => {
                let name = name(&mut args)?;
                let changes = changes(&mut args)?;
                let target = take(&mut args, LONGEST_TARGET)?;
                Change::Make { name, new: New::Symlink(target), changes }
            }
            11 => {
                let name = name(&mut args)?;
                node(&mut args, name)?
            }
            12 | 13 => {
                Change::Remove { name: name(&mut args)?, folders: self.call.procedure == 13 }
            }
            14 => {
                let from = name(&mut args)?;
                let to = place(&mut args)?;
                Change::Rename { name: from, to, to_name: name(&mut args)? }
            }
            _ => {
                let to = place(&mut args)?;
                Change::Link { to, name: name(&mut args)? }
            }
        })
    }
}

/// `createhow3`.
fn creation(args: &mut Args<'_>) -> Result<(Creation, Result<Changes, Status>), Garbage> {
    let how = match args.u32()? {
        0 => Creation::Unchecked,
        1 => Creation::Guarded,
        2 => return Ok((Creation::Exclusive(args.fixed()?), Ok(Changes::default()))),
        _ => return Err(Garbage),
    };
    let set: sattr3 = args.value()?;
    Ok((how, Changes::try_from(&set)))
}

/// `mknoddata3`. Devices, sockets and FIFOs are made as clients see them; here they are marked regular files.
fn node(args: &mut Args<'_>, name: Bytes) -> Result<Change, Garbage> {
    let kind = match args.u32()? {
        3 => Kind::Block,
        4 => Kind::Char,
        6 => Kind::Socket,
        7 => Kind::Fifo,
        1 | 2 | 5 => return Ok(Change::BadType),
        _ => return Err(Garbage),
    };
    let set: sattr3 = args.value()?;
    let rdev = match kind {
        Kind::Block | Kind::Char => (args.u32()?, args.u32()?),
        _ => (0, 0),
    };
    Ok(Change::Make { name, new: New::Special(kind, rdev), changes: Changes::try_from(&set) })
}

/// The reply to a call of which this is known. A new call is begun at once; what is returned only waits for it.
fn reply(
    service: Arc<Service>,
    order: Order,
    begun: Begun,
) -> impl Future<Output = Late> + Send + 'static {
    let (xid, procedure) = (order.xid, order.procedure);
    let known = match begun {
        Begun::Done(reply) => Ok(reply),
        Begun::Running(waiting) => Err(waiting),
        // Whoever settled it left none unsure.
        Begun::Unsure => Ok(failure(xid, procedure, NFS3ERR_JUKEBOX).head.into()),
        Begun::New(waiting, ticket) => {
            begin(&service, order, ticket);
            Err(waiting)
        }
    };
    async move {
        match known {
            Ok(reply) => Late::from(reply.to_vec()),
            Err(waiting) => match waiting.await {
                Ok(reply) => Late::from(reply.to_vec()),
                // It came to grief on its way, which was logged.
                Err(_) => failure(xid, procedure, NFS3ERR_SERVERFAULT),
            },
        }
    }
}

/// Has the change made by a thread that may block, as soon as few enough are at it.
fn begin(service: &Service, order: Order, ticket: Ticket) {
    let turns = service.name_changes.clone();
    match turns.clone().try_acquire_owned() {
        // That thread is woken by this one and wakes who waits: a task between them would have the scheduler run two
        // threads more for each change, at the cost of all who are served meanwhile.
        Ok(turn) => order.begin(turn, ticket),
        Err(_) => {
            tokio::spawn(async move {
                // Only a closed semaphore gives none, and this one never is.
                if let Ok(turn) = turns.acquire_owned().await {
                    order.begin(turn, ticket);
                }
            });
        }
    }
}

impl Order {
    fn begin(self, turn: OwnedSemaphorePermit, ticket: Ticket) {
        tokio::task::spawn_blocking(move || {
            let made = catch_unwind(AssertUnwindSafe(|| self.run()));
            let reply = made.unwrap_or_else(|_| {
                tracing::error!(procedure = self.procedure, "a call came to grief");
                failure(self.xid, self.procedure, NFS3ERR_SERVERFAULT).head
            });
            drop(turn);
            ticket.finish(reply.into());
        });
    }

    fn run(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        rpc::put_success(&mut out, self.xid);
        let before = self.at.node.before();
        let wcc = || Wcc::new(Some(before), &self.at);
        match &self.change {
            Change::SetAttr { changes, guard } => {
                let (export, node) = (&self.at.export, &self.at.node);
                let done = changes.clone().and_then(|changes| match guard {
                    Some(guard) => {
                        let once = (*guard, &self.key);
                        export.setattr_guarded(&self.caller, node, &changes, once)
                    }
                    None => export.setattr(&self.caller, node, &changes),
                });
                self.put_status(&mut out, done);
                wcc().put(&mut out);
            }
            Change::Make { name, new, changes } => {
                let made = changes.clone().and_then(|changes| self.create(name, new, &changes));
                self.put_made(&mut out, made, &wcc());
            }
            Change::BadType => self.put_made(&mut out, Err(NFS3ERR_BADTYPE), &wcc()),
            Change::Remove { name, folders } => {
                let place = (&self.at.node, &name[..]);
                let done = self.at.export.remove(&self.caller, place, *folders, Some(&self.key));
                self.put_status(&mut out, done);
                wcc().put(&mut out);
            }
            Change::Rename { name, to, to_name } => self.rename(&mut out, name, to, to_name),
            Change::Link { to, name } => self.link(&mut out, to, name),
        }
        out
    }

    fn create(&self, name: &[u8], new: &New, changes: &Changes) -> Result<Arc<Node>, Status> {
        let place = (&self.at.node, name);
        self.at.export.create(&self.caller, place, new, changes, Some(&self.key))
    }

    fn put_status(&self, out: &mut Vec<u8>, done: Result<(), Status>) {
        match done {
            Ok(()) => out.put_u32(NFS3_OK as u32),
            Err(status) => {
                count(&self.at.export.stats.errors);
                out.put_u32(status as u32);
            }
        }
    }

    fn put_made(&self, out: &mut Vec<u8>, made: Result<Arc<Node>, Status>, wcc: &Wcc) {
        self.put_status(out, made.as_ref().map(|_| ()).map_err(|status| *status));
        if let Ok(node) = made {
            let made = At { export: self.at.export.clone(), node };
            out.put_u32(1);
            out.put_opaque(&made.node.handle(made.export.id()));
            out.put_attributes(Some(&made.attributes()));
        }
        wcc.put(out);
    }

    fn rename(&self, out: &mut Vec<u8>, name: &[u8], to: &Result<At, Status>, to_name: &[u8]) {
        let before = self.at.node.before();
        let to_before = to.as_ref().ok().map(|to| to.node.before());
        let done = self.same_export(to).and_then(|to| {
            let (from, to) = ((&self.at.node, name), (&to.node, to_name));
            self.at.export.rename(&self.caller, from, to, Some(&self.key))
        });
        self.put_status(out, done);
        Wcc::new(Some(before), &self.at).put(out);
        match to {
            Ok(to) => Wcc::new(to_before, to).put(out),
            Err(_) => out.put_wcc(None, None),
        }
    }

    fn link(&self, out: &mut Vec<u8>, to: &Result<At, Status>, name: &[u8]) {
        let to_before = to.as_ref().ok().map(|to| to.node.before());
        let done = self.same_export(to).and_then(|to| {
            let place = (&to.node, name);
            self.at.export.link(&self.caller, &self.at.node, place, Some(&self.key))
        });
        self.put_status(out, done);
        out.put_attributes(Some(&self.at.attributes()));
        match to {
            Ok(to) => Wcc::new(to_before, to).put(out),
            Err(_) => out.put_wcc(None, None),
        }
    }

    fn same_export<'a>(&self, to: &'a Result<At, Status>) -> Result<&'a At, Status> {
        let to = to.as_ref().map_err(|status| *status)?;
        match Arc::ptr_eq(&to.export, &self.at.export) {
            true => Ok(to),
            false => Err(NFS3ERR_XDEV),
        }
    }
}
