//! Registering with an rpcbind that runs on this machine (RFC 1833 section 2.2).
//!
//! By its local socket, where rpcbind knows who asks: only the same user, or root, may take the registration back. What is
//! registered by TCP has no owner there, and any local user can. So TCP is asked only where there is no such socket.

use crate::record;
use crate::wire::Put;
use crate::{mount, nfs, portmap};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);
/// Where rpcbind of every Linux distribution listens.
const SOCKET: &str = "/run/rpcbind.sock";
const RPCBIND_VERSION: u32 = 4;
const SET: u32 = 1;
const UNSET: u32 = 2;

/// Registers NFS and MOUNT at `port`, in place of what was registered.
pub(super) async fn register(rpcbind: u16, port: u16) -> io::Result<()> {
    for service in SERVICES {
        ask(rpcbind, UNSET, service, port).await?;
        if !ask(rpcbind, SET, service, port).await? {
            let (program, _) = service;
            let why = "another user may have registered it; see `rpcinfo`";
            return Err(io::Error::other(format!("rpcbind refuses program {program}: {why}")));
        }
    }
    Ok(())
}

/// Takes the registration back.
pub(super) async fn unregister(rpcbind: u16, port: u16) -> io::Result<()> {
    for service in SERVICES {
        ask(rpcbind, UNSET, service, port).await?;
    }
    Ok(())
}

/// A program and its version.
type Registered = (u32, u32);

const SERVICES: [Registered; 2] = [(nfs::PROGRAM, nfs::VERSION), (mount::PROGRAM, mount::VERSION)];

async fn ask(rpcbind: u16, procedure: u32, service: Registered, port: u16) -> io::Result<bool> {
    let call = call(procedure, service, port);
    let asked = async {
        match UnixStream::connect(SOCKET).await {
            Ok(socket) => exchange(socket, &call).await,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rpcbind));
                exchange(TcpStream::connect(address).await?, &call).await
            }
            Err(e) => Err(e),
        }
    };
    timeout(PATIENCE, asked).await?
}

async fn exchange(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    call: &[u8],
) -> io::Result<bool> {
    socket.write_all(&[&record::mark(call.len())[..], call].concat()).await?;
    // Mark, xid, REPLY, accepted, verifier (2), success, the answer.
    let mut reply = [0; 32];
    socket.read_exact(&mut reply).await?;
    Ok(reply[31] == 1)
}

/// A call of RPCBPROC_SET or RPCBPROC_UNSET for TCP at `port` of every address.
fn call(procedure: u32, (program, version): Registered, port: u16) -> Vec<u8> {
    let mut call = Vec::new();
    let head = [1, 0, 2, portmap::PROGRAM, RPCBIND_VERSION, procedure, 0, 0, 0, 0];
    head.into_iter().chain([program, version]).for_each(|word| call.put_u32(word));
    let address = format!("0.0.0.0.{}.{}", port >> 8, port & 0xff);
    // Who owns it is for rpcbind to say.
    for text in ["tcp", &address, ""] {
        call.put_opaque(text.as_bytes());
    }
    call
}

#[cfg(test)]
mod tests {
    use super::{SET, call};

    #[test]
    fn a_universal_address_has_the_port_in_two_numbers() {
        let call = call(SET, (100_003, 3), 2049);
        let address = b"\0\0\0\x0b0.0.0.0.8.1\0";
        assert!(call.windows(address.len()).any(|part| part == address));
        assert_eq!(call.len() % 4, 0);
    }
}
