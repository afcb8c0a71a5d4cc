//! Registering with an rpcbind that runs on this machine (RFC 1833 section 3.2).

use crate::record;
use crate::wire::Put;
use crate::{mount, nfs, portmap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);
const SET: u32 = 1;
const UNSET: u32 = 2;
const TCP: u32 = 6;

/// Registers NFS and MOUNT at `port`, in place of what was registered.
pub(super) async fn register(rpcbind: u16, port: u16) -> io::Result<()> {
    for (program, version) in [(nfs::PROGRAM, nfs::VERSION), (mount::PROGRAM, mount::VERSION)] {
        ask(rpcbind, UNSET, [program, version, TCP, u32::from(port)]).await?;
        if !ask(rpcbind, SET, [program, version, TCP, u32::from(port)]).await? {
            return Err(io::Error::other(format!("rpcbind refuses program {program}")));
        }
    }
    Ok(())
}

/// Takes the registration back.
pub(super) async fn unregister(rpcbind: u16, port: u16) -> io::Result<()> {
    for (program, version) in [(nfs::PROGRAM, nfs::VERSION), (mount::PROGRAM, mount::VERSION)] {
        ask(rpcbind, UNSET, [program, version, TCP, u32::from(port)]).await?;
    }
    Ok(())
}

async fn ask(rpcbind: u16, procedure: u32, mapping: [u32; 4]) -> io::Result<bool> {
    let mut call = Vec::new();
    let head = [1, 0, 2, portmap::PROGRAM, 2, procedure, 0, 0, 0, 0];
    head.into_iter().chain(mapping).for_each(|word| call.put_u32(word));
    let exchange = async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rpcbind));
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(&[&record::mark(call.len())[..], &call].concat()).await?;
        // Mark, xid, REPLY, accepted, verifier (2), success, the answer.
        let mut reply = [0; 32];
        socket.read_exact(&mut reply).await?;
        Ok(reply[31] == 1)
    };
    timeout(PATIENCE, exchange).await?
}
