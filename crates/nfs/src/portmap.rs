//! The portmapper (RFC 1833 section 3, version 2): where NFS and MOUNT are.
//!
//! SET and UNSET are answered with "no": what is listed is what this server serves.

use crate::rpc::{self, Call};
use crate::service::{Peer, Service, put_word};
use crate::wire::{Args, Garbage, Put};
use crate::{mount, nfs};
use std::sync::atomic::Ordering;

pub(crate) const PROGRAM: u32 = 100_000;
const VERSION: u32 = 2;
const TCP: u32 = 6;
const UDP: u32 = 17;

/// Answers a call.
pub(crate) fn call(
    service: &Service,
    _peer: &Peer,
    call: &Call<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Garbage> {
    if call.version != VERSION {
        rpc::put_version_mismatch(out, call.xid, (VERSION, VERSION));
        return Ok(());
    }
    match call.procedure {
        0 => rpc::put_success(out, call.xid),
        1 | 2 => {
            mapping(call.args)?;
            put_word(out, call.xid, 0);
        }
        3 => put_word(out, call.xid, port(service, mapping(call.args)?)),
        4 => dump(service, call.xid, out),
        _ => rpc::put_procedure_unavailable(out, call.xid),
    }
    Ok(())
}

/// Program, version, protocol and port.
type Mapping = (u32, u32, u32, u32);

fn mapping(mut args: Args<'_>) -> Result<Mapping, Garbage> {
    Ok((args.u32()?, args.u32()?, args.u32()?, args.u32()?))
}

/// The port of a program; of another version of it too, as portmappers do: the call then says which there are.
fn port(service: &Service, (program, _, protocol, _): Mapping) -> u32 {
    let found = mappings(service).into_iter().find(|m| m.0 == program && m.2 == protocol);
    found.map_or(0, |m| m.3)
}

fn mappings(service: &Service) -> [Mapping; 4] {
    let port = u32::from(service.port.load(Ordering::Relaxed));
    let portmap = u32::from(service.config.portmap_port);
    [
        (PROGRAM, VERSION, TCP, portmap),
        (PROGRAM, VERSION, UDP, portmap),
        (nfs::PROGRAM, nfs::VERSION, TCP, port),
        (mount::PROGRAM, mount::VERSION, TCP, port),
    ]
}

fn dump(service: &Service, xid: u32, out: &mut Vec<u8>) {
    rpc::put_success(out, xid);
    for (program, version, protocol, port) in mappings(service) {
        for word in [1, program, version, protocol, port] {
            out.put_u32(word);
        }
    }
    out.put_u32(0);
}
