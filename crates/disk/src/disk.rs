use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard, RwLock};
use rekindle_block::{BlockIdx, BlockSize};
use rekindle_cache::Priority;

use crate::ahead::Ahead;
use crate::changes::ChangeTracker;
use crate::gate::{Gate, WriteHold};
use crate::grain::Owner;
use crate::id::DiskId;
use crate::journal::Journal;
use crate::layer::Layer;
use crate::overlay::Overlay;
use crate::records::Records;
use crate::touches::{Recorder, Recording};
use crate::{Base, DiskError};

mod read;
mod write;

pub use read::READ_MAX;
pub(crate) use read::blocking;

/// A virtual disk: recovery point underneath, the guest's writes on top.
///
/// Any number of reads and writes may run at once. What overlaps in time has one order, the journal's.
pub struct Disk {
    id: DiskId,
    /// Whoever begins to read or write takes what is there then. Changed while writes are held.
    top: Arc<RwLock<Arc<Top>>>,
    /// Held by whoever changes the size, or what the disk lies over.
    sizing: Arc<Mutex<()>>,
    gate: Arc<Gate>,
    base: Base,
    ahead: Ahead,
    recorder: Recorder,
    journal: Arc<Journal>,
    records: Arc<Records>,
}

/// What takes the guest's writes, and what lies under it.
pub(crate) struct Top {
    pub(crate) overlay: Arc<Overlay>,
    under: Base,
}

impl Top {
    /// An overlay over a frozen layer over `bottom`.
    pub(crate) fn over(overlay: Arc<Overlay>, layer: Arc<Layer>, bottom: &Base) -> Self {
        Self { overlay, under: Base::Layered { layer, bottom: Box::new(bottom.clone()) } }
    }

    /// The frozen layer under it, if there is one.
    pub(crate) fn layer(&self) -> Option<&Arc<Layer>> {
        match &self.under {
            Base::Layered { layer, .. } => Some(layer),
            _ => None,
        }
    }

    /// Whether nothing was written since it was put over its layer.
    pub(crate) fn is_as_frozen(&self) -> bool {
        let size = self.overlay.size();
        self.layer().is_some_and(|layer| layer.size() == size) && self.overlay.written_bytes() == 0
    }

    /// Who wrote the byte at `at` since the layer `until` was frozen, and where that ends.
    fn writer(&self, at: u64, end: u64, until: Option<u64>) -> (Owner, u64) {
        let (owner, end) = self.overlay.run_at(at, end);
        match (owner, self.layer()) {
            (Owner::Base, Some(layer)) => layer.writer(at, end, until),
            _ => (owner, end),
        }
    }

    /// The sum over it and the frozen layers that it lies over.
    fn sum(&self, own: u64, of: impl Fn(&Layer) -> u64) -> u64 {
        let layers = self.layer().into_iter().flat_map(Layer::chain);
        layers.fold(own, |sum, layer| sum.saturating_add(of(layer)))
    }
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
        let (id, gate) = (overlay.id.clone(), overlay.gate.clone());
        let bottom = base.bottom().clone();
        let top = Arc::new(RwLock::new(Arc::new(Top { overlay, under: base })));
        Self {
            id,
            top,
            sizing: Arc::default(),
            gate,
            base: bottom,
            ahead,
            recorder: Recorder::default(),
            journal,
            records,
        }
    }

    pub(crate) fn top(&self) -> Arc<Top> {
        self.top.read().clone()
    }

    /// Nobody changes the size until it is dropped.
    pub(crate) fn sizing(&self) -> MutexGuard<'_, ()> {
        self.sizing.lock()
    }

    /// Puts an overlay over what is frozen. Writes are held.
    pub(crate) fn change_over(&self, top: Top) {
        *self.top.write() = Arc::new(top);
    }

    /// The disk's name.
    pub fn id(&self) -> &DiskId {
        &self.id
    }

    /// Bytes in the disk.
    pub fn size(&self) -> u64 {
        self.top.read().overlay.size()
    }

    /// The recovery point underneath.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Bytes that the guest wrote, in grains of 4 KiB, zeros counted, and what is in several frozen layers as often.
    pub fn written_bytes(&self) -> u64 {
        let top = self.top();
        top.sum(top.overlay.written_bytes(), Layer::written_bytes)
    }

    /// Bytes of the overlay's file system that the guest's writes take, in grains of 4 KiB. Zeros take
    /// none. Frozen layers that others lie over as well count whole. No I/O.
    pub fn used_bytes(&self) -> u64 {
        let top = self.top();
        top.sum(top.overlay.data_bytes(), Layer::data_bytes)
    }

    /// The same by what it is made of: a number that no other overlay or layer has, and its bytes. What several disks lie over
    /// has the same number under each.
    pub fn used_parts(&self) -> Vec<(u64, u64)> {
        let top = self.top();
        let own = (top.overlay.number, top.overlay.data_bytes());
        let layers = top.layer().into_iter().flat_map(Layer::chain);
        let layers = layers.map(|layer| (layer.number(), layer.data_bytes()));
        std::iter::once(own).chain(layers).collect()
    }

    /// The same as the file system counts it, metadata included. One system call for each frozen layer and one more.
    pub fn allocated_bytes(&self) -> Result<u64, DiskError> {
        let top = self.top();
        let layers = top.layer().into_iter().flat_map(Layer::chain);
        layers
            .map(|layer| layer.allocated())
            .try_fold(top.overlay.allocated()?, |sum, one| Ok(sum + one?))
    }

    /// Makes the disk `size` bytes long, durably; what is new reads as zeros. A disk never shrinks:
    /// `Refused`.
    pub async fn set_size(&self, size: u64) -> Result<(), DiskError> {
        let (top, records, journal) =
            (self.top.clone(), self.records.clone(), self.journal.clone());
        let sizing = self.sizing.clone();
        read::blocking(move || {
            // After it is taken, what is on top stays so.
            let _sizing = sizing.lock();
            let overlay = top.read().overlay.clone();
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
        if self.gate.is_shut() {
            return Err(DiskError::Gone);
        }
        self.journal.stopped().map_or(Ok(()), Err)
    }

    /// What the guest wrote from byte `from` on, in order. Walks as it is asked; what is written
    /// meanwhile behind the walk is not seen.
    pub fn written(&self, from: u64) -> impl Iterator<Item = Written> + '_ {
        self.written_since(None, from)
    }

    /// The same of what was written since the disk was frozen as `layer`, which it lies over. All of it if it does not,
    /// or none is named.
    pub fn written_since(
        &self,
        layer: Option<&Layer>,
        from: u64,
    ) -> impl Iterator<Item = Written> + '_ {
        let until = layer.map(Layer::number);
        let mut at = from;
        std::iter::from_fn(move || {
            let size = self.size();
            while at < size {
                let start = at;
                let (owner, end) = self.top.read().writer(start, size, until);
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

    /// The disk as it was when it was frozen as `layer`, to be read; it may be discarded meanwhile.
    pub fn frozen(&self, layer: &Arc<Layer>) -> Base {
        Base::Layered { layer: layer.clone(), bottom: Box::new(self.base.clone()) }
    }

    /// Remembers from now on what is written.
    pub fn track_changes(&self) -> ChangeTracker {
        let top = self.top.clone();
        let trackers = self.top().overlay.trackers.clone();
        trackers.track(move || top.read().overlay.size())
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
        self.gate.hold().await
    }

    /// How the recovery point is cut into blocks.
    pub fn block_size(&self) -> BlockSize {
        self.base.block_size()
    }

    /// How many blocks the recovery point has.
    pub fn blocks(&self) -> u64 {
        self.base.block_size().count(self.base.size())
    }

    /// Brings neighbouring blocks of the recovery point into the cache, in few reads of the repository. Says how many
    /// bytes they have: none those that are zeros, which need no room.
    pub async fn warm_run(
        &self,
        blocks: Range<BlockIdx>,
        priority: Priority,
    ) -> Result<u64, DiskError> {
        self.base.warm_run(blocks, priority).await
    }

    fn check(&self, top: &Top, range: &Range<u64>) -> Result<(), DiskError> {
        if self.gate.is_shut() {
            return Err(DiskError::Gone);
        }
        if let Some(lost) = top.overlay.lost() {
            return Err(lost.clone());
        }
        let size = top.overlay.size();
        if range.start > range.end || range.end > size {
            let len = range.end.saturating_sub(range.start);
            return Err(DiskError::OutOfRange { start: range.start, len, size });
        }
        Ok(())
    }
}
