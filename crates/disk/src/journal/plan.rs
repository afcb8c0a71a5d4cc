//! One batch in the making: requests in, entries and payload out.

use std::ops::Range;
use std::sync::Arc;

use rekindle_block::is_zero;

use super::batch::{self, Entry, Header};
use super::buffer::AlignedBuffer;
use super::pending::Pending;
use super::queue::Request;
use crate::DiskError;
use crate::file::{ALIGN, LARGE};
use crate::grain::{GRAIN, Owner, grains_of};
use crate::overlay::{Change, Overlay};

/// How much goes into one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The largest write that is one request, in bytes.
    pub(crate) write: usize,
    /// A batch with this much payload takes no further request.
    pub(crate) payload: usize,
    /// A batch with this many entries takes no further request.
    pub(crate) entries: usize,
    /// Whole pages of this many bytes and more are put past the page cache, those that touch as one.
    pub(crate) large: usize,
}

impl Limits {
    /// What fits a segment twice over, and no more than a sync gains from.
    pub(crate) fn of_segment(bytes: u64) -> Self {
        let part = (bytes / 4) as usize / ALIGN * ALIGN;
        Self {
            write: part.min(4 << 20),
            payload: part.min(2 << 20),
            entries: ((bytes / 256) as usize).min(1024),
            large: LARGE.min(part / 2),
        }
    }

    /// The most payload a batch can have: the last request may have its fills, and be moved to a page.
    pub(crate) fn payload_max(self) -> usize {
        self.payload + self.write + 3 * ALIGN
    }

    /// The most bytes of header: the last request may be all separate grains.
    pub(crate) fn header_max(self) -> usize {
        batch::header_len(self.entries + self.write / GRAIN as usize + 3)
    }
}

/// An entry with the overlay it belongs to.
struct Planned {
    overlay: Arc<Overlay>,
    range: Range<u64>,
    payload: Option<Range<usize>>,
    before: Owner,
    /// The bytes are still to be put where nobody sees them.
    unseen: bool,
}

impl Planned {
    /// Takes in the entry that follows, if both are one write.
    fn absorb(&mut self, next: &Self) -> bool {
        let (Some(own), Some(more)) = (&mut self.payload, &next.payload) else { return false };
        let one = Arc::ptr_eq(&self.overlay, &next.overlay)
            && (self.before, self.unseen) == (next.before, next.unseen)
            && self.range.end == next.range.start
            && own.end == more.start;
        if one {
            own.end = more.end;
            self.range.end = next.range.end;
        }
        one
    }
}

/// A batch in the making. Its buffers are used again and again.
pub(crate) struct Plan {
    pub(crate) seq: u64,
    /// Requests that are in it.
    pub(crate) taken: Vec<Request>,
    limits: Limits,
    /// Whether large runs over the base wait for [`Plan::write_unseen`].
    together: bool,
    entries: Vec<Planned>,
    header: AlignedBuffer,
    payload: AlignedBuffer,
}

impl Plan {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            seq: 0,
            taken: Vec::new(),
            limits,
            together: true,
            entries: Vec::new(),
            header: AlignedBuffer::new(limits.header_max()),
            payload: AlignedBuffer::new(limits.payload_max()),
        }
    }

    /// Begins the batch `seq`.
    pub(crate) fn begin(&mut self, seq: u64) {
        self.seq = seq;
        self.entries.clear();
        self.payload.set_len(0);
    }

    /// Lets go of what took part: an overlay that was discarded has its space back with the last who holds it.
    pub(crate) fn end(&mut self) {
        self.taken.clear();
        self.entries.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.payload.len() >= self.limits.payload || self.entries.len() >= self.limits.entries
    }

    /// Takes a request in, or answers it with why not; then nothing of it is in the batch.
    pub(crate) fn add(&mut self, pending: &mut Pending, mut request: Request) {
        let (entries, payload) = (self.entries.len(), self.payload.len());
        match self.place(pending, &request) {
            Ok(()) => {
                for planned in &self.entries[entries..] {
                    let owner = if planned.payload.is_some() { Owner::Data } else { Owner::Zero };
                    pending.set(self.seq, &planned.overlay, grains_of(&planned.range), owner);
                }
                self.taken.push(request);
            }
            Err(error) => {
                self.entries.truncate(entries);
                self.payload.set_len(payload);
                request.waiter.answer(Err(error));
            }
        }
    }

    /// Joins what can be one write, and puts large runs over the base where nobody sees them. If they cannot be put
    /// there, the batch is put together again with each request by itself, to find those that have no space.
    pub(crate) fn write_unseen(&mut self, pending: &mut Pending) {
        self.entries.dedup_by(|next, last| last.absorb(next));
        let payload = self.payload.bytes();
        let mut unseen = self.entries.iter().filter(|planned| planned.unseen);
        let written = unseen.try_for_each(|planned| {
            let bytes = planned.payload.clone().map_or(&[][..], |place| &payload[place]);
            planned.overlay.write_unseen(bytes, planned.range.start)
        });
        if written.is_err() {
            pending.undo(self.seq);
            self.begin(self.seq);
            self.together = false;
            for request in std::mem::take(&mut self.taken) {
                self.add(pending, request);
            }
            self.together = true;
        }
    }

    /// Cuts a write into its first grain, its last grain if those are covered in part, and the
    /// whole grains between.
    fn place(&mut self, pending: &Pending, request: &Request) -> Result<(), DiskError> {
        if request.overlay.gate.is_shut() {
            return Err(DiskError::Gone);
        }
        let range = request.offset..request.offset + request.data.len() as u64;
        let grains = grains_of(&range);
        // The size of now: if the disk grew since, its once short last grain has a rest to keep.
        let size = request.overlay.size();
        let whole = |grain: u64| grain * GRAIN..((grain + 1) * GRAIN).min(size);
        let in_part = |grain: u64| {
            let whole = whole(grain);
            range.start > whole.start || range.end < whole.end
        };
        let (first, last) = (grains.start, grains.end - 1);
        let mut body = range.clone();
        if in_part(first) {
            body.start = whole(first).end.min(range.end);
            self.place_part(
                pending,
                request,
                whole(first),
                range.start..body.start,
                &request.head,
            )?;
        }
        let mut tail = None;
        if last != first && in_part(last) {
            body.end = whole(last).start;
            tail = Some(body.end..range.end);
        }
        if !body.is_empty() {
            let bytes = &request.data[(body.start - range.start) as usize..]
                [..(body.end - body.start) as usize];
            self.place_grains(pending, &request.overlay, body.start, bytes)?;
        }
        match tail {
            Some(part) => self.place_part(pending, request, whole(last), part, &request.tail),
            None => Ok(()),
        }
    }

    /// Places the bytes `part` of the one grain `whole`. A grain that is the overlay's takes just
    /// them; else they are laid over what the grain has, and all of it is placed.
    fn place_part(
        &mut self,
        pending: &Pending,
        request: &Request,
        whole: Range<u64>,
        part: Range<u64>,
        fill: &Option<bytes::Bytes>,
    ) -> Result<(), DiskError> {
        let data = &request.data[(part.start - request.offset) as usize..]
            [..(part.end - part.start) as usize];
        let mut grain = [0; GRAIN as usize];
        match pending.owner(&request.overlay, whole.start / GRAIN) {
            Owner::Data => {
                return self.place_run(&request.overlay, part.start, data, Owner::Data);
            }
            Owner::Zero => {}
            Owner::Base => {
                // The base never changes, so a fill is right for as long as the grain is the base's.
                // Where the disk grew since, the base has nothing.
                let was_whole = part.start == whole.start && part.end == request.size;
                match fill {
                    Some(fill) => grain[..fill.len()].copy_from_slice(fill),
                    None if was_whole => {}
                    None => return Err(missing_fill(&whole)),
                }
            }
        }
        let at = (part.start - whole.start) as usize;
        grain[at..at + data.len()].copy_from_slice(data);
        let len = (whole.end - whole.start) as usize;
        self.place_grains(pending, &request.overlay, whole.start, &grain[..len])
    }

    /// Places whole grains, cut into runs of one owner that are zeros or are not.
    fn place_grains(
        &mut self,
        pending: &Pending,
        overlay: &Arc<Overlay>,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        let mut run: Option<(usize, Owner, bool)> = None;
        for (i, grain) in bytes.chunks(GRAIN as usize).enumerate() {
            let at = i * GRAIN as usize;
            let kind = (pending.owner(overlay, start / GRAIN + i as u64), is_zero(grain));
            match run {
                Some((_, owner, zero)) if (owner, zero) == kind => {}
                Some(ended) => {
                    self.place_kind(overlay, start, bytes, at, ended)?;
                    run = Some((at, kind.0, kind.1));
                }
                None => run = Some((at, kind.0, kind.1)),
            }
        }
        run.map_or(Ok(()), |ended| self.place_kind(overlay, start, bytes, bytes.len(), ended))
    }

    fn place_kind(
        &mut self,
        overlay: &Arc<Overlay>,
        start: u64,
        bytes: &[u8],
        end: usize,
        (at, owner, zero): (usize, Owner, bool),
    ) -> Result<(), DiskError> {
        if !zero {
            return self.place_run(overlay, start + at as u64, &bytes[at..end], owner);
        }
        self.entries.push(Planned {
            overlay: overlay.clone(),
            range: start + at as u64..start + end as u64,
            payload: None,
            before: owner,
            unseen: false,
        });
        Ok(())
    }

    /// Places bytes over grains of one owner. Space is taken before the batch is sealed, while a full file system can
    /// still be answered without the journal knowing of the write.
    fn place_run(
        &mut self,
        overlay: &Arc<Overlay>,
        at: u64,
        bytes: &[u8],
        before: Owner,
    ) -> Result<(), DiskError> {
        let range = at..at + bytes.len() as u64;
        let large = bytes.len() >= self.limits.large && bytes.len().is_multiple_of(ALIGN);
        if large {
            // Where direct I/O can take it from.
            self.payload.pad();
        }
        let unseen = large && before == Owner::Base && self.together;
        match before {
            Owner::Base if unseen => {}
            Owner::Base => overlay.write_unseen(bytes, at)?,
            Owner::Zero => overlay.reserve(range.clone())?,
            Owner::Data => {}
        }
        let payload = Some(self.payload.extend(bytes));
        self.entries.push(Planned { overlay: overlay.clone(), range, payload, before, unseen });
        Ok(())
    }

    /// Ends the batch: `header` and payload are ready to be written.
    pub(crate) fn seal(&mut self, life: u64, durable: u64) {
        self.payload.pad();
        let payload = self.payload.bytes();
        let entries = self.entries.iter().map(|planned| Entry {
            overlay: planned.overlay.number,
            offset: planned.range.start,
            len: (planned.range.end - planned.range.start) as u32,
            payload: planned.payload.clone(),
            crc: planned.payload.clone().map_or(0, |place| crc32c::crc32c(&payload[place])),
        });
        let payload_len = payload.len() as u32;
        let header =
            Header { life, seq: self.seq, durable, header_len: 0, payload_len, entries: 0 };
        batch::encode(&mut self.header, header, entries);
    }

    /// Answers the requests that were not answered yet.
    pub(crate) fn answer(&mut self, result: &Result<(), DiskError>) {
        for request in &mut self.taken {
            request.waiter.answer(result.clone());
        }
    }

    /// Whether applying the batch punches holes.
    pub(crate) fn gives_space_back(&self) -> bool {
        self.entries.iter().any(|entry| entry.payload.is_none() && entry.before == Owner::Data)
    }

    pub(crate) fn header(&self) -> &[u8] {
        self.header.bytes()
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.payload.bytes()
    }

    /// Bytes that the batch takes in its segment.
    pub(crate) fn len(&self) -> u64 {
        let payload = self.payload.len().next_multiple_of(ALIGN);
        (batch::header_len(self.entries.len()) + payload) as u64
    }

    /// Each overlay with a change to it, in order.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&Arc<Overlay>, Change<'_>)> {
        self.entries.iter().map(|planned| {
            let bytes = planned.payload.clone().map(|place| &self.payload.bytes()[place]);
            let change = Change { range: planned.range.clone(), bytes, before: planned.before };
            (&planned.overlay, change)
        })
    }
}

fn missing_fill(whole: &Range<u64>) -> DiskError {
    DiskError::Refused(format!("write of part of the grain at {} without the rest", whole.start))
}
