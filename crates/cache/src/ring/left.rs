//! What an earlier process left in the directory.

use std::io;
use std::path::Path;

use rekindle_block::BlockHash;

use super::footer;
use super::record::{PAGE, Span, decode_header};
use super::segment::{Segment, id_of, path_of};

/// A segment file that was found, not yet read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) id: u64,
    pub(super) bytes: u64,
}

/// The segments in `dir`, oldest first. The oldest beyond `most` are deleted; what is not a segment
/// is left alone.
pub(super) fn list(dir: &Path, most: usize) -> io::Result<Vec<Left>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(id_of) else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            found.push(Left { id, bytes: metadata.len() });
        }
    }
    found.sort_by_key(|left| left.id);
    for left in found.drain(..found.len().saturating_sub(most)) {
        let _ = std::fs::remove_file(path_of(dir, left.id));
    }
    Ok(found)
}

/// The records of `segment`: from its footer, or, when a kill or damage left none, from the headers.
pub(super) fn records(segment: &Segment) -> io::Result<Vec<(BlockHash, Span)>> {
    match footer::read(segment)? {
        Some(records) => Ok(records),
        None => headers(segment),
    }
}

/// Reads header after header; where there is none, looks on the next page.
fn headers(segment: &Segment) -> io::Result<Vec<(BlockHash, Span)>> {
    let len = segment.len()?;
    let mut found = Vec::new();
    let mut page = 0;
    let mut bytes = [0; 2 * PAGE];
    while (u64::from(page) + 1) * PAGE as u64 <= len {
        let at = u64::from(page) * PAGE as u64;
        let here = (len - at).min(2 * PAGE as u64) as usize;
        segment.read(at, &mut bytes[..here])?;
        match decode_header(&bytes[..here], segment.id(), page) {
            Some((hash, span)) if span.end() <= len => {
                found.push((hash, span));
                page += span.pages();
            }
            _ => page += 1,
        }
    }
    Ok(found)
}
