//! A batch as it lies in a segment.
//!
//! ```text
//! 0    header: magic, life, seq, durable, lengths, count, crc      64 bytes   all little-endian
//! 64   entries: overlay, offset, len, crc, payload_at              32 bytes each, then zeros
//! H    payload: the entries' bytes end to end, then zeros          H and the end are multiples of 4096
//! ```
//!
//! The header's crc covers all H bytes with the crc's own field as zeros; each entry's crc covers
//! its payload. A batch is valid when every crc is right and it is the one that was expected: the
//! life's key and the sequence number keep out what a former life or lap left in the same place.

use std::ops::Range;

use super::buffer::AlignedBuffer;
use crate::file::ALIGN;

const MAGIC: [u8; 8] = *b"RKJRNL01";
const HEADER: usize = 64;
const ENTRY: usize = 32;
const CRC_AT: Range<usize> = 44..48;
/// `payload_at` of an entry that writes zeros and has no payload.
const ZEROS: u32 = u32::MAX;

/// Bytes that the header of a batch with `entries` entries takes.
pub(crate) const fn header_len(entries: usize) -> usize {
    (HEADER + ENTRY * entries).next_multiple_of(ALIGN)
}

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) life: u64,
    pub(crate) seq: u64,
    /// All batches up to this one were durable when this one was written.
    pub(crate) durable: u64,
    pub(crate) header_len: u32,
    pub(crate) payload_len: u32,
    pub(crate) entries: u32,
}

impl Header {
    /// Bytes of the whole batch.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.header_len) + u64::from(self.payload_len)
    }
}

/// Bytes that a batch writes to an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) overlay: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// Where its bytes lie in the payload; `None` for zeros.
    pub(crate) payload: Option<Range<usize>>,
    pub(crate) crc: u32,
}

/// Writes the header of a batch into `out`. The lengths in `header` are set here.
pub(crate) fn encode(
    out: &mut AlignedBuffer,
    mut header: Header,
    entries: impl ExactSizeIterator<Item = Entry>,
) {
    let len = header_len(entries.len());
    header.header_len = len as u32;
    header.entries = entries.len() as u32;
    out.set_len(len);
    let bytes = out.bytes_mut();
    bytes.fill(0);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&header.life.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.seq.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.durable.to_le_bytes());
    bytes[32..36].copy_from_slice(&header.header_len.to_le_bytes());
    bytes[36..40].copy_from_slice(&header.payload_len.to_le_bytes());
    bytes[40..44].copy_from_slice(&header.entries.to_le_bytes());
    for (entry, at) in entries.zip((HEADER..).step_by(ENTRY)) {
        let payload_at = entry.payload.map_or(ZEROS, |payload| payload.start as u32);
        bytes[at..at + 8].copy_from_slice(&entry.overlay.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&entry.offset.to_le_bytes());
        bytes[at + 16..at + 20].copy_from_slice(&entry.len.to_le_bytes());
        bytes[at + 20..at + 24].copy_from_slice(&entry.crc.to_le_bytes());
        bytes[at + 24..at + 28].copy_from_slice(&payload_at.to_le_bytes());
    }
    let crc = crc32c::crc32c(bytes);
    bytes[CRC_AT].copy_from_slice(&crc.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads what the first page of a batch says, with no check but of its shape. `room` is what is
/// left of the segment.
pub(crate) fn peek(page: &[u8], room: u64) -> Option<Header> {
    if page.get(..8)? != MAGIC {
        return None;
    }
    let header = Header {
        life: u64_at(page, 8)?,
        seq: u64_at(page, 16)?,
        durable: u64_at(page, 24)?,
        header_len: u32_at(page, 32)?,
        payload_len: u32_at(page, 36)?,
        entries: u32_at(page, 40)?,
    };
    let shaped = u64::from(header.header_len) == header_len_of(header.entries)
        && (header.payload_len as usize).is_multiple_of(ALIGN)
        && header.len() <= room;
    shaped.then_some(header)
}

fn header_len_of(entries: u32) -> u64 {
    (HEADER as u64 + ENTRY as u64 * u64::from(entries)).next_multiple_of(ALIGN as u64)
}

/// Whether `bytes`, the whole header, are what was written.
pub(crate) fn header_is_sound(bytes: &[u8]) -> bool {
    let mut zeroed = crc32c::crc32c(&bytes[..CRC_AT.start]);
    zeroed = crc32c::crc32c_append(zeroed, &[0; 4]);
    zeroed = crc32c::crc32c_append(zeroed, &bytes[CRC_AT.end..]);
    u32_at(bytes, CRC_AT.start) == Some(zeroed)
}

/// The entries of a batch, or `None` if one of them is not what was written.
pub(crate) fn decode(header: &Header, head: &[u8], payload: &[u8]) -> Option<Vec<Entry>> {
    if !header_is_sound(head) {
        return None;
    }
    (0..header.entries as usize).map(|i| decode_entry(head, HEADER + i * ENTRY, payload)).collect()
}

fn decode_entry(head: &[u8], at: usize, payload: &[u8]) -> Option<Entry> {
    let len = u32_at(head, at + 16)?;
    let crc = u32_at(head, at + 20)?;
    let payload_at = u32_at(head, at + 24)?;
    let place = (payload_at != ZEROS)
        .then(|| payload_at as usize..(payload_at as usize).saturating_add(len as usize));
    if let Some(place) = &place
        && crc32c::crc32c(payload.get(place.clone())?) != crc
    {
        return None;
    }
    let (overlay, offset) = (u64_at(head, at)?, u64_at(head, at + 8)?);
    Some(Entry { overlay, offset, len, payload: place, crc })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(count: u32) -> (AlignedBuffer, AlignedBuffer, Header, Vec<Entry>) {
        let (mut head, mut payload) = (AlignedBuffer::new(1 << 16), AlignedBuffer::new(1 << 20));
        let entries: Vec<_> = (0..count)
            .map(|i| {
                let bytes = vec![(i % 250) as u8 + 1; 100 + i as usize];
                let zeros = i % 3 == 2;
                let place = (!zeros).then(|| payload.extend(&bytes));
                let crc = if zeros { 0 } else { crc32c::crc32c(&bytes) };
                let len = bytes.len() as u32;
                Entry { overlay: 7, offset: u64::from(i) * 512, len, payload: place, crc }
            })
            .collect();
        payload.pad();
        let payload_len = payload.len() as u32;
        let header =
            Header { life: 9, seq: 5, durable: 4, header_len: 0, payload_len, entries: count };
        encode(&mut head, header, entries.clone().into_iter());
        let header = Header { header_len: head.len() as u32, ..header };
        (head, payload, header, entries)
    }

    #[test]
    fn a_batch_reads_back() {
        for count in [1, 3, 126, 127, 300] {
            let (head, payload, header, entries) = sample(count);
            assert_eq!(peek(head.bytes(), 1 << 20), Some(header));
            assert_eq!(decode(&header, head.bytes(), payload.bytes()), Some(entries));
        }
    }

    #[test]
    fn a_batch_that_leaves_its_segment_is_none() {
        let (head, payload, ..) = sample(3);
        let len = (head.len() + payload.len()) as u64;
        assert!(peek(head.bytes(), len).is_some());
        assert!(peek(head.bytes(), len - 1).is_none());
    }

    proptest! {
        /// One flipped bit anywhere that matters, and the batch is not valid.
        #[test]
        fn a_flipped_bit_is_seen(at in 0usize..8192, bit in 0u8..8) {
            let (mut head, mut payload, header, entries) = sample(5);
            let used = entries.iter().filter_map(|e| e.payload.clone()).map(|p| p.end).max().unwrap();
            let in_head = at < head.len();
            prop_assume!(in_head || at - head.len() < used);
            match in_head {
                true => head.bytes_mut()[at] ^= 1 << bit,
                false => payload.bytes_mut()[at - header.header_len as usize] ^= 1 << bit,
            }
            let same = peek(head.bytes(), 1 << 20) == Some(header);
            prop_assert!(!same || decode(&header, head.bytes(), payload.bytes()).is_none());
        }
    }
}
