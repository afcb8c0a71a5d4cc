use std::ops::Range;
use std::sync::Arc;

use rekindle_block::{BlockIdx, BlockSize};
use rekindle_cache::Priority;

use crate::ahead::Ahead;
use crate::changes::ChangeTracker;
use crate::gate::WriteHold;
use crate::grain::Owner;
use crate::id::DiskId;
use crate::journal::Journal;
use crate::overlay::Overlay;
use crate::records::Records;
use crate::touches::{Recorder, Recording};
use crate::{Base, DiskError};

mod read;
mod write;

pub use read::READ_MAX;

/// A virtual disk: recovery point underneath, the guest's writes on top.
///
/// Any number of reads and writes may run at once. What overlaps in time has one order, the journal's.
pub struct Disk {
    overlay: Arc<Overlay>,
    base: Base,
    ahead: Ahead,
    recorder: Recorder,
    journal: Arc<Journal>,
    records: Arc<Records>,
}

/// A range that the guest wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the disk; whole grains of 4 KiB, or to the disk's end.
    pub range: Range<u64>,
    /// Whether they are all zero, and known to be without reading.
    pub zeros: bool,
}

impl Disk {
    pub(crate) fn new(
        overlay: Arc<Overlay>,
        base: Base,
        journal: Arc<Journal>,
        records: Arc<Records>,
    ) -> Self {
        let ahead = Ahead::new(&base);
        Self { overlay, base, ahead, recorder: Recorder::default(), journal, records }
    }

    /// The disk's name.
    pub fn id(&self) -> &DiskId {
        &self.overlay.id
    }

    /// Bytes in the disk.
    pub fn size(&self) -> u64 {
        self.overlay.size()
    }

    /// The recovery point underneath.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Bytes that the guest wrote, in grains of 4 KiB, zeros counted.
    pub fn written_bytes(&self) -> u64 {
        self.overlay.written_bytes()
    }

    /// Bytes of the overlay's file system that the guest's writes take, in grains of 4 KiB. Zeros take
    /// none. Two loads, no I/O.
    pub fn used_bytes(&self) -> u64 {
        self.overlay.data_bytes()
    }

    /// The same as the file system counts it, metadata included. One system call.
    pub fn allocated_bytes(&self) -> Result<u64, DiskError> {
        self.overlay.allocated()
    }

    /// Makes the disk `size` bytes long, durably; what is new reads as zeros. A disk never shrinks:
    /// `Refused`.
    pub async fn set_size(&self, size: u64) -> Result<(), DiskError> {
        let (overlay, records, journal) =
            (self.overlay.clone(), self.records.clone(), self.journal.clone());
        read::blocking(move || {
            let grown = overlay.grow(size, &records);
            if let Some(lost) = overlay.lost() {
                journal.stop(lost);
            }
            grown
        })
        .await
    }

    /// All acknowledged writes are durable already: this only says whether writes still work.
    pub async fn flush(&self) -> Result<(), DiskError> {
        if self.overlay.gate.is_shut() {
            return Err(DiskError::Gone);
        }
        self.journal.stopped().map_or(Ok(()), Err)
    }

    /// What the guest wrote from byte `from` on, in order. Walks as it is asked; what is written
    /// meanwhile behind the walk is not seen.
    pub fn written(&self, from: u64) -> impl Iterator<Item = Written> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            let size = self.size();
            while at < size {
                let start = at;
                let (owner, end) = self.overlay.run_at(start, size);
                at = end;
                match owner {
                    Owner::Base => {}
                    Owner::Data => return Some(Written { range: start..end, zeros: false }),
                    Owner::Zero => return Some(Written { range: start..end, zeros: true }),
                }
            }
            None
        })
    }

    /// Remembers from now on what is written.
    pub fn track_changes(&self) -> ChangeTracker {
        let overlay = self.overlay.clone();
        self.overlay.trackers.track(move || overlay.size())
    }

    /// Records from now on which blocks of the recovery point its guest touches first.
    pub fn record_touches(&self) -> Recording {
        self.recorder.begin()
    }

    /// Blocks whose first touch is recorded, in order, without the first `known`; none while nothing is
    /// recorded.
    pub fn touched(&self, known: usize) -> Vec<BlockIdx> {
        self.recorder.touched(known)
    }

    /// Waits for the writes in flight and lets new ones wait until the hold is dropped.
    pub async fn hold_writes(&self) -> WriteHold {
        self.overlay.gate.hold().await
    }

    /// How the recovery point is cut into blocks.
    pub fn block_size(&self) -> BlockSize {
        self.base.block_size()
    }

    /// How many blocks the recovery point has.
    pub fn blocks(&self) -> u64 {
        self.base.block_size().count(self.base.size())
    }

    /// Brings a block of the recovery point into the cache. Says how many bytes it has: none if it
    /// is zeros, which need no room.
    pub async fn warm(&self, block: BlockIdx, priority: Priority) -> Result<u64, DiskError> {
        self.base.warm(block, priority).await
    }

    /// The same for neighbours, which the repository is asked for in few reads.
    pub async fn warm_run(
        &self,
        blocks: Range<BlockIdx>,
        priority: Priority,
    ) -> Result<u64, DiskError> {
        self.base.warm_run(blocks, priority).await
    }

    fn check(&self, range: &Range<u64>) -> Result<(), DiskError> {
        if self.overlay.gate.is_shut() {
            return Err(DiskError::Gone);
        }
        if let Some(lost) = self.overlay.lost() {
            return Err(lost.clone());
        }
        let size = self.size();
        if range.start > range.end || range.end > size {
            let len = range.end.saturating_sub(range.start);
            return Err(DiskError::OutOfRange { start: range.start, len, size });
        }
        Ok(())
    }
}
