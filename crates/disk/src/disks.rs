use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rekindle_state::Database;
use serde::{Deserialize, Serialize};

use crate::file::{Space, Storage};
use crate::id::DiskId;
use crate::journal::Journal;
use crate::journal::checkpoint::Checkpointer;
use crate::overlay::Overlay;
use crate::records::{Records, Tables};
use crate::{Base, DISK_MAX, Disk, DiskError, JournalStats};

mod freeze;
mod layers;
mod merge;
mod open;

use layers::Layers;
use merge::Merger;

/// Smallest journal: four segments of 64 KiB.
const JOURNAL_MIN: u64 = 256 << 10;
/// Largest journal.
const JOURNAL_MAX: u64 = 16 << 30;

/// How the overlays are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DisksConfig {
    /// Bytes of the journal, 256 KiB to 16 GiB. It bounds what a restart replays and what the page
    /// cache holds unsynced. Taken when the journal is made; later changes have no effect.
    pub journal_bytes: u64,
}

impl Default for DisksConfig {
    /// 512 MiB: replayed in about a second.
    fn default() -> Self {
        Self { journal_bytes: 512 << 20 }
    }
}

impl DisksConfig {
    /// `Refused` for a value outside its bounds.
    pub fn check(&self) -> Result<(), DiskError> {
        if (JOURNAL_MIN..=JOURNAL_MAX).contains(&self.journal_bytes) {
            return Ok(());
        }
        let text = format!("journal_bytes is not {JOURNAL_MIN} to {JOURNAL_MAX}");
        Err(DiskError::Refused(text))
    }
}

/// All virtual disks of the appliance: one journal, and an overlay for each.
///
/// The calls that are not `async` block for a sync or two: on async paths they belong in
/// `spawn_blocking`. Dropped, it finishes the writes that wait and makes a checkpoint; disks that
/// are still held then answer `Gone` to writes.
pub struct Disks {
    storage: Storage,
    dir: PathBuf,
    records: Arc<Records>,
    journal: Arc<Journal>,
    checkpointer: Arc<Checkpointer>,
    slots: Arc<Mutex<Slots>>,
    layers: Arc<Mutex<Layers>>,
    /// Held by whoever makes, freezes, merges or discards an overlay.
    changing: Arc<Mutex<()>>,
    merger: Arc<Merger>,
    committers: Mutex<Vec<JoinHandle<()>>>,
    merging: Mutex<Option<JoinHandle<()>>>,
    background: Mutex<Option<JoinHandle<()>>>,
}

type Slots = BTreeMap<DiskId, Slot>;

/// An overlay that exists.
enum Slot {
    Sound {
        overlay: Arc<Overlay>,
        disk: Option<Arc<Disk>>,
        /// The frozen layer that it lies over.
        below: Option<u64>,
        folder: String,
    },
    /// Its data file is missing or its map is damaged. It can only be discarded.
    Damaged { number: u64, error: DiskError, below: Option<u64>, folder: String },
}

impl Slot {
    fn below(&self) -> Option<u64> {
        match self {
            Self::Sound { below, .. } | Self::Damaged { below, .. } => *below,
        }
    }

    fn folder(&self) -> &str {
        match self {
            Self::Sound { folder, .. } | Self::Damaged { folder, .. } => folder,
        }
    }
}

impl Disks {
    /// Opens the overlays in `dir`, making it if needed, and replays the journal: when this returns,
    /// every acknowledged write can be read.
    ///
    /// `Corrupt` when the journal has lost a write that was acknowledged: nothing is changed then.
    pub fn open(dir: &Path, db: &Database, config: DisksConfig) -> Result<Arc<Self>, DiskError> {
        let records = Records::Database(Tables::open(db)?);
        Self::open_in(Storage::Real, dir, records, config)
    }

    /// Opens overlays whose files and records are all in `storage`.
    #[cfg(feature = "testing")]
    pub fn open_faulty(
        storage: &crate::FaultyStorage,
        dir: &Path,
        config: DisksConfig,
    ) -> Result<Arc<Self>, DiskError> {
        let records = Records::Memory(storage.clone());
        Self::open_in(Storage::Faulty(storage.clone()), dir, records, config)
    }

    /// Makes an empty overlay for a disk of `size` bytes. Durable when it returns; if it exists
    /// already and is as large, nothing is done.
    pub fn create(&self, id: &DiskId, size: u64) -> Result<(), DiskError> {
        if size > DISK_MAX {
            return Err(DiskError::Refused(format!("a disk of more than {DISK_MAX} bytes")));
        }
        let _changing = self.changing.lock();
        match self.slots.lock().get(id) {
            Some(Slot::Sound { overlay, .. }) if overlay.size() >= size => return Ok(()),
            Some(_) => return Err(DiskError::Refused(format!("disk {id} exists and is another"))),
            None => {}
        }
        self.create_over(id, size, None)
    }

    /// Puts the overlay over `base`. There is one such disk at a time: a second call returns the
    /// first one's.
    ///
    /// `Gone` if there is no such overlay, `Refused` if `base` is larger than it, `Corrupt` if what
    /// was kept of it is damaged.
    pub fn attach(&self, id: &DiskId, base: Base) -> Result<Arc<Disk>, DiskError> {
        match self.slots.lock().get_mut(id) {
            None => Err(DiskError::Gone),
            Some(Slot::Damaged { error, .. }) => Err(error.clone()),
            Some(Slot::Sound { disk: Some(disk), .. }) => Ok(disk.clone()),
            Some(Slot::Sound { overlay, disk, below, .. }) => {
                if base.size() > overlay.size() {
                    let text = format!("a base larger than disk {id}");
                    return Err(DiskError::Refused(text));
                }
                let base = match self.layers.lock().get(*below)? {
                    Some(layer) => Base::Layered { layer, bottom: Box::new(base) },
                    None => base,
                };
                let new =
                    Disk::new(overlay.clone(), base, self.journal.clone(), self.records.clone());
                Ok(disk.insert(Arc::new(new)).clone())
            }
        }
    }

    /// The disk, if it is attached.
    pub fn attached(&self, id: &DiskId) -> Option<Arc<Disk>> {
        match self.slots.lock().get(id) {
            Some(Slot::Sound { disk, .. }) => disk.clone(),
            Some(Slot::Damaged { .. }) | None => None,
        }
    }

    /// Throws an overlay away, with all that the guest wrote, and gives its space back. What still
    /// uses the disk gets `Gone`. Nothing is done if there is none.
    pub fn discard(&self, id: &DiskId) -> Result<(), DiskError> {
        let _changing = self.changing.lock();
        let end = match self.slots.lock().get(id) {
            Some(Slot::Sound { overlay, .. }) => Ok(Some(overlay.clone())),
            Some(Slot::Damaged { number, .. }) => Err(*number),
            None => Ok(None),
        };
        let unused = self.unused_without(id);
        // The records go first: a folder without one is swept at the next open.
        match end {
            Ok(Some(overlay)) => overlay.end(&self.records, &unused)?,
            Err(number) => self.records.remove_overlay(id, number, &unused)?,
            Ok(None) => {}
        }
        let mut folders = Vec::new();
        // What an interrupted discard left, unless it was frozen and is in use.
        let own = !self.layers.lock().has_folder(id.as_str());
        folders.extend(own.then(|| id.to_string()));
        folders.extend(self.slots.lock().remove(id).map(|slot| slot.folder().to_owned()));
        folders.extend(unused.into_iter().filter_map(|layer| self.layers.lock().remove(layer)));
        let remove = |folder: String| self.storage.remove_dir(&self.dir.join(folder));
        let removed = folders.into_iter().try_for_each(remove);
        let removed = removed.and_then(|()| self.storage.sync_dir(&self.dir));
        // What it lay over, only one may lie over now.
        self.merger.look();
        removed.map_err(|e| DiskError::io("remove overlay", e))
    }

    /// The names of all overlays that exist, attached or not.
    pub fn list(&self) -> Vec<DiskId> {
        self.slots.lock().keys().cloned().collect()
    }

    /// The file system that holds the overlays.
    pub fn space(&self) -> Result<Space, DiskError> {
        self.storage.space(&self.dir).map_err(|e| DiskError::io("ask for space", e))
    }

    /// What the journal holds and has done.
    pub fn stats(&self) -> JournalStats {
        self.journal.stats()
    }

    /// Moves all that the journal holds to where it stays: the next open replays nothing.
    pub fn checkpoint(&self) -> Result<(), DiskError> {
        self.checkpointer.checkpoint()
    }

    /// Finishes the writes that wait, makes a checkpoint and stops. Later writes get `Gone`.
    pub fn close(&self) -> Result<(), DiskError> {
        self.merger.close();
        let _ = self.merging.lock().take().map(JoinHandle::join);
        self.journal.close();
        for committer in self.committers.lock().drain(..) {
            let _ = committer.join();
        }
        let background = self.background.lock().take();
        if background.is_none() {
            return Ok(());
        }
        let done = self.checkpoint();
        self.journal.end();
        let _ = background.map(JoinHandle::join);
        done
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // A failure was logged where the journal stopped; the next open replays.
        let _ = self.close();
    }
}
