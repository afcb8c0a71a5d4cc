//! An echo (RFC 792, RFC 4443) through a socket that needs no capability: the kernel fills in identifier and checksum, and
//! hands over the answers to this socket alone.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;

/// Type, code, checksum, identifier, sequence.
const HEAD: usize = 8;
/// What comes back as it was sent.
const NONCE: usize = 16;

/// Sends one echo and waits for its answer.
pub(super) async fn ping(address: IpAddr) -> Result<(), String> {
    let say = |e: io::Error| e.to_string();
    let socket = open(address)?;
    socket.connect(SocketAddr::new(address, 0)).await.map_err(say)?;
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|e| e.to_string())?;
    socket.send(&request(address, nonce)).await.map_err(say)?;
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(say)?;
        if is_answer(address, &buffer[..length], nonce) {
            return Ok(());
        }
    }
}

fn open(address: IpAddr) -> Result<UdpSocket, String> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let opened = socket(family, SockType::Datagram, flags, protocol).map_err(|e| match e {
        Errno::EACCES | Errno::EPERM => {
            "the kernel forbids it: the sysctl net.ipv4.ping_group_range must include the \
             appliance's group"
                .to_owned()
        }
        other => other.to_string(),
    })?;
    UdpSocket::from_std(std::net::UdpSocket::from(opened)).map_err(|e| e.to_string())
}

fn request(address: IpAddr, nonce: [u8; NONCE]) -> [u8; HEAD + NONCE] {
    let mut packet = [0; HEAD + NONCE];
    packet[0] = if address.is_ipv4() { 8 } else { 128 };
    // The first in its sequence.
    packet[7] = 1;
    packet[HEAD..].copy_from_slice(&nonce);
    packet
}

fn is_answer(address: IpAddr, packet: &[u8], nonce: [u8; NONCE]) -> bool {
    let reply = if address.is_ipv4() { 0 } else { 129 };
    packet.len() == HEAD + NONCE && packet[..2] == [reply, 0] && packet[HEAD..] == nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_echo_of_what_was_sent() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = address.parse().unwrap();
            let sent = request(address, [7; NONCE]);
            assert!(!is_answer(address, &sent, [7; NONCE]), "the request itself");
            let mut echo = sent;
            echo[0] = if address.is_ipv4() { 0 } else { 129 };
            // The kernel's identifier.
            echo[4..6].copy_from_slice(&[0xab, 0xcd]);
            assert!(is_answer(address, &echo, [7; NONCE]));
            assert!(!is_answer(address, &echo, [8; NONCE]), "of somebody else");
            assert!(!is_answer(address, &echo[..HEAD], [7; NONCE]), "cut short");
            assert!(!is_answer(address, &[], [7; NONCE]));
        }
    }
}
