//! The log (section 2.3): a ring of entries, each a set of changes to sectors of 4 KiB that were not yet written where they
//! belong.

use std::collections::HashMap;

use super::header::{self, LogPlace};
use super::patches::{Patch, Patches};
use crate::ImageError;
use crate::endian::{le32, le64};
use crate::file::SourceFile;

pub(super) const SECTOR: u64 = 4096;
/// 32 times the usual 1 MiB. An entry, which may fill it, is in memory while it is looked at.
const MAX_BYTES: u64 = 32 << 20;
/// How often what is in the log may be part of an entry: in a log that somebody wrote, once.
const MAX_OVERLAP: u64 = 4;
const HEAD_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;
/// No file is larger, and no sum of two offsets goes over.
const MAX_OFFSET: u64 = 1 << 62;

/// What replaying a log does to its file.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) patches: Patches,
    /// What the file is made to have at least.
    pub(super) len: u64,
}

/// Reads what is to be replayed, which is in no place but the log.
pub(super) fn replay(file: &SourceFile, place: &LogPlace) -> Result<Replay, ImageError> {
    let len = place.range.end - place.range.start;
    if len == 0 || len > MAX_BYTES || !len.is_multiple_of(SECTOR) {
        let what = format!("its log of {len} bytes is to be replayed");
        return Err(ImageError::unsupported(file.name(), what));
    }
    let mut log = Log { file, place, len, heads: HashMap::new(), left: MAX_OVERLAP * len };
    let active = log.active_sequence()?;
    let Some((_, newest)) = active.last() else {
        return Err(file.corrupt("its log has no whole sequence of entries".into()));
    };
    if newest.flushed > file.len() {
        return Err(file.corrupt(format!("it had {} bytes once: it was cut short", newest.flushed)));
    }
    let mut replay = Replay { patches: Patches::default(), len: newest.last };
    for (at, head) in &active {
        log.apply(*at, head, &mut replay)?;
    }
    Ok(replay)
}

struct Log<'a> {
    file: &'a SourceFile,
    place: &'a LogPlace,
    len: u64,
    /// What was found at each place that was looked at.
    heads: HashMap<u64, Option<Head>>,
    /// Bytes that may still be checked.
    left: u64,
}

/// An entry that is whole:
///
/// ```text
/// 0 "loge" | 4 CRC-32C 4 | 8 length 4 | 12 tail 4 | 16 sequence 8 | 24 descriptors 4 | 32 log's id 16
/// 48 file's flushed length 8 | 56 file's length 8 | 64 descriptor 32 ... | data 4096 ...
/// ```
#[derive(Clone, Copy, Debug)]
struct Head {
    len: u64,
    /// Where the oldest entry is that was not flushed when this one was written.
    tail: u64,
    sequence: u64,
    descriptors: usize,
    flushed: u64,
    last: u64,
}

impl Log<'_> {
    /// The entries to replay, oldest first: of the sequences that are whole the newest (section 2.3.3).
    fn active_sequence(&mut self) -> Result<Vec<(u64, Head)>, ImageError> {
        let (mut best, mut best_number) = (Vec::new(), 0);
        let mut at = 0;
        while at < self.len {
            let mut sequence = self.sequence_at(at)?;
            let Some((newest_at, newest)) = sequence.last().copied() else {
                at += SECTOR;
                continue;
            };
            let Some(tail) = sequence.iter().position(|(entry, _)| *entry == newest.tail) else {
                at += SECTOR;
                continue;
            };
            if newest.sequence > best_number {
                best_number = newest.sequence;
                best = sequence.split_off(tail);
            }
            // Round the ring's end everything has been seen.
            at = if newest_at < at { self.len } else { newest_at + newest.len };
        }
        Ok(best)
    }

    /// The entries at and behind `start` that were written one after the other.
    fn sequence_at(&mut self, start: u64) -> Result<Vec<(u64, Head)>, ImageError> {
        let mut sequence: Vec<(u64, Head)> = Vec::new();
        let (mut at, mut used) = (start, 0);
        while let Some(head) = self.head_at(at)? {
            let follows =
                sequence.last().is_none_or(|(_, last)| head.sequence == last.sequence + 1);
            used += head.len;
            if !follows || used > self.len {
                break;
            }
            sequence.push((at, head));
            at = (at + head.len) % self.len;
        }
        Ok(sequence)
    }

    fn head_at(&mut self, at: u64) -> Result<Option<Head>, ImageError> {
        if let Some(known) = self.heads.get(&at) {
            return Ok(*known);
        }
        let head = self.read_head(at)?;
        self.heads.insert(at, head);
        Ok(head)
    }

    /// The entry at `at`, if all of it is as it was written.
    fn read_head(&mut self, at: u64) -> Result<Option<Head>, ImageError> {
        let bytes = self.read_ring(at, HEAD_BYTES as u64)?;
        let head = Head {
            len: u64::from(le32(&bytes, 8)),
            tail: u64::from(le32(&bytes, 12)),
            sequence: le64(&bytes, 16),
            descriptors: le32(&bytes, 24) as usize,
            flushed: le64(&bytes, 48),
            last: le64(&bytes, 56),
        };
        let ours = bytes.starts_with(b"loge") && bytes[32..48] == self.place.id;
        if !ours || !head.is_possible(self.len) {
            return Ok(None);
        }
        self.left = self.left.checked_sub(head.len).ok_or_else(|| {
            self.file.corrupt("its log has entries that lie over one another".into())
        })?;
        let entry = self.read_ring(at, head.len)?;
        let whole = header::is_whole(&entry, b"loge") && head.data_starts(&entry).is_some();
        Ok(whole.then_some(head))
    }

    /// `len` bytes of the ring, over its end if need be.
    fn read_ring(&self, at: u64, len: u64) -> Result<Vec<u8>, ImageError> {
        let first = len.min(self.len - at);
        let mut bytes = vec![0; len as usize];
        let (head, tail) = bytes.split_at_mut(first as usize);
        self.file.read_exact_at(self.place.range.start + at, head)?;
        self.file.read_exact_at(self.place.range.start, tail)?;
        Ok(bytes)
    }

    /// Does what the entry at `at` says.
    fn apply(&self, at: u64, head: &Head, replay: &mut Replay) -> Result<(), ImageError> {
        let entry = self.read_ring(at, head.len)?;
        let mut data = head.data_starts(&entry).unwrap_or(head.len);
        for descriptor in head.descriptors(&entry) {
            let place = le64(descriptor, 16);
            let (len, patch) = if descriptor.starts_with(b"zero") {
                (le64(descriptor, 8), Patch::Zero)
            } else {
                let lies_at = self.place.range.start + (at + data) % self.len;
                data += SECTOR;
                (SECTOR, Patch::sector(lies_at, descriptor))
            };
            let end = place.checked_add(len).filter(|end| *end <= MAX_OFFSET);
            let over_log = |end| place < self.place.range.end && end > self.place.range.start;
            let aligned = place.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR);
            match end.filter(|end| aligned && !over_log(*end)) {
                Some(end) if end > place => {
                    replay.len = replay.len.max(end);
                    replay.patches.insert(place..end, patch);
                }
                Some(_) => {}
                None => {
                    let detail = format!("its log changes {len} bytes at {place}");
                    return Err(self.file.corrupt(detail));
                }
            }
        }
        Ok(())
    }
}

impl Head {
    fn is_possible(&self, log: u64) -> bool {
        let sectors = self.len.is_multiple_of(SECTOR) && (SECTOR..=log).contains(&self.len);
        let tail = self.tail.is_multiple_of(SECTOR) && self.tail < log;
        let sizes = self.flushed <= MAX_OFFSET && self.last <= MAX_OFFSET;
        sectors && tail && sizes && (1..u64::MAX).contains(&self.sequence)
    }

    fn descriptors<'a>(&self, entry: &'a [u8]) -> impl Iterator<Item = &'a [u8; DESCRIPTOR_BYTES]> {
        let all = entry[HEAD_BYTES..].as_chunks::<DESCRIPTOR_BYTES>().0;
        all.iter().take(self.descriptors)
    }

    /// Where in the entry its data begins, if descriptors and data are all there and of this entry.
    fn data_starts(&self, entry: &[u8]) -> Option<u64> {
        let described = HEAD_BYTES.checked_add(self.descriptors.checked_mul(DESCRIPTOR_BYTES)?)?;
        let start = described.checked_next_multiple_of(SECTOR as usize)?;
        let mut sectors = entry.get(start..)?.chunks_exact(SECTOR as usize);
        for descriptor in self.descriptors(entry) {
            let kind = &descriptor[..4];
            if le64(descriptor, 24) != self.sequence || (kind != b"zero" && kind != b"desc") {
                return None;
            }
            if kind == b"desc" {
                let sector = sectors.next()?;
                let number = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, 4092));
                if !sector.starts_with(b"data") || number != self.sequence {
                    return None;
                }
            }
        }
        Some(start as u64)
    }
}
