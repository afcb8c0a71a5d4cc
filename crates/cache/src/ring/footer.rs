use std::io;

use rekindle_block::BlockHash;

use super::record::{PAGE, Span};
use super::segment::Segment;

const MAGIC: &[u8; 8] = b"RKFOOT01";
/// Name, page and length.
const ENTRY: usize = 40;
/// Magic, segment id, count, CRC-32C of the entries and of the trailer before it.
const TRAILER: usize = 24;
/// Records of one segment: 512 MiB of the smallest, two pages each. Their footer is 2.6 MiB.
const RECORDS_MAX: usize = (512 << 20) / (2 * PAGE);

/// Bytes of a footer of `records` records.
pub(super) fn size(records: usize) -> u64 {
    (records * ENTRY + TRAILER) as u64
}

pub(super) fn encode(segment: u64, records: &[(BlockHash, Span)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * ENTRY + TRAILER);
    for (hash, span) in records {
        bytes.extend_from_slice(hash.as_bytes());
        bytes.extend_from_slice(&span.page.to_le_bytes());
        bytes.extend_from_slice(&span.len.to_le_bytes());
    }
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&segment.to_le_bytes());
    bytes.extend_from_slice(&(records.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The records that the footer of `segment` lists; `None` when it has no sound one.
pub(super) fn read(segment: &Segment) -> io::Result<Option<Vec<(BlockHash, Span)>>> {
    let len = segment.len()?;
    let Some(trailer_at) = len.checked_sub(TRAILER as u64) else { return Ok(None) };
    let mut trailer = [0; TRAILER];
    segment.read(trailer_at, &mut trailer)?;
    let Some(count) = count_in(&trailer, segment.id()) else { return Ok(None) };
    let Some(start) = len.checked_sub(size(count)) else { return Ok(None) };
    let mut bytes = vec![0; size(count) as usize];
    segment.read(start, &mut bytes)?;
    Ok(decode(&bytes, start))
}

fn count_in(trailer: &[u8; TRAILER], segment: u64) -> Option<usize> {
    let count = u32::from_le_bytes(*trailer[16..].first_chunk()?) as usize;
    let ours = &trailer[..8] == MAGIC && trailer[8..16] == segment.to_le_bytes();
    (ours && count <= RECORDS_MAX).then_some(count)
}

/// The entries of a whole footer that starts at `start`, each of which must lie before it.
fn decode(bytes: &[u8], start: u64) -> Option<Vec<(BlockHash, Span)>> {
    let (summed, sum) = bytes.split_last_chunk()?;
    if crc32c::crc32c(summed) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (entries, _trailer) = bytes[..bytes.len() - TRAILER].as_chunks::<ENTRY>();
    entries.iter().map(|entry| entry_in(entry).filter(|(_, s)| s.end() <= start)).collect()
}

fn entry_in(entry: &[u8; ENTRY]) -> Option<(BlockHash, Span)> {
    let hash = BlockHash::from_bytes(*entry.first_chunk()?);
    let page = u32::from_le_bytes(*entry[32..].first_chunk()?);
    let len = u32::from_le_bytes(*entry[36..].first_chunk()?);
    Some((hash, Span::checked(page, len)?))
}
