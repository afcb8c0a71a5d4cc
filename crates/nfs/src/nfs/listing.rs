//! READDIR and READDIRPLUS. A cookie names a place among the hashes of names, so any cookie is good at any time:
//! the verifier is constant and is not looked at.

use super::{At, Request};
use crate::export::Status;
use crate::export::access::READ;
use crate::export::cookie::{DOT, DOT_DOT};
use crate::export::node::{Entries, Node};
use crate::wire::{Args, Garbage, Put, padding};
use nfsserve::nfs::fattr3;
use nfsserve::nfs::nfsstat3::*;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

const VERIFIER: [u8; 8] = *b"rekindle";
/// A reply is not longer than this, whatever was asked for.
const LONGEST: u32 = 1 << 20;
/// Status, attributes, verifier, "no more entries" and the end flag.
const FRAME: usize = 4 + 88 + 8 + 4 + 4;
/// What READDIRPLUS adds to an entry: attributes and a handle of 32 bytes.
const PLUS: usize = 88 + 4 + 4 + 32;

/// How much of a reply may be filled.
struct Room {
    /// Bytes left for everything.
    all: usize,
    /// Bytes left for names, ids and cookies (READDIRPLUS's `dircount`).
    names: usize,
    used: bool,
}

impl Room {
    /// Takes an entry's room; false if there is none. One entry is always let in by `dircount`, as a client that asks
    /// for too little of it would never get on.
    fn take(&mut self, name: &[u8], plus: bool) -> bool {
        let id_name_cookie = 8 + 4 + name.len() + padding(name.len()) + 8;
        let all = 4 + id_name_cookie + if plus { PLUS } else { 0 };
        if all > self.all || (self.used && id_name_cookie > self.names) {
            return false;
        }
        self.all -= all;
        self.names = self.names.saturating_sub(id_name_cookie);
        self.used = true;
        true
    }
}

impl Request<'_> {
    /// RFC 1813 section 3.3.16.
    pub(super) fn readdir(
        &self,
        mut args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), Status>, Garbage> {
        let cookie = args.u64()?;
        args.fixed::<8>()?;
        let count = args.u32()?;
        Ok(self.list(cookie, (u32::MAX, count), false, out))
    }

    /// RFC 1813 section 3.3.17.
    pub(super) fn readdirplus(
        &self,
        mut args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), Status>, Garbage> {
        let cookie = args.u64()?;
        args.fixed::<8>()?;
        let (dircount, maxcount) = (args.u32()?, args.u32()?);
        Ok(self.list(cookie, (dircount, maxcount), true, out))
    }

    fn list(
        &self,
        cookie: u64,
        (names, all): (u32, u32),
        plus: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        let dir = &self.at.node;
        let entries = dir.entries().ok_or(NFS3ERR_NOTDIR)?;
        self.caller.may(dir, READ)?;
        let room = (all.min(LONGEST) as usize).checked_sub(FRAME).ok_or(NFS3ERR_TOOSMALL)?;
        let mut room = Room { all: room, names: names as usize, used: false };
        out.put_u32(NFS3_OK as u32);
        out.put_attributes(Some(&self.at.attributes()));
        out.extend_from_slice(&VERIFIER);
        let whole = self.put_dots(cookie, &mut room, plus, out)
            && self.put_names(&entries.read(), cookie, &mut room, plus, out);
        if !room.used && !whole {
            return Err(NFS3ERR_TOOSMALL);
        }
        out.put_u32(0);
        out.put_u32(whole.into());
        Ok(())
    }

    fn put_dots(&self, cookie: u64, room: &mut Room, plus: bool, out: &mut Vec<u8>) -> bool {
        for (dot, name) in [(DOT, &b"."[..]), (DOT_DOT, b"..")] {
            if cookie >= dot {
                continue;
            }
            let node = match dot {
                DOT => Some(self.at.node.clone()),
                _ => self.at.export.parent(&self.at.node),
            };
            let Some(node) = node else { continue };
            if !room.take(name, plus) {
                return false;
            }
            self.put_entry(dot, name, &node, plus, out);
        }
        true
    }

    fn put_names(
        &self,
        entries: &Entries,
        cookie: u64,
        room: &mut Room,
        plus: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        let after = cookie.max(DOT_DOT);
        for (cookie, entry) in entries.range((Excluded(after), Unbounded)) {
            let Some(node) = self.at.export.node(entry.id) else { continue };
            if !room.take(&entry.name, plus) {
                return false;
            }
            self.put_entry(*cookie, &entry.name, &node, plus, out);
        }
        true
    }

    fn put_entry(&self, cookie: u64, name: &[u8], node: &Arc<Node>, plus: bool, out: &mut Vec<u8>) {
        out.put_u32(1);
        out.put_u64(node.id);
        out.put_opaque(name);
        out.put_u64(cookie);
        if plus {
            let at = At { export: self.at.export.clone(), node: node.clone() };
            let attributes: fattr3 = at.attributes();
            out.put_attributes(Some(&attributes));
            out.put_u32(1);
            out.put_opaque(&node.handle(at.export.id()));
        }
    }
}
