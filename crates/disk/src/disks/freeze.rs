//! Freezing disks, and putting further ones over what is frozen.
//!
//! # Crash order
//!
//! A freeze, of all the disks that it names at one moment:
//!
//! 1. Writes are held, and those in flight are done.
//! 2. A checkpoint: all that was written is in data files and in marks, durably, and the journal begins behind it.
//!    *Cut: replay from there; nothing is frozen.* So what is frozen is never replayed.
//! 3. A folder with an empty data file for what comes, durably.
//!    *Cut: no record names it, and it is swept.*
//! 4. One commit: each overlay becomes a layer, and each disk is a new overlay over it.
//!    *Cut: all of it, or nothing.* If it fails, nobody knows which, and the journal stops: entries of an overlay that is
//!    frozen on disk would not be replayed.
//! 5. The disks change over in memory, and the writes go on.
//!
//! A discard removes, in one commit, the disk's record and those of the layers over which no disk lies any more; folders
//! go afterwards. *Cut between: they are swept.* Before the commit they would be missed.

use std::sync::Arc;

use super::{Disks, Slot, open};
use crate::disk::Top;
use crate::file::Purpose;
use crate::id::DiskId;
use crate::layer::Layer;
use crate::overlay::Overlay;
use crate::records::{FrozenRecord, LayerRecord, OverlayRecord};
use crate::{Disk, DiskError};

/// A disk that is about to be frozen, and what comes over it.
struct Freezing {
    disk: Arc<Disk>,
    record: FrozenRecord,
    over: Arc<Overlay>,
    layer: Arc<Layer>,
}

impl Disks {
    /// Freezes what the guests of all these disks have written at one moment. They go on at once, over it; their writes
    /// wait meanwhile, for as long as a checkpoint takes. No byte is copied. In the order of `disks`; one to which nothing
    /// was written since it was frozen last gets the same layer again.
    ///
    /// Where [`crate::LAYERS_MAX`] layers lie under one of them, some are merged first, which may take long. `Refused` if other
    /// disks lie over each of them, `Full` if there is no space for it, and `Gone` if a disk is discarded: nothing is changed
    /// then.
    pub async fn freeze(
        self: &Arc<Self>,
        disks: &[Arc<Disk>],
    ) -> Result<Vec<Arc<Layer>>, DiskError> {
        // Most of the work of the one that is made while writes wait.
        let (early, named) = (self.clone(), disks.to_vec());
        let ready = move || early.make_room_under(&named).and_then(|()| early.checkpoint());
        crate::disk::blocking(ready).await?;
        let mut holds = Vec::with_capacity(disks.len());
        for disk in disks {
            holds.push(disk.hold_writes().await);
        }
        let (all, disks) = (self.clone(), disks.to_vec());
        crate::disk::blocking(move || {
            let frozen = all.freeze_held(&disks);
            drop(holds);
            all.merger.look();
            frozen
        })
        .await
    }

    fn freeze_held(&self, disks: &[Arc<Disk>]) -> Result<Vec<Arc<Layer>>, DiskError> {
        let twice = |n: usize| disks[..n].iter().any(|other| Arc::ptr_eq(other, &disks[n]));
        if (0..disks.len()).any(twice) {
            return Err(DiskError::Refused("a disk is to be frozen twice at one moment".into()));
        }
        let _changing = self.changing.lock();
        let _sizes: Vec<_> = disks.iter().map(|disk| disk.sizing()).collect();
        self.checkpoint()?;
        let mut next = self.records.next_number()?;
        let mut freezing = Vec::new();
        for disk in disks {
            if let Some(one) = self.prepare(disk, &mut next)? {
                freezing.push(one);
            }
        }
        if !freezing.is_empty() {
            let records: Vec<_> = freezing.iter().map(|one| one.record.clone()).collect();
            let kept = self.records.freeze(&records);
            kept.inspect_err(|cause| self.journal.stop(cause))?;
        }
        for one in freezing {
            self.change_over(one);
        }
        let layer = |disk: &Arc<Disk>| disk.top().layer().cloned().ok_or(DiskError::Gone);
        disks.iter().map(layer).collect()
    }

    /// Step 3 for a disk; `None` if nothing was written over its layer.
    fn prepare(&self, disk: &Arc<Disk>, next: &mut u64) -> Result<Option<Freezing>, DiskError> {
        let top = disk.top();
        let (below, folder) = match self.slots.lock().get(disk.id()) {
            Some(Slot::Sound { overlay, below, folder, .. })
                if Arc::ptr_eq(overlay, &top.overlay) =>
            {
                (*below, folder.clone())
            }
            Some(_) | None => return Err(DiskError::Gone),
        };
        let size = disk.size();
        if top.is_as_frozen() {
            return Ok(None);
        }
        self.layers.lock().check_depth(below)?;
        let number = *next;
        *next += 1;
        let over = OverlayRecord {
            number,
            size,
            below: Some(top.overlay.number),
            folder: Some(format!(".{number}")),
        };
        let file = self.create_files(over.folder_of(disk.id()), size);
        let file = file.map_err(|e| DiskError::io("create overlay", e))?;
        let new = top.overlay.over(&over, file)?;
        let frozen = LayerRecord { size, folder, below };
        let layer = Arc::new(Layer::new(top.overlay.clone(), top.layer().cloned()));
        let record = FrozenRecord { id: disk.id().clone(), over, frozen };
        Ok(Some(Freezing { disk: disk.clone(), record, over: Arc::new(new), layer }))
    }

    /// Step 5.
    fn change_over(&self, one: Freezing) {
        let FrozenRecord { id, over, frozen } = one.record;
        self.layers.lock().insert(one.layer.number(), frozen, Ok(one.layer.clone()));
        if let Some(Slot::Sound { overlay, below, folder, .. }) = self.slots.lock().get_mut(&id) {
            *overlay = one.over.clone();
            *below = over.below;
            *folder = over.folder_of(&id).to_owned();
        }
        one.disk.change_over(Top::over(one.over, one.layer, one.disk.base()));
    }

    /// Makes a disk over what is frozen: it has all of it, at no copy, and its writes are its own. What it is attached over
    /// must be what the frozen disk lies over. Durable when it returns; if it exists already and lies over `layer`, nothing is
    /// done.
    ///
    /// `Gone` if no disk lies over `layer` any more, or it was merged into the one above it.
    pub fn fork(&self, id: &DiskId, layer: &Layer) -> Result<(), DiskError> {
        let _changing = self.changing.lock();
        let under = Some(layer.number());
        match self.slots.lock().get(id) {
            Some(Slot::Sound { below, .. }) if *below == under => return Ok(()),
            Some(_) => return Err(DiskError::Refused(format!("disk {id} exists and is another"))),
            None => {}
        }
        if !self.layers.lock().bears(layer.number()) {
            return Err(DiskError::Gone);
        }
        self.create_over(id, layer.size(), under)
    }

    /// Files first, then the record.
    pub(super) fn create_over(
        &self,
        id: &DiskId,
        size: u64,
        below: Option<u64>,
    ) -> Result<(), DiskError> {
        let number = self.records.next_number()?;
        // What was frozen of a former disk of that name is in its folder.
        let taken = self.layers.lock().has_folder(id.as_str());
        let record =
            OverlayRecord { number, size, below, folder: taken.then(|| format!(".{number}")) };
        let folder = record.folder_of(id).to_owned();
        let file =
            self.create_files(&folder, size).map_err(|e| DiskError::io("create overlay", e))?;
        let overlay = Arc::new(Overlay::new(id.clone(), &record, file)?);
        self.records.put_overlay(id, &record)?;
        let slot = Slot::Sound { overlay, disk: None, below, folder };
        self.slots.lock().insert(id.clone(), slot);
        Ok(())
    }

    /// The files are durable before the record says that they exist.
    fn create_files(&self, folder: &str, size: u64) -> std::io::Result<crate::file::DiskFile> {
        let folder = self.dir.join(folder);
        // What an interrupted create or discard left.
        self.storage.remove_dir(&folder)?;
        self.storage.make_dir(&folder)?;
        let file = self.storage.open(&folder.join(open::DATA), Purpose::Data, true)?;
        file.set_len(size)?;
        file.sync()?;
        self.storage.sync_dir(&folder)?;
        self.storage.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Layers that no disk but `id` lies over.
    pub(super) fn unused_without(&self, id: &DiskId) -> Vec<u64> {
        let slots = self.slots.lock();
        let others = slots.iter().filter(|(other, _)| *other != id).map(|(_, slot)| slot.below());
        self.layers.lock().unused(others)
    }
}
