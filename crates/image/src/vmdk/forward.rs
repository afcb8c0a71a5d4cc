//! A streamOptimized VMDK that comes in from its first byte to its last, as a host sends it: no place of it can be gone
//! back to. Its grains are in the order of the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sparse::Header;
use crate::endian::{le32, le64};
use crate::{ImageError, inflate};

const SECTOR: u64 = 512;
const END_OF_STREAM: u32 = 0;
const FOOTER: u32 = 3;
/// How far behind the furthest read others may still be. Grains that nobody has read by then are dropped, and reading
/// there is an error. Compressed, of 64 KiB each, 4096 grains are held at most.
const WINDOW: u64 = 256 << 20;
/// Sectors of tables in one piece: 16 MiB of a directory.
const MAX_TABLE_SECTORS: u64 = 32_768;

/// Where the bytes come from.
pub type Stream = Box<dyn Read + Send>;

pub(crate) struct Forward {
    name: String,
    header: Header,
    state: Mutex<State>,
}

/// A grain as it is stored, and its first byte in the disk.
type Packed = (u64, Box<[u8]>);

struct State {
    input: Stream,
    /// Bytes that have come.
    at: u64,
    /// Grains that have come, by their first byte; `None` for those that were read and let go.
    grains: BTreeMap<u64, Option<Box<[u8]>>>,
    /// All grains before this byte of the disk have come.
    known: u64,
    /// What lies before has been let go.
    low: u64,
    /// Whether what only the end needs has come, so that nothing but the end's mark is missing.
    closing: bool,
    ended: bool,
    failed: bool,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Forward {
    /// Reads the header, and waits for it.
    pub(crate) fn open(name: &str, mut input: Stream) -> Result<Self, ImageError> {
        let mut head = [0; SECTOR as usize];
        input.read_exact(&mut head).map_err(|e| ImageError::io(name, e))?;
        let header = Header::parse(name, &head, 0)?;
        if !header.compressed() {
            return Err(ImageError::unsupported(name, "it is no streamOptimized VMDK"));
        }
        let state = State {
            input,
            at: SECTOR,
            grains: BTreeMap::new(),
            known: 0,
            low: 0,
            closing: !header.has_footer(),
            ended: false,
            failed: false,
        };
        let forward = Self { name: name.to_owned(), header, state: Mutex::new(state) };
        let overhead = le64(&head, 64);
        if overhead == 0 || overhead > MAX_TABLE_SECTORS {
            return Err(forward.corrupt(format!("its data begins at sector {overhead}")));
        }
        forward.skip(&mut forward.state(), (overhead - 1) * SECTOR)?;
        Ok(forward)
    }

    pub(crate) fn size(&self) -> u64 {
        self.header.size()
    }

    /// The first grain at or behind `from` and before `until`.
    pub(crate) fn next_data(
        &self,
        from: u64,
        until: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        let grain = self.header.grain_bytes();
        let mut state = self.state();
        loop {
            let first = from / grain * grain;
            if let Some((start, _)) = state.grains.range(first..).next() {
                return Ok((*start < until).then(|| *start..(*start + grain).min(self.size())));
            }
            if state.ended || state.known >= until {
                return Ok(None);
            }
            self.pull(&mut state)?;
        }
    }

    /// Fills `buf` from `offset`. A grain whose last byte is in it is let go.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let (grain, end) = (self.header.grain_bytes(), offset + buf.len() as u64);
        let packed = self.take(offset..end)?;
        buf.fill(0);
        let mut scratch = vec![0; grain as usize];
        for (start, bytes) in packed {
            let least = grain.min(self.size() - start) as usize;
            match inflate::zlib(&bytes, &mut scratch) {
                Some(len) if len >= least => {}
                _ => return Err(self.corrupt(format!("the grain at {start} does not decompress"))),
            }
            let (from, to) = (start.max(offset), (start + grain).min(end));
            let (within, into) = ((from - start) as usize, (from - offset) as usize);
            let len = (to - from) as usize;
            buf[into..into + len].copy_from_slice(&scratch[within..within + len]);
        }
        Ok(())
    }

    /// The stored grains that the range touches.
    fn take(&self, range: Range<u64>) -> Result<Vec<Packed>, ImageError> {
        let grain = self.header.grain_bytes();
        let mut state = self.state();
        while !state.ended && state.known < range.end {
            self.pull(&mut state)?;
        }
        let first = range.start / grain * grain;
        if first < state.low {
            return Err(self.corrupt(format!("byte {first} is read after it has passed")));
        }
        let mut found = Vec::new();
        for (start, packed) in state.grains.range_mut(first..range.end) {
            let whole = (start + grain).min(self.size()) <= range.end;
            let bytes = if whole { packed.take() } else { packed.clone() };
            let gone = || self.corrupt(format!("byte {start} is read after it has passed"));
            found.push((*start, bytes.ok_or_else(gone)?));
        }
        let low = range.end.saturating_sub(WINDOW) / grain * grain;
        if low > state.low {
            state.low = low;
            state.grains = state.grains.split_off(&low);
        }
        Ok(found)
    }

    /// Waits for the end. An error if the stream was cut short.
    pub(crate) fn finish(&self) -> Result<(), ImageError> {
        let mut state = self.state();
        while !state.ended {
            self.pull(&mut state)?;
        }
        Ok(())
    }

    /// Takes in the next grain or table.
    fn pull(&self, state: &mut State) -> Result<(), ImageError> {
        if state.failed {
            let source = io::Error::other("it failed before");
            return Err(ImageError::Unavailable { file: self.name.clone(), source });
        }
        let result = self.pull_next(state);
        state.failed = result.is_err();
        result
    }

    /// ```text
    /// grain    lba 8 | length 4 | zlib stream, filled up to a sector
    /// table    sectors 8 | zero 4 | kind 4 | filled up to a sector | so many sectors
    /// ```
    fn pull_next(&self, state: &mut State) -> Result<(), ImageError> {
        let mut marker = [0; SECTOR as usize];
        self.fill(state, &mut marker)?;
        let (value, len) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
        if len > 0 {
            return self.pull_grain(state, value, len, &marker[12..]);
        }
        match le32(&marker, 12) {
            // A sector of zeros before the footer fills something up.
            END_OF_STREAM if !state.closing => Ok(()),
            END_OF_STREAM => {
                state.ended = true;
                state.known = self.size();
                Ok(())
            }
            _ if value > MAX_TABLE_SECTORS => {
                Err(self.corrupt(format!("a table of {value} sectors")))
            }
            kind => {
                state.closing |= kind == FOOTER;
                self.skip(state, value * SECTOR)
            }
        }
    }

    fn pull_grain(
        &self,
        state: &mut State,
        sector: u64,
        len: u64,
        head: &[u8],
    ) -> Result<(), ImageError> {
        let grain = self.header.grain_bytes();
        let start = sector.checked_mul(SECTOR).filter(|at| *at < self.size() && at % grain == 0);
        let start = start.ok_or_else(|| self.corrupt(format!("a grain at sector {sector}")))?;
        if start < state.known {
            return Err(self.corrupt(format!("the grain at sector {sector} is out of order")));
        }
        if len > 2 * grain {
            return Err(self.corrupt(format!("a grain of {len} bytes")));
        }
        let mut packed = vec![0; len as usize];
        let there = head.len().min(packed.len());
        packed[..there].copy_from_slice(&head[..there]);
        let (_, rest) = packed.split_at_mut(there);
        self.fill(state, rest)?;
        let padding = (12 + len).next_multiple_of(SECTOR) - (12 + len);
        if !rest.is_empty() {
            self.skip(state, padding)?;
        }
        state.known = start + grain;
        state.grains.insert(start, Some(packed.into()));
        Ok(())
    }

    fn skip(&self, state: &mut State, mut len: u64) -> Result<(), ImageError> {
        let mut scratch = [0; 4096];
        while len > 0 {
            let part = len.min(scratch.len() as u64);
            self.fill(state, &mut scratch[..part as usize])?;
            len -= part;
        }
        Ok(())
    }

    fn fill(&self, state: &mut State, buf: &mut [u8]) -> Result<(), ImageError> {
        state.input.read_exact(buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.corrupt(format!("it was cut short at byte {}", state.at))
            }
            _ => ImageError::io(&self.name, error),
        })?;
        state.at += buf.len() as u64;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn corrupt(&self, detail: String) -> ImageError {
        ImageError::corrupt(&self.name, detail)
    }
}
