//! Merging frozen layers, so that a disk can be frozen for ever: two that lie over each other, the lower of which nothing
//! else lies over, become one.
//!
//! # Crash order
//!
//! The upper layer keeps its number and takes over what only the lower one has. Both are frozen, so whoever reads finds the
//! same bytes in either at any time; who holds the lower one goes on reading its file after that has no name any more.
//!
//! 1. The bytes go to the upper layer's data file, in grains that are not its own.
//!    *Cut: nobody sees them; they are written again.*
//! 2. They are synced. *If that fails, nothing was changed, and all are written again.*
//! 3. The grains become the upper layer's, in memory and in `state`. *Cut: some are its own, some still the lower one's; the
//!    bytes are the same.* Before step 2 they would name bytes that are not there.
//! 4. One commit: the upper layer lies over what the lower one lay over, whose record and marks are gone.
//!    *Cut: all of it, or nothing.* Before step 3 what only the lower one had would be lost. If it fails, nobody knows which:
//!    no disk is put over the lower layer from now on, and this commit is made again before any other merge under the disk.
//! 5. Disks change over in memory, and the lower one's folder is removed. *Cut before: it is swept.*
//!
//! When the file system has no space for step 1, what was copied is given back and all is as it was.
//!
//! # Bounds
//!
//! One merge at a time, with a buffer of [`PIECE`]; in the background [`BYTES_PER_SECOND`]. Of the pairs under a disk the one
//! with the fewest bytes to copy is taken, so that what was written once is copied as often as layers double in size.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::layers::{Layers, Pair};
use super::{Disks, Slot, Slots};
use crate::DiskError;
use crate::disk::Top;
use crate::file::Storage;
use crate::journal::Journal;
use crate::layer::LAYERS_MAX;
use crate::records::Records;

/// How many layers are left under a disk in the background.
const LEFT: usize = 4;
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;
/// Bytes that are copied between two syncs: what the device must take at once.
const SYNC_EVERY: usize = 64 << 20;
/// How fast is copied while nobody waits.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// After how long what failed is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Which part of the file system is left to what guests write.
const LEFT_FREE: u64 = 100;

/// Merges layers, by itself and for whoever waits.
pub(super) struct Merger {
    pub(super) storage: Storage,
    pub(super) dir: PathBuf,
    pub(super) records: Arc<Records>,
    pub(super) journal: Arc<Journal>,
    pub(super) slots: Arc<Mutex<Slots>>,
    pub(super) layers: Arc<Mutex<Layers>>,
    pub(super) changing: Arc<Mutex<()>>,
    /// Held for a whole merge.
    pub(super) merging: Mutex<()>,
    pub(super) wanted: Mutex<Wanted>,
    pub(super) changed: Condvar,
}

/// What is wanted of a merger.
#[derive(Default)]
pub(super) struct Wanted {
    /// There may be something to merge.
    look: bool,
    /// How many wait for it.
    hurry: usize,
    closed: bool,
}

/// Somebody waits for a merge. Until it is dropped.
struct Hurry<'a>(&'a Merger);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.wanted.lock().hurry -= 1;
    }
}

impl Disks {
    /// Merges frozen layers until at most `left` lie under each disk, as far as no other disks lie over them. This is done in
    /// the background as well. Returns how many layers there are less.
    ///
    /// `Full` if the file system has no space for it: all is as it was then.
    pub fn merge_layers(&self, left: usize) -> Result<usize, DiskError> {
        self.merger.merge_now(left, |_| true)
    }

    /// The same for some disks, where no further layer can lie under them.
    pub(super) fn make_room_under(&self, disks: &[Arc<crate::Disk>]) -> Result<(), DiskError> {
        let deep = |slot: &Slot| match slot {
            Slot::Sound { disk: Some(disk), below, .. } => {
                let is_one = disks.iter().any(|one| Arc::ptr_eq(one, disk));
                let grows = is_one && !disk.top().is_as_frozen();
                grows && self.layers.lock().depth(*below) >= LAYERS_MAX
            }
            Slot::Sound { .. } | Slot::Damaged { .. } => false,
        };
        if self.slots.lock().values().any(deep) {
            self.merger.merge_now(LAYERS_MAX - 1, deep)?;
        }
        Ok(())
    }
}

impl Merger {
    /// The life of the thread.
    pub(super) fn run(&self) {
        let mut failed = false;
        loop {
            let mut wanted = self.wanted.lock();
            while !wanted.closed && !wanted.look {
                match failed {
                    true => wanted.look |= self.changed.wait_for(&mut wanted, RETRY).timed_out(),
                    false => self.changed.wait(&mut wanted),
                }
            }
            if wanted.closed {
                return;
            }
            wanted.look = false;
            drop(wanted);
            let merged = self.merge_all(LEFT, |_| true);
            if let (Err(error), false) = (&merged, failed) {
                tracing::warn!(%error, "frozen layers are not merged now: tried again");
            }
            failed = merged.is_err();
        }
    }

    /// There may be something to merge.
    pub(super) fn look(&self) {
        self.wanted.lock().look = true;
        self.changed.notify_all();
    }

    /// Ends what is under way, as if it had not begun.
    pub(super) fn close(&self) {
        self.wanted.lock().closed = true;
        self.changed.notify_all();
    }

    fn merge_now(&self, left: usize, of: impl Fn(&Slot) -> bool) -> Result<usize, DiskError> {
        self.wanted.lock().hurry += 1;
        let _hurry = Hurry(self);
        self.changed.notify_all();
        self.merge_all(left, of)
    }

    fn merge_all(&self, left: usize, of: impl Fn(&Slot) -> bool) -> Result<usize, DiskError> {
        let _merging = self.merging.lock();
        let under: Vec<_> = {
            let slots = self.slots.lock();
            slots.values().filter(|slot| of(slot)).map(Slot::below).collect()
        };
        let mut merged = 0;
        for below in under {
            while let Some(pair) = self.pair(below, left) {
                if !self.merge(&pair)? {
                    return Ok(merged);
                }
                merged += 1;
            }
        }
        Ok(merged)
    }

    fn pair(&self, below: Option<u64>, left: usize) -> Option<Pair> {
        let slots = self.slots.lock();
        self.layers.lock().pair(below, left, &lie_over(&slots))
    }

    /// Whether both are still there, with nothing more over the lower one.
    fn is_pair(&self, pair: &Pair) -> bool {
        let slots = self.slots.lock();
        self.layers.lock().is_pair(pair, &lie_over(&slots))
    }

    /// False if the two cannot be merged any more, or nothing is to be done any more.
    fn merge(&self, pair: &Pair) -> Result<bool, DiskError> {
        let (upper, lower) = (pair.upper.overlay(), pair.lower.overlay());
        let bytes = upper.missing_bytes(lower);
        match self.copy(pair) {
            Ok(true) => {}
            // What was copied lies where a next try writes it again, if there is one.
            Ok(false) if self.wanted.lock().closed => return Ok(false),
            Ok(false) => return upper.drop_copied(lower).map(|()| false),
            Err(error) => {
                upper.drop_copied(lower)?;
                return Err(error);
            }
        }
        let _changing = self.changing.lock();
        if !self.is_pair(pair) {
            return upper.drop_copied(lower).map(|()| false);
        }
        upper.adopt(lower, &self.records)?;
        let Some(record) = self.layers.lock().begin_merge(pair) else { return Ok(false) };
        self.records.merge(pair.upper.number(), &record, pair.lower.number())?;
        let folder = self.change_over(pair, record);
        tracing::info!(disk = %upper.id, bytes, "two frozen layers merged");
        if let Some(folder) = folder {
            let removed = self.storage.remove_dir(&self.dir.join(folder));
            let removed = removed.and_then(|()| self.storage.sync_dir(&self.dir));
            removed.map_err(|e| DiskError::io("remove merged layer", e))?;
        }
        Ok(true)
    }

    /// Steps 1 and 2. False if it was ended before.
    fn copy(&self, pair: &Pair) -> Result<bool, DiskError> {
        let (upper, lower) = (pair.upper.overlay(), pair.lower.overlay());
        let mut unsynced = 0;
        let copied = upper.copy_from(lower, PIECE, |bytes| {
            if unsynced >= SYNC_EVERY {
                upper.sync_copied()?;
                unsynced = 0;
            }
            unsynced += bytes;
            self.check_space(bytes as u64)?;
            Ok(self.wait_for_turn(bytes as u64) && self.is_pair(pair))
        })?;
        if copied {
            upper.sync_copied()?;
        }
        Ok(copied)
    }

    fn check_space(&self, bytes: u64) -> Result<(), DiskError> {
        let space = self.storage.space(&self.dir);
        let space = space.map_err(|e| DiskError::io("ask for space", e))?;
        if space.free < space.total / LEFT_FREE + bytes { Err(DiskError::Full) } else { Ok(()) }
    }

    /// Waits for as long as `bytes` take, or until somebody waits. False once nothing is to be done any more.
    fn wait_for_turn(&self, bytes: u64) -> bool {
        let mut wanted = self.wanted.lock();
        let takes = Duration::from_micros(bytes * 1_000_000 / BYTES_PER_SECOND);
        let ends = std::time::Instant::now() + takes;
        while wanted.hurry == 0 && !wanted.closed {
            if self.changed.wait_until(&mut wanted, ends).timed_out() {
                break;
            }
        }
        !wanted.closed && self.journal.stopped().is_none()
    }

    /// Step 5 in memory. Nobody need wait: what lies under the disks has the same bytes before and after.
    fn change_over(&self, pair: &Pair, record: crate::records::LayerRecord) -> Option<String> {
        let slots = self.slots.lock();
        let mut layers = self.layers.lock();
        let folder = layers.merge(pair, record);
        for slot in slots.values() {
            let Slot::Sound { overlay, disk: Some(disk), below, .. } = slot else { continue };
            if let Ok(Some(layer)) = layers.get(*below) {
                disk.change_over(Top::over(overlay.clone(), layer, disk.base()));
            }
        }
        folder
    }
}

/// What each disk lies over.
fn lie_over(slots: &Slots) -> Vec<Option<u64>> {
    slots.values().map(Slot::below).collect()
}
