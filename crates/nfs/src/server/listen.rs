//! Sockets: listening, and the care that connections need.

use crate::NfsError;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const BACKLOG: i32 = 1024;
/// A client that has gone without a word is noticed after a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Listens by TCP. A restarted server gets its port back at once.
pub(super) fn tcp(address: SocketAddr) -> Result<TcpListener, NfsError> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| NfsError::Listen { address, source })
}

/// Listens by UDP.
pub(super) fn udp(address: SocketAddr) -> Result<UdpSocket, NfsError> {
    let listen = || -> io::Result<UdpSocket> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    listen().map_err(|source| NfsError::Listen { address, source })
}

/// Sets a new connection up. The kernel sizes its buffers as needed, but for what it cannot send.
pub(super) fn care_for(socket: &TcpStream, send_seconds: u64, unsent_bytes: u32) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_notsent_lowat(unsent_bytes)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // A peer that vanished does not hold its old port for the kernel's quarter of an hour.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(send_seconds.max(10))))
}
