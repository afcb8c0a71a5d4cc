//! Ways in for fuzz targets: bytes as a client would send them, without sockets.

use crate::NfsServer;
use crate::record::{Next, Records};
use crate::service::{Outcome, Peer};
use bytes::{Bytes, BytesMut};
use std::net::{IpAddr, Ipv4Addr};

/// Cuts a stream that comes `step` bytes at a time into records of at most `limit` bytes; how many there were, and how
/// many bytes they held. A stream that breaks the rules ends there.
pub fn cut_records(stream: &[u8], step: usize, limit: usize) -> (usize, usize) {
    let (mut records, mut input) = (Records::default(), BytesMut::new());
    let (mut count, mut bytes) = (0, 0);
    for packet in stream.chunks(step.max(1)) {
        input.extend_from_slice(packet);
        loop {
            match records.next(&mut input, limit) {
                Ok(Next::Record(record)) => {
                    count += 1;
                    bytes += record.len();
                }
                Ok(Next::Wants(_)) => break,
                Err(_) => return (count, bytes),
            }
        }
    }
    (count, bytes)
}

/// Answers one record as if it came from 127.0.0.1; `None` if the connection would be closed. Within a runtime.
pub async fn answer(server: &NfsServer, record: &[u8]) -> Option<Vec<u8>> {
    let peer =
        Peer { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), connection: 1, calls: Default::default() };
    let mut reply = Vec::new();
    let record = Bytes::copy_from_slice(record);
    match server.service().call(&peer, &record, &mut reply) {
        Outcome::Reply => {}
        Outcome::ReplyWith(data) => data.iter().for_each(|bytes| reply.extend_from_slice(bytes)),
        Outcome::Later(call) => {
            let late = call.await;
            reply = late.head;
            late.data.iter().for_each(|bytes| reply.extend_from_slice(bytes));
        }
        Outcome::HangUp => return None,
    }
    Some(reply)
}
