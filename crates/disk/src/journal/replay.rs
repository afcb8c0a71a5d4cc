//! What a process that is gone left in the journal, made visible again.

use std::ops::Range;

use super::Limits;
use super::batch::{self, Entry, Header};
use super::buffer::AlignedBuffer;
use super::ring::Segment;
use crate::DiskError;
use crate::file::{ALIGN, DiskFile};
use crate::records::{JournalRecord, Life, Position};

/// Pages of headers that the search for later batches reads at once.
const SEARCH_BYTES: usize = 1 << 20;

/// Walks the live batches of a journal in order.
pub(crate) struct Replay<'a> {
    files: &'a [DiskFile],
    segment_bytes: u64,
    page: AlignedBuffer,
    window: Window,
    /// Segments with live batches.
    live: Vec<bool>,
}

/// A part of a segment in memory, so that many small batches are one read.
struct Window {
    buffer: AlignedBuffer,
    segment: u32,
    at: u64,
    /// Bytes that are read at once; at least a batch.
    len: usize,
}

impl Window {
    /// The bytes `len` at `place`, which must lie in their segment.
    fn bytes(
        &mut self,
        files: &[DiskFile],
        segment_bytes: u64,
        place: Position,
        len: usize,
    ) -> Result<&[u8], DiskError> {
        let end = self.at + self.buffer.len() as u64;
        let inside = self.at <= place.at && place.at + len as u64 <= end;
        if self.segment != place.segment || !inside {
            let room = segment_bytes.saturating_sub(place.at).min(self.len as u64) as usize;
            read(&files[place.segment as usize], &mut self.buffer, place.at, room.max(len))?;
            (self.segment, self.at) = (place.segment, place.at);
        }
        Ok(&self.buffer.bytes()[(place.at - self.at) as usize..][..len])
    }
}

/// What a replay found.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The number after the last batch.
    pub(crate) next: u64,
    /// Each segment: full if it has live batches.
    pub(crate) segments: Vec<Segment>,
    /// Lives with live batches, all ended.
    pub(crate) lives: Vec<Life>,
}

/// What a batch writes: overlay number, range, and the bytes or `None` for zeros.
pub(crate) type Write<'a> = (u64, Range<u64>, Option<&'a [u8]>);

impl<'a> Replay<'a> {
    pub(crate) fn new(files: &'a [DiskFile], segment_bytes: u64) -> Self {
        let limits = Limits::of_segment(segment_bytes);
        let len = (limits.header_max() + limits.payload_max()).next_multiple_of(ALIGN);
        let buffer = AlignedBuffer::new(len);
        Self {
            files,
            segment_bytes,
            page: AlignedBuffer::new(limits.header_max()),
            window: Window { buffer, segment: 0, at: 0, len },
            live: vec![false; files.len()],
        }
    }

    /// Calls `apply` with every write of every live batch, in order.
    ///
    /// `Corrupt` if a batch is missing that was acknowledged.
    pub(crate) fn run(
        mut self,
        record: &JournalRecord,
        apply: &mut dyn FnMut(Write<'_>) -> Result<(), DiskError>,
    ) -> Result<Replayed, DiskError> {
        let mut at = record.start;
        let mut lives = Vec::new();
        for life in &record.lives {
            at = self.life(life, at, apply)?;
            if life.end.is_some_and(|end| end != at.seq) {
                return Err(missing(at.seq));
            }
            if at.seq > record.start.seq {
                lives.push(Life { end: Some(at.seq), ..*life });
            }
        }
        lives.retain(|life| life.end > Some(life.first));
        let full = Segment::Full { until: at.seq };
        let segment = |live: &bool| if *live { full } else { Segment::Free };
        let segments = self.live.iter().map(segment).collect();
        Ok(Replayed { next: at.seq, segments, lives })
    }

    /// Walks the batches of one life, and says where they end.
    fn life(
        &mut self,
        life: &Life,
        mut at: Position,
        apply: &mut dyn FnMut(Write<'_>) -> Result<(), DiskError>,
    ) -> Result<Position, DiskError> {
        while life.end.is_none_or(|end| at.seq < end) {
            let Some((place, header, entries)) = self.find(life, at)? else {
                self.check_nothing_follows(life, at)?;
                break;
            };
            let (head, len) = (header.header_len as usize, header.len());
            let whole = self.window.bytes(self.files, self.segment_bytes, place, len as usize)?;
            let payload = &whole[head..];
            for entry in &entries {
                let bytes = entry.payload.clone().map(|range| &payload[range]);
                let range = entry.offset..entry.offset.saturating_add(u64::from(entry.len));
                apply((entry.overlay, range, bytes))?;
            }
            self.live[place.segment as usize] = true;
            at = Position { seq: at.seq + 1, at: place.at + len, ..place };
        }
        Ok(at)
    }

    /// Finds the batch `at.seq`: at its place, or else at the beginning of a segment.
    fn find(
        &mut self,
        life: &Life,
        at: Position,
    ) -> Result<Option<(Position, Header, Vec<Entry>)>, DiskError> {
        let begins = (0..self.files.len() as u32).map(|segment| Position { segment, at: 0, ..at });
        for place in std::iter::once(at).chain(begins) {
            if let Some((header, entries)) = self.read(life, place)? {
                return Ok(Some((place, header, entries)));
            }
        }
        Ok(None)
    }

    /// The batch `place.seq`, if it is whole and lies at `place`.
    fn read(
        &mut self,
        life: &Life,
        place: Position,
    ) -> Result<Option<(Header, Vec<Entry>)>, DiskError> {
        let room = self.segment_bytes.saturating_sub(place.at);
        if place.segment as usize >= self.files.len() || room < ALIGN as u64 {
            return Ok(None);
        }
        let longest = self.window.len as u64;
        let page = if place.at == 0 {
            // Most segments do not begin with the batch: one page says so.
            read(&self.files[place.segment as usize], &mut self.page, 0, ALIGN)?;
            self.page.bytes()
        } else {
            self.window.bytes(self.files, self.segment_bytes, place, ALIGN)?
        };
        let expected = |header: &Header| {
            header.life == life.key && header.seq == place.seq && header.len() <= longest
        };
        let Some(header) = batch::peek(page, room).filter(expected) else { return Ok(None) };
        let len = header.len() as usize;
        let whole = self.window.bytes(self.files, self.segment_bytes, place, len)?;
        let (head, payload) = whole.split_at(header.header_len as usize);
        Ok(batch::decode(&header, head, payload).map(|entries| (header, entries)))
    }

    /// The batch `at.seq` of a life is not there. If a later one says that it was durable, it was
    /// acknowledged and is lost: that is damage, and no torn end.
    fn check_nothing_follows(&mut self, life: &Life, at: Position) -> Result<(), DiskError> {
        for (segment, file) in self.files.iter().enumerate() {
            let from = if segment == at.segment as usize {
                at.at
            } else if self.begins_before(file, life, at.seq)? {
                continue;
            } else {
                0
            };
            if self.follows(file, life, at.seq, from)? {
                return Err(missing(at.seq));
            }
        }
        Ok(())
    }

    /// Whether a segment was begun before batch `seq`: then nothing after it is in there, except in
    /// the segment where it should be.
    fn begins_before(&mut self, file: &DiskFile, life: &Life, seq: u64) -> Result<bool, DiskError> {
        read(file, &mut self.page, 0, ALIGN)?;
        let first = batch::peek(self.page.bytes(), self.segment_bytes);
        let before = |header: &Header| header.life == life.key && header.seq < seq;
        let Some(first) = first.filter(before) else { return Ok(false) };
        self.header_is_sound(file, 0, &first)
    }

    /// Whether a batch in `file`, from `from` on, says that batch `seq` was durable.
    fn follows(
        &mut self,
        file: &DiskFile,
        life: &Life,
        seq: u64,
        mut from: u64,
    ) -> Result<bool, DiskError> {
        let mut pages = AlignedBuffer::new(SEARCH_BYTES);
        while from < self.segment_bytes {
            let len = (self.segment_bytes - from).min(SEARCH_BYTES as u64) as usize;
            read(file, &mut pages, from, len)?;
            for (page, at) in pages.bytes().chunks(ALIGN).zip((from..).step_by(ALIGN)) {
                let later = batch::peek(page, self.segment_bytes - at)
                    .filter(|later| later.life == life.key && later.durable >= seq);
                if let Some(later) = later
                    && self.header_is_sound(file, at, &later)?
                {
                    return Ok(true);
                }
            }
            from += len as u64;
        }
        Ok(false)
    }

    fn header_is_sound(
        &mut self,
        file: &DiskFile,
        at: u64,
        header: &Header,
    ) -> Result<bool, DiskError> {
        if header.header_len as usize > Limits::of_segment(self.segment_bytes).header_max() {
            return Ok(false);
        }
        read(file, &mut self.page, at, header.header_len as usize)?;
        Ok(batch::header_is_sound(self.page.bytes()))
    }
}

fn missing(seq: u64) -> DiskError {
    DiskError::Corrupt(format!("overlay journal: batch {seq} was acknowledged and is damaged"))
}

/// Reads `len` bytes at `at` into `buffer`; what lies behind the file's end is zeros.
fn read(file: &DiskFile, buffer: &mut AlignedBuffer, at: u64, len: usize) -> Result<(), DiskError> {
    buffer.set_len(len);
    let done = file.read_at(buffer.bytes_mut(), at);
    let done = done.map_err(|e| DiskError::io("read overlay journal", e))?;
    buffer.bytes_mut()[done..].fill(0);
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
#[expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::FaultyStorage;
    use crate::file::{Purpose, Storage};

    const KEY: u64 = 7;

    /// Writes the batch `seq` with one entry of 4 KiB at `at`.
    fn write(file: &DiskFile, at: u64, life: u64, seq: u64, durable: u64) {
        let (mut head, mut payload) = (AlignedBuffer::new(ALIGN), AlignedBuffer::new(ALIGN));
        let place = payload.extend(&[seq as u8; ALIGN]);
        let crc = crc32c::crc32c(payload.bytes());
        let len = ALIGN as u32;
        let entry = Entry { overlay: 1, offset: seq * 4096, len, payload: Some(place), crc };
        let header = Header { life, seq, durable, header_len: 0, payload_len: len, entries: 0 };
        batch::encode(&mut head, header, std::iter::once(entry));
        file.write_both(head.bytes(), payload.bytes(), at).unwrap();
    }

    /// The batches that a replay finds from the one with number 1 on.
    fn replayed(files: &[DiskFile]) -> Result<Vec<u64>, DiskError> {
        let record = JournalRecord {
            segments: files.len() as u32,
            segment_bytes: 1 << 16,
            start: Position { seq: 1, segment: 0, at: 0 },
            lives: vec![Life { key: KEY, first: 1, end: None }],
        };
        let mut found = Vec::new();
        Replay::new(files, 1 << 16).run(&record, &mut |(_, range, bytes)| {
            assert_eq!(bytes.unwrap()[0] as u64, range.start / 4096);
            found.push(range.start / 4096);
            Ok(())
        })?;
        Ok(found)
    }

    fn files() -> Vec<DiskFile> {
        let storage = Storage::Faulty(FaultyStorage::default());
        let open = |name: &str| storage.open(Path::new(name), Purpose::Journal, true).unwrap();
        vec![open("0"), open("1")]
    }

    #[test]
    fn batches_are_found_across_segments_and_end_with_the_last() {
        let files = files();
        write(&files[0], 0, KEY, 1, 0);
        write(&files[0], 8192, KEY, 2, 0);
        write(&files[1], 0, KEY, 3, 2);
        // Of the lap before: its number is not the expected one.
        write(&files[1], 8192, KEY, 0, 0);
        assert_eq!(replayed(&files).unwrap(), [1, 2, 3]);
    }

    /// A guest writes what it likes, also the image of a batch, and it may come to lie where the
    /// next batch is looked for. It does not know the key.
    #[test]
    fn a_guests_forgery_is_no_batch() {
        let files = files();
        write(&files[0], 0, KEY, 1, 0);
        write(&files[0], 8192, KEY + 1, 2, 1);
        assert_eq!(replayed(&files).unwrap(), [1]);
    }

    #[test]
    fn a_gap_that_a_later_batch_knows_of_is_corrupt() {
        // Unacknowledged, the second may be missing although the third is there.
        let torn = files();
        write(&torn[0], 0, KEY, 1, 0);
        write(&torn[0], 16384, KEY, 3, 1);
        assert_eq!(replayed(&torn).unwrap(), [1]);
        for (segment, at) in [(0, 16384), (1, 0), (1, 8192)] {
            let damaged = files();
            write(&damaged[0], 0, KEY, 1, 0);
            write(&damaged[segment], at, KEY, 3, 2);
            assert!(matches!(replayed(&damaged), Err(DiskError::Corrupt(_))), "{segment} {at}");
        }
    }
}
