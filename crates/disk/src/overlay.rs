use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::changes::Trackers;
use crate::file::DiskFile;
use crate::gate::Gate;
use crate::grain::{GRAIN, GrainTable, Owner, grains_of};
use crate::id::DiskId;
use crate::records::{LeafRecord, OverlayRecord, Records};
use crate::{DISK_MAX, DiskError};

mod adopt;
mod write_back;

use write_back::Unwritten;

/// The guest's writes over one disk: a sparse data file with the disk's own offsets, and the owner
/// of each grain.
///
/// Changes come from the journal alone, one batch at a time and in its order; readers need no lock.
pub(crate) struct Overlay {
    pub(crate) id: DiskId,
    /// Names the overlay in the journal.
    pub(crate) number: u64,
    pub(crate) gate: Arc<Gate>,
    pub(crate) trackers: Arc<Trackers>,
    /// Of its record.
    below: Option<u64>,
    folder: Option<String>,
    file: DiskFile,
    size: AtomicU64,
    grains: GrainTable,
    dirty: Mutex<Dirty>,
    /// Whether there are records of it. Held by whoever writes or removes them.
    recorded: Mutex<bool>,
    /// Why the data file cannot be vouched for any more.
    lost: OnceLock<DiskError>,
    /// Acknowledged and not in the data file yet. One batch's: bounded by it.
    hidden: RwLock<Vec<Range<u64>>>,
    shown: Notify,
}

/// What is newer in memory and page cache than on disk.
#[derive(Default)]
struct Dirty {
    data: bool,
    unwritten: Unwritten,
    leaves: BTreeSet<u32>,
}

/// A change that the journal holds, to be made visible.
pub(crate) struct Change<'a> {
    pub(crate) range: Range<u64>,
    /// The bytes; `None` for zeros, which are whole grains.
    pub(crate) bytes: Option<&'a [u8]>,
    /// Who owned these grains before this change, in the journal's order.
    pub(crate) before: Owner,
}

impl Overlay {
    pub(crate) fn new(
        id: DiskId,
        record: &OverlayRecord,
        file: DiskFile,
    ) -> Result<Self, DiskError> {
        if record.size > DISK_MAX {
            return Err(DiskError::Corrupt(format!("size of disk {id}")));
        }
        Ok(Self {
            id,
            number: record.number,
            gate: Arc::default(),
            trackers: Arc::default(),
            below: record.below,
            folder: record.folder.clone(),
            file,
            size: AtomicU64::new(record.size),
            grains: GrainTable::new(),
            dirty: Mutex::default(),
            recorded: Mutex::new(true),
            lost: OnceLock::new(),
            hidden: RwLock::default(),
            shown: Notify::new(),
        })
    }

    /// An empty overlay that takes this one's place above it: whoever holds or follows the disk's writes goes on.
    pub(crate) fn over(&self, record: &OverlayRecord, file: DiskFile) -> Result<Self, DiskError> {
        let new = Self::new(self.id.clone(), record, file)?;
        Ok(Self { gate: self.gate.clone(), trackers: self.trackers.clone(), ..new })
    }

    /// Takes the owners that were kept.
    pub(crate) fn load(&self, records: &Records) -> Result<(), DiskError> {
        records.load_leaves(self.number, |leaf, bytes| self.grains.load_leaf(leaf, bytes))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes in grains that are not the base's.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.grains.written() * GRAIN
    }

    /// Bytes in grains that are in the data file.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.grains.data() * GRAIN
    }

    /// Bytes that the data file takes on its device.
    pub(crate) fn allocated(&self) -> Result<u64, DiskError> {
        self.file.allocated().map_err(|e| DiskError::io("ask size of overlay", e))
    }

    pub(crate) fn owner(&self, grain: u64) -> Owner {
        self.grains.owner(grain)
    }

    /// Who answers for the byte at `at`, and where, at most at `end`, that ends.
    pub(crate) fn run_at(&self, at: u64, end: u64) -> (Owner, u64) {
        let (owner, until) = self.grains.run_at(at / GRAIN, end.div_ceil(GRAIN));
        (owner, (until * GRAIN).min(end))
    }

    /// Fills `buf` from the data file if the page cache has all of it.
    pub(crate) fn read_cached(&self, buf: &mut [u8], at: u64) -> bool {
        self.file.read_cached(buf, at)
    }

    /// Fills `buf` from the data file. May block. Behind the file's end there are zeros.
    pub(crate) fn read_data(&self, buf: &mut [u8], at: u64) -> Result<(), DiskError> {
        let read = self.file.read_at(buf, at).map_err(|e| DiskError::io("read overlay", e))?;
        buf[read..].fill(0);
        Ok(())
    }

    /// Puts bytes where nobody sees them: in grains that the base owns. What a crash or a failed
    /// journal leaves of them stays unseen, because a grain only becomes the overlay's with a write
    /// of all of it.
    pub(crate) fn write_unseen(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.file.write_at(bytes, at).map_err(|e| DiskError::io("write overlay", e))
    }

    /// Makes sure that bytes for grains that are holes will find space.
    pub(crate) fn reserve(&self, range: Range<u64>) -> Result<(), DiskError> {
        self.file.allocate(range).map_err(|e| DiskError::io("reserve overlay space", e))
    }

    /// Why the data file cannot be vouched for any more, if so: a write or sync of it failed, and
    /// the kernel may have dropped what it held. The journal has it all; the next open replays.
    pub(crate) fn lost(&self) -> Option<&DiskError> {
        self.lost.get()
    }

    /// Readers of `range` wait until [`Overlay::show`].
    pub(crate) fn hide(&self, range: Range<u64>) {
        self.hidden.write().push(range);
    }

    /// Nothing is hidden any more.
    pub(crate) fn show(&self) {
        self.hidden.write().clear();
        self.shown.notify_waiters();
    }

    /// Whether a byte of `range` is acknowledged and not to be read yet.
    #[inline]
    pub(crate) fn is_hidden(&self, range: &Range<u64>) -> bool {
        let hides = |hidden: &Range<u64>| hidden.start < range.end && range.start < hidden.end;
        self.hidden.read().iter().any(hides)
    }

    /// Waits until all of `range` can be read.
    pub(crate) async fn until_shown(&self, range: &Range<u64>) {
        loop {
            let shown = self.shown.notified();
            if !self.is_hidden(range) {
                return;
            }
            shown.await;
        }
    }

    pub(crate) fn lose(&self, error: DiskError) -> DiskError {
        let _ = self.lost.set(DiskError::Stopped(Arc::new(error.clone())));
        error
    }

    /// Makes a change visible that the journal already holds. Callers take turns, in its order.
    pub(crate) fn apply(&self, change: &Change<'_>) -> Result<(), DiskError> {
        self.try_apply(change).map_err(|error| self.lose(error))
    }

    fn try_apply(&self, change: &Change<'_>) -> Result<(), DiskError> {
        let grains = grains_of(&change.range);
        match (change.bytes, change.before) {
            // Its bytes lie there already: `write_unseen`.
            (Some(_), Owner::Base) => self.own(grains, Owner::Data),
            (Some(bytes), Owner::Data) => self.write_seen(bytes, change.range.start)?,
            (Some(bytes), Owner::Zero) => {
                self.write_seen(bytes, change.range.start)?;
                self.own(grains, Owner::Data);
            }
            (None, before) => {
                self.own(grains, Owner::Zero);
                if before == Owner::Data {
                    let punched = self.file.punch(change.range.clone());
                    punched.map_err(|e| DiskError::io("free overlay space", e))?;
                }
            }
        }
        self.is_changed(&change.range);
        self.trackers.mark(&change.range);
        Ok(())
    }

    /// Makes a change again that may or may not have been made before a crash.
    pub(crate) fn replay(&self, range: Range<u64>, bytes: Option<&[u8]>) -> Result<(), DiskError> {
        if range.end > self.size() {
            return Err(DiskError::Corrupt(format!("journal entry beyond the end of {}", self.id)));
        }
        let grains = grains_of(&range);
        match bytes {
            Some(bytes) => {
                self.write_seen(bytes, range.start)?;
                self.own(grains, Owner::Data);
            }
            None => {
                self.own(grains, Owner::Zero);
                self.file
                    .punch(range.clone())
                    .map_err(|e| DiskError::io("free overlay space", e))?;
            }
        }
        self.is_changed(&range);
        Ok(())
    }

    fn is_changed(&self, range: &Range<u64>) {
        let mut dirty = self.dirty.lock();
        dirty.data = true;
        dirty.unwritten.add(range);
    }

    fn write_seen(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.file.write_at(bytes, at).map_err(|e| DiskError::io("write overlay", e))
    }

    fn own(&self, grains: Range<u64>, owner: Owner) {
        self.grains.set(grains.clone(), owner);
        self.dirty.lock().leaves.extend(GrainTable::leaves_of(&grains));
    }

    /// Whether a checkpoint has something to do here.
    pub(crate) fn is_dirty(&self) -> bool {
        let dirty = self.dirty.lock();
        dirty.data || !dirty.leaves.is_empty()
    }

    /// First half of a checkpoint: the data file's bytes are durable when this returns.
    pub(crate) fn sync_data(&self) -> Result<(), DiskError> {
        let changed = {
            let mut dirty = self.dirty.lock();
            dirty.unwritten = Unwritten::default();
            std::mem::take(&mut dirty.data)
        };
        if changed && !self.gate.is_shut() { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync().map_err(|e| self.lose(DiskError::io("sync overlay", e)))
    }

    /// Second half of a checkpoint: the owners that changed are durable when this returns.
    pub(crate) fn keep_owners(&self, records: &Records) -> Result<(), DiskError> {
        let leaves = std::mem::take(&mut self.dirty.lock().leaves);
        let recorded = self.recorded.lock();
        if !*recorded || leaves.is_empty() {
            return Ok(());
        }
        let record =
            |leaf| LeafRecord { number: self.number, leaf, bytes: self.grains.leaf_bytes(leaf) };
        records.put_leaves(&leaves.into_iter().map(record).collect::<Vec<_>>())
    }

    /// Makes the disk `size` bytes long, durably: the file first, then the record. Only growth; less
    /// is `Refused`. If the sync fails, the overlay is [`Overlay::lost`], as after a checkpoint's.
    pub(crate) fn grow(&self, size: u64, records: &Records) -> Result<(), DiskError> {
        let recorded = self.recorded.lock();
        if !*recorded {
            return Err(DiskError::Gone);
        }
        if size < self.size() || size > DISK_MAX {
            let text = format!("size {size} for a disk of {} bytes", self.size());
            return Err(DiskError::Refused(text));
        }
        if size > self.size() {
            self.file.set_len(size).map_err(|e| DiskError::io("grow overlay", e))?;
            self.sync()?;
            let (number, below, folder) = (self.number, self.below, self.folder.clone());
            records.put_overlay(&self.id, &OverlayRecord { number, size, below, folder })?;
            self.size.store(size, Ordering::Release);
        }
        Ok(())
    }

    /// Ends the overlay: no write is accepted and no record is kept any more. Layers that nothing lies over then go with it.
    pub(crate) fn end(&self, records: &Records, layers: &[u64]) -> Result<(), DiskError> {
        self.gate.shut();
        let mut recorded = self.recorded.lock();
        if *recorded {
            records.remove_overlay(&self.id, self.number, layers)?;
            *recorded = false;
        }
        Ok(())
    }
}
