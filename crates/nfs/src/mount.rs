//! MOUNT version 3 (RFC 1813 appendix I): from a path to a handle, and who has what mounted.

use crate::export::Export;
use crate::export::node::{Kind, Node};
use crate::rpc::{self, Call};
use crate::service::{Peer, Service, count};
use crate::wire::{Args, Garbage, Put};
use std::sync::Arc;

pub(crate) const PROGRAM: u32 = 100_005;
pub(crate) const VERSION: u32 = 3;
/// MNTPATHLEN.
const LONGEST_PATH: usize = 1024;
const AUTH_SYS: u32 = 1;
/// Exports and mounts listed in one reply, which is then at most 2 MiB long.
const LISTED: usize = 4096;

/// `mountstat3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum MountError {
    NotThere = 2,
    Access = 13,
    NotAFolder = 20,
}

/// Answers a call.
pub(crate) fn call(
    service: &Service,
    peer: &Peer,
    call: &Call<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Garbage> {
    if call.version != VERSION {
        rpc::put_version_mismatch(out, call.xid, (VERSION, VERSION));
        return Ok(());
    }
    if call.procedure > 5 {
        rpc::put_procedure_unavailable(out, call.xid);
        return Ok(());
    }
    rpc::put_success(out, call.xid);
    match call.procedure {
        1 => mnt(service, peer, call.args, out)?,
        2 => dump(service, peer, out),
        3 => umnt(service, peer, call.args)?,
        4 => service.exports.all().iter().for_each(|export| export.unmounted(peer.ip)),
        5 => exports(service, peer, out),
        _ => {}
    }
    Ok(())
}

fn mnt(
    service: &Service,
    peer: &Peer,
    mut args: Args<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Garbage> {
    let path = args.opaque(LONGEST_PATH)?;
    match find(service, peer, path) {
        Ok((export, node)) => {
            export.mounted(peer.ip);
            tracing::info!(export = export.name(), client = %peer.ip, "mounted");
            out.put_u32(0);
            out.put_opaque(&node.handle(export.id()));
            out.put_u32(1);
            out.put_u32(AUTH_SYS);
        }
        Err(error) => {
            if error == MountError::Access {
                count(&service.counters.refused);
            }
            out.put_u32(error as u32);
        }
    }
    Ok(())
}

/// The folder that a path names: an export or a folder in one. Who is no client of any export learns nothing.
fn find(
    service: &Service,
    peer: &Peer,
    path: &[u8],
) -> Result<(Arc<Export>, Arc<Node>), MountError> {
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    let export = names
        .next()
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| service.exports.get(name))
        .filter(|export| export.allows(peer.ip));
    let Some(export) = export else {
        return Err(match service.exports.know(peer.ip) {
            true => MountError::NotThere,
            false => MountError::Access,
        });
    };
    let mut node = export.root().clone();
    for name in names {
        if matches!(name, b"." | b"..") {
            return Err(MountError::NotThere);
        }
        node = export.lookup(&node, name).map_err(|_| MountError::NotThere)?;
    }
    match node.kind {
        Kind::Dir => Ok((export, node)),
        _ => Err(MountError::NotAFolder),
    }
}

/// The path may come without its slash, or be anything (ESXi sends what its user typed).
fn umnt(service: &Service, peer: &Peer, mut args: Args<'_>) -> Result<(), Garbage> {
    let path = args.opaque(LONGEST_PATH)?;
    let name = path.split(|byte| *byte == b'/').find(|name| !name.is_empty());
    let export = name
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| service.exports.get(name));
    if let Some(export) = export {
        export.unmounted(peer.ip);
    }
    Ok(())
}

fn visible(service: &Service, peer: &Peer) -> impl Iterator<Item = Arc<Export>> {
    let ip = peer.ip;
    service.exports.all().into_iter().filter(move |export| export.allows(ip))
}

fn dump(service: &Service, peer: &Peer, out: &mut Vec<u8>) {
    let mounts = visible(service, peer).flat_map(|export| {
        let clients = export.mounts().into_iter();
        clients.map(move |client| (client, export.clone()))
    });
    for (client, export) in mounts.take(LISTED) {
        out.put_u32(1);
        out.put_opaque(client.to_string().as_bytes());
        out.put_opaque(export.path().as_bytes());
    }
    out.put_u32(0);
}

fn exports(service: &Service, peer: &Peer, out: &mut Vec<u8>) {
    for export in visible(service, peer).take(LISTED) {
        out.put_u32(1);
        out.put_opaque(export.path().as_bytes());
        for client in export.clients().iter().take(16) {
            out.put_u32(1);
            out.put_opaque(client.to_string().as_bytes());
        }
        out.put_u32(0);
    }
    out.put_u32(0);
}
