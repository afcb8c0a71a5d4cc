use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::grain::Owner;
use crate::overlay::Overlay;

/// The owners of grains that batches under way will change, in the journal's order.
#[derive(Default)]
pub(crate) struct Pending {
    owners: HashMap<Key, Owned>,
    /// What each batch changes.
    batches: VecDeque<(u64, Vec<Changed>)>,
}

/// An overlay's number and a grain of it.
type Key = (u64, u64);
/// An owner, and the batch that makes it so.
type Owned = (Owner, u64);
/// A grain that a batch changes, and what was known of it before.
type Changed = (Key, Option<Owned>);

impl Pending {
    /// The owner of a grain when all batches before this one are applied.
    pub(super) fn owner(&self, overlay: &Overlay, grain: u64) -> Owner {
        if self.owners.is_empty() {
            return overlay.owner(grain);
        }
        let pending = self.owners.get(&(overlay.number, grain));
        pending.map_or_else(|| overlay.owner(grain), |(owner, _)| *owner)
    }

    pub(super) fn set(&mut self, seq: u64, overlay: &Overlay, grains: Range<u64>, owner: Owner) {
        if self.batches.back().is_none_or(|(last, _)| *last != seq) {
            self.batches.push_back((seq, Vec::new()));
        }
        if let Some((_, keys)) = self.batches.back_mut() {
            for key in grains.map(|grain| (overlay.number, grain)) {
                keys.push((key, self.owners.insert(key, (owner, seq))));
            }
        }
    }

    /// Forgets the batch `seq`, the last one, which will not be.
    pub(super) fn undo(&mut self, seq: u64) {
        let Some((_, keys)) = self.batches.pop_back_if(|(last, _)| *last == seq) else { return };
        for (key, before) in keys.into_iter().rev() {
            match before {
                Some(owned) => self.owners.insert(key, owned),
                None => self.owners.remove(&key),
            };
        }
    }

    /// Forgets batches up to `applied`: the overlays know by themselves.
    pub(crate) fn forget(&mut self, applied: u64) {
        while self.batches.front().is_some_and(|(seq, _)| *seq <= applied) {
            for (key, _) in self.batches.pop_front().into_iter().flat_map(|(_, keys)| keys) {
                if self.owners.get(&key).is_some_and(|(_, seq)| *seq <= applied) {
                    self.owners.remove(&key);
                }
            }
        }
    }
}
