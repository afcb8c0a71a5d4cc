//! `sync_file_range`, which no safe crate offers.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;

const FLAGS: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE
    | libc::SYNC_FILE_RANGE_WRITE
    | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// Writes the dirty pages of `range`, and waits for them.
pub(super) fn write_back(fd: &OwnedFd, range: Range<u64>) -> io::Result<()> {
    let (at, len) = (range.start as i64, (range.end - range.start) as i64);
    // SAFETY: it takes no pointer, and the descriptor is open while it is borrowed.
    let done = unsafe { libc::sync_file_range(fd.as_raw_fd(), at, len, FLAGS) };
    nix::errno::Errno::result(done).map(drop).map_err(io::Error::from)
}
