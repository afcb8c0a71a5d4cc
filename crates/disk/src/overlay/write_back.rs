use std::collections::BTreeSet;
use std::ops::Range;

use super::Overlay;
use crate::DiskError;

/// Bytes of a data file that are written back at a time: a batch of the journal waits behind those pages of it that are
/// dirty, and no others.
const PART: u64 = 1 << 20;

/// What was written since it was last written back.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    parts: BTreeSet<u64>,
    bytes: u64,
}

impl Unwritten {
    pub(super) fn add(&mut self, range: &Range<u64>) {
        self.parts.extend(range.start / PART..range.end.div_ceil(PART));
        self.bytes += range.end - range.start;
    }
}

impl Overlay {
    /// Bytes written since they were last written back. What was written twice counts twice.
    pub(crate) fn unwritten_bytes(&self) -> u64 {
        self.dirty.lock().unwritten.bytes
    }

    /// The parts that were written until now, to be written back.
    pub(crate) fn take_unwritten(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.dirty.lock().unwritten).parts
    }

    /// Has the device write a part. A sync makes it durable, and finds less to write.
    pub(crate) fn write_back(&self, part: u64) -> Result<(), DiskError> {
        if self.gate.is_shut() {
            return Ok(());
        }
        let written = self.file.write_back(part * PART..(part + 1) * PART);
        written.map_err(|e| self.lose(DiskError::io("write overlay back", e)))
    }
}
