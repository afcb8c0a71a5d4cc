//! Reads of a disk whose bytes lie in runs: each at one place of a file, or nowhere and so zero.

use std::ops::Range;

use crate::ImageError;
use crate::folder::SourceFile;

/// Where a run of bytes starts in its file, `None` for zeros; and how many there are, at least 1.
pub(crate) type Run = (Option<u64>, u64);

/// Fills `buf` from byte `offset` of the disk. `run_at(at, max)` tells of the bytes at `at`, at most `max`.
pub(crate) fn read(
    file: &SourceFile,
    offset: u64,
    buf: &mut [u8],
    run_at: impl Fn(u64, u64) -> Result<Run, ImageError>,
) -> Result<(), ImageError> {
    let mut done = 0;
    while done < buf.len() {
        let (place, len) = run_at(offset + done as u64, (buf.len() - done) as u64)?;
        let part = &mut buf[done..done + len as usize];
        match place {
            Some(place) => file.read_exact_at(place, part)?,
            None => part.fill(0),
        }
        done += len as usize;
    }
    Ok(())
}

/// The first range at or behind `from`, and starting before `until`, that the file has stored.
pub(crate) fn next_data(
    file: &SourceFile,
    from: u64,
    until: u64,
    run_at: impl Fn(u64, u64) -> Result<Run, ImageError>,
) -> Result<Option<Range<u64>>, ImageError> {
    let mut at = from;
    while at < until {
        let (place, len) = run_at(at, until - at)?;
        if let Some(place) = place
            && let Some(found) = file.stored_part(place, len)?
        {
            return Ok(Some(at + found.start..at + found.end));
        }
        at += len;
    }
    Ok(None)
}
