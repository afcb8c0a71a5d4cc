//! Bytes of real files: what the page cache has at once, the rest by a thread that may block.

use super::node::Node;
use super::write_queue::{Change, Outcome, drain};
use super::{Export, Status, status};
use bytes::Bytes;
use nfsserve::nfs::nfsstat3::{NFS3ERR_IO, NFS3ERR_STALE};
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a READ of `count` bytes at `at` of a file of `size` bytes reads, and whether that reaches the end
/// (RFC 1813 section 3.3.6: `eof` is set by the very READ that reaches it).
pub(crate) fn extent(size: u64, at: u64, count: u32) -> (Range<u64>, bool) {
    let end = at.saturating_add(u64::from(count)).min(size);
    let range = at.min(end)..end;
    (range, at.saturating_add(u64::from(count)) >= size)
}

/// Appends the range to `out` if the page cache has all of it; else leaves `out` as it was.
pub(crate) fn read_cached(file: &File, range: &Range<u64>, out: &mut Vec<u8>) -> bool {
    let from = out.len();
    let len = (range.end - range.start) as usize;
    out.resize(from + len, 0);
    let mut slices = [IoSliceMut::new(&mut out[from..])];
    let got = rustix::io::preadv2(file, &mut slices, range.start, ReadWriteFlags::NOWAIT);
    if got == Ok(len) {
        return true;
    }
    out.truncate(from);
    false
}

/// Reads the range. It may be shorter where the file was cut meanwhile. Blocks.
pub(crate) fn read_blocking(file: &File, range: &Range<u64>) -> Result<Bytes, Status> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], range.start + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(status(&e)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

impl Export {
    /// Puts a WRITE to a real file in line; the outcome comes when it is durable.
    pub(crate) fn write_file(
        self: &Arc<Self>,
        node: &Arc<Node>,
        at: u64,
        data: Bytes,
    ) -> Result<oneshot::Receiver<Outcome>, Status> {
        let body = node.must_be_file()?;
        if self.is_closed() {
            return Err(NFS3ERR_STALE);
        }
        let (outcome, must_drain) = body.writes.push(Change::Write { at, data });
        if must_drain {
            let (export, node) = (self.clone(), node.clone());
            tokio::task::spawn_blocking(move || drain(&export, &node));
        }
        Ok(outcome)
    }

    /// Reads from a real file that the page cache may not have. Blocks.
    pub(crate) fn read_file_blocking(
        &self,
        node: &Node,
        at: u64,
        count: u32,
    ) -> Result<(Bytes, bool), Status> {
        let file = self.open_file(node)?;
        for _ in 0..4 {
            let (range, eof) = extent(node.size(), at, count);
            let bytes = read_blocking(&file, &range)?;
            // Shorter only if the file was cut after its size was looked up: then look again.
            if bytes.len() as u64 == range.end - range.start {
                return Ok((bytes, eof));
            }
        }
        Err(NFS3ERR_IO)
    }
}

#[cfg(test)]
mod tests {
    use super::extent;

    #[test]
    fn the_read_that_reaches_the_end_says_so() {
        assert_eq!(extent(10, 0, 4), (0..4, false));
        assert_eq!(extent(10, 6, 4), (6..10, true));
        assert_eq!(extent(10, 6, 9), (6..10, true));
        assert_eq!(extent(10, 10, 5), (10..10, true));
        assert_eq!(extent(10, 1 << 62, 5), (10..10, true));
        assert_eq!(extent(10, u64::MAX, u32::MAX), (10..10, true));
        assert_eq!(extent(10, 3, 0), (3..3, false));
        assert_eq!(extent(0, 0, 0), (0..0, true));
    }
}
