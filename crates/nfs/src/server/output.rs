//! Replies on their way to a socket: heads gathered in one buffer, READ data by reference, all sent by vectored writes.

use crate::record;
use crate::wire::padding;
use bytes::{Buf, Bytes};
use rekindle_disk::Segments;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Data up to this length is copied beside its head: cheaper than one more slice.
const COPIED: usize = 1024;
/// Slices in one write.
const SLICES: usize = 128;
/// Heads that were sent are dropped from a buffer that never runs empty when they are this long.
const COMPACT: usize = 256 << 10;
/// A buffer longer than this is not kept when it is empty.
const KEPT: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Output {
    /// What [`Part::Head`]s are of, in their order.
    heads: Vec<u8>,
    /// Bytes of `heads` that were sent.
    sent: usize,
    parts: VecDeque<Part>,
    len: usize,
}

enum Part {
    Head(usize),
    /// A piece of what may be a larger block, kept whole by it.
    Data(Bytes),
    /// A copy, and so no more than itself.
    Copy(Bytes),
}

/// Where a reply begins in the buffer.
pub(super) struct Begun(usize);

impl Output {
    /// Bytes to be sent.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Begins a reply; its head is to be appended to the buffer.
    pub(super) fn begin(&mut self) -> (Begun, &mut Vec<u8>) {
        let begun = Begun(self.heads.len());
        self.heads.extend_from_slice(&[0; record::MARK]);
        (begun, &mut self.heads)
    }

    /// There is no reply after all.
    pub(super) fn abort(&mut self, begun: Begun) {
        self.heads.truncate(begun.0);
    }

    /// Ends a reply with data after its head.
    pub(super) fn end(&mut self, begun: Begun, data: Segments) {
        let body = begun.0 + record::MARK;
        let data_len: usize = data.iter().map(Bytes::len).sum();
        let pad = padding(data_len);
        let mark = record::mark(self.heads.len() - body + data_len + pad);
        self.heads[begun.0..body].copy_from_slice(&mark);
        let mut from = begun.0;
        for segment in data {
            if segment.len() <= COPIED {
                self.heads.extend_from_slice(&segment);
                continue;
            }
            self.push_head(self.heads.len() - from);
            from = self.heads.len();
            self.len += segment.len();
            self.parts.push_back(Part::Data(segment));
        }
        self.heads.extend_from_slice(&[0; 3][..pad]);
        self.push_head(self.heads.len() - from);
    }

    fn push_head(&mut self, len: usize) {
        self.len += len;
        match self.parts.back_mut() {
            Some(Part::Head(last)) => *last += len,
            _ => self.parts.push_back(Part::Head(len)),
        }
    }

    /// Copies the data that is still to be sent: a 4 KiB READ that its client does not take would keep the whole block
    /// it is of, which the cache believes gone.
    pub(super) fn detach(&mut self) {
        for part in &mut self.parts {
            if let Part::Data(bytes) = part {
                *part = Part::Copy(Bytes::copy_from_slice(bytes));
            }
        }
    }

    /// Sends what the socket takes. Ready when all is sent.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.slices(&mut slices);
            let sent = ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut at = self.sent;
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(match part {
                Part::Head(len) => {
                    at += len;
                    &self.heads[at - len..at]
                }
                Part::Data(bytes) | Part::Copy(bytes) => bytes,
            });
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while sent > 0
            && let Some(part) = self.parts.front_mut()
        {
            let (len, step) = match part {
                Part::Head(len) => {
                    let step = sent.min(*len);
                    *len -= step;
                    self.sent += step;
                    (*len, step)
                }
                Part::Data(bytes) | Part::Copy(bytes) => {
                    let step = sent.min(bytes.len());
                    bytes.advance(step);
                    (bytes.len(), step)
                }
            };
            sent -= step;
            if len == 0 {
                self.parts.pop_front();
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.len == 0 {
            self.parts.clear();
            self.sent = 0;
            match self.heads.capacity() > KEPT {
                true => self.heads = Vec::new(),
                false => self.heads.clear(),
            }
        } else if self.sent > COMPACT {
            self.heads.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Output;
    use crate::record::{Next, Records};
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;
    use rekindle_disk::Segments;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};
    use tokio::io::AsyncWrite;

    /// A socket that takes some bytes at a time and is full now and then.
    struct Narrow {
        taken: Vec<u8>,
        step: usize,
        full: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            self.full = !self.full;
            if self.full {
                return Poll::Pending;
            }
            let len = bytes.len().min(self.step);
            self.taken.extend_from_slice(&bytes[..len]);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_waits_long_keeps_no_block() {
        let block = Bytes::from(vec![7; 1 << 18]);
        let mut output = Output::default();
        let (begun, _) = output.begin();
        output.end(begun, [block.slice(4096..8192)].into_iter().collect());
        assert!(!block.is_unique());
        output.detach();
        assert!(block.is_unique());
    }

    proptest! {
        /// However the socket takes them, replies come out whole, in order and padded.
        #[test]
        fn replies_come_out_whole(
            replies in prop::collection::vec((0_usize..9, prop::collection::vec(0_usize..3000, 0..4)), 1..9),
            step in 1_usize..5000,
        ) {
            let mut output = Output::default();
            let mut socket = Narrow { taken: Vec::new(), step, full: false };
            let mut cx = Context::from_waker(Waker::noop());
            let mut wanted = Vec::new();
            for (n, (words, data)) in replies.iter().enumerate() {
                let fill = n as u8 + 1;
                let (begun, out) = output.begin();
                out.extend(vec![fill; words * 4]);
                let segments: Segments = data.iter().map(|len| Bytes::from(vec![fill; *len])).collect();
                output.end(begun, segments);
                if n % 3 == 1 {
                    output.detach();
                }
                let len = words * 4 + data.iter().sum::<usize>();
                wanted.push((fill, len, len.next_multiple_of(4)));
                let _ = output.poll_send(&mut socket, &mut cx);
            }
            while output.poll_send(&mut socket, &mut cx).is_pending() {}
            prop_assert_eq!(output.len(), 0);
            let mut input = BytesMut::from(&socket.taken[..]);
            let mut records = Records::default();
            for (fill, len, padded) in wanted {
                let Next::Record(record) = records.next(&mut input, 1 << 20).unwrap() else { panic!() };
                prop_assert_eq!(record.len(), padded);
                prop_assert!(record[..len].iter().all(|byte| *byte == fill));
                prop_assert!(record[len..].iter().all(|byte| *byte == 0));
            }
            prop_assert!(input.is_empty());
        }
    }
}
