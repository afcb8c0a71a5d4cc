use std::path::Path;

use parking_lot::{Condvar, Mutex};

use super::buffer::AlignedBuffer;
use crate::DiskError;
use crate::file::{DiskFile, Purpose, Storage};

/// Bytes of zeros that are written at once to a new segment.
const ZEROS: usize = 1 << 20;

/// The journal's segments. Each is free, or the one that is written, or full and waiting for a
/// checkpoint.
pub(crate) struct Ring {
    pub(crate) files: Vec<DiskFile>,
    pub(crate) segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    segments: Vec<Segment>,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Free,
    Active,
    /// Full. Free again when a checkpoint has all before this batch.
    Full {
        until: u64,
    },
}

/// Why the checkpointer wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// A segment is full.
    Work,
    /// Nothing happened for the time given.
    Idle,
    /// The journal closes.
    Closed,
}

fn segment_name(idx: u32) -> String {
    format!("journal-{idx}")
}

/// Writes `count` segments of `bytes` zeros. Written once, they are overwritten for ever: a sync
/// then costs the device's flush and no file system transaction.
pub(crate) fn create_segments(
    storage: &Storage,
    dir: &Path,
    count: u32,
    bytes: u64,
) -> Result<(), DiskError> {
    let io = |e| DiskError::io("create journal", e);
    let mut zeros = AlignedBuffer::new(ZEROS);
    for idx in 0..count {
        let file =
            storage.open(&dir.join(segment_name(idx)), Purpose::Journal, true).map_err(io)?;
        file.set_len(0).map_err(io)?;
        let mut at = 0;
        while at < bytes {
            zeros.set_len((bytes - at).min(ZEROS as u64) as usize);
            file.write_at(zeros.bytes(), at).map_err(io)?;
            at += zeros.len() as u64;
        }
        file.sync().map_err(io)?;
    }
    storage.sync_dir(dir).map_err(io)
}

/// Opens the segments that [`create_segments`] made.
pub(crate) fn open_segments(
    storage: &Storage,
    dir: &Path,
    count: u32,
    bytes: u64,
) -> Result<Vec<DiskFile>, DiskError> {
    let open = |idx| {
        let name = segment_name(idx);
        let corrupt = || DiskError::Corrupt(format!("overlay journal: {name} is missing or short"));
        let file = match storage.open(&dir.join(&name), Purpose::Journal, false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(corrupt()),
            opened => opened.map_err(|e| DiskError::io("open journal", e))?,
        };
        let len = file.len().map_err(|e| DiskError::io("open journal", e))?;
        if len == bytes { Ok(file) } else { Err(corrupt()) }
    };
    (0..count).map(open).collect()
}

impl Ring {
    pub(crate) fn new(files: Vec<DiskFile>, segment_bytes: u64, segments: Vec<Segment>) -> Self {
        let state = State { segments, closed: false };
        Self { files, segment_bytes, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Gives up the written segment, whose batches all come before `until`, and waits for a free
    /// one. `None` when the journal closes or stops meanwhile.
    pub(crate) fn next(&self, until: u64) -> Option<u32> {
        let mut state = self.state.lock();
        for segment in &mut state.segments {
            if *segment == Segment::Active {
                *segment = Segment::Full { until };
            }
        }
        self.changed.notify_all();
        loop {
            if let Some(idx) = state.segments.iter().position(|s| *s == Segment::Free) {
                state.segments[idx] = Segment::Active;
                return Some(idx as u32);
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// A checkpoint has all before `seq`: full segments of before are free.
    pub(crate) fn free_until(&self, seq: u64) {
        for segment in &mut self.state.lock().segments {
            if matches!(segment, Segment::Full { until } if *until <= seq) {
                *segment = Segment::Free;
            }
        }
        self.changed.notify_all();
    }

    /// Waits for a reason to make a checkpoint, `idle` at most.
    pub(crate) fn wait(&self, idle: std::time::Duration) -> Wake {
        let deadline = std::time::Instant::now() + idle;
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Wake::Closed;
            }
            let full = state.segments.iter().any(|s| matches!(s, Segment::Full { .. }));
            if full {
                return Wake::Work;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Wake::Idle;
            }
        }
    }

    /// Ends all waiting.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// How many segments a burst of writes finds free.
    pub(crate) fn free(&self) -> usize {
        self.state.lock().segments.iter().filter(|s| **s == Segment::Free).count()
    }

    /// Whether batches go past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.files.iter().all(DiskFile::is_direct)
    }
}
