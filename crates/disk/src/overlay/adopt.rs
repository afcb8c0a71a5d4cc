use std::ops::Range;

use super::Overlay;
use crate::DiskError;
use crate::grain::{GRAIN, GrainTable, Owner};
use crate::records::{LeafRecord, Records};

/// Leaves of an overlay that are put together for one call: 4 MiB of them.
const LEAVES_AT_ONCE: u32 = 8192;

/// What a frozen overlay takes over from the one that it lies over. Nobody writes to either; whoever reads finds the same
/// bytes before, meanwhile and after.
impl Overlay {
    /// Bytes of data that [`Overlay::copy_from`] would write.
    pub(crate) fn missing_bytes(&self, lower: &Self) -> u64 {
        let runs = self.missing(lower).filter(|(_, owner)| *owner == Owner::Data);
        runs.map(|(grains, _)| (grains.end - grains.start) * GRAIN).sum()
    }

    /// Grains that `lower` has and this one has not, in order, and what they are there.
    fn missing(&self, lower: &Self) -> impl Iterator<Item = (Range<u64>, Owner)> {
        let (mut at, end) = (0, lower.size().div_ceil(GRAIN));
        std::iter::from_fn(move || {
            while at < end {
                let start = at;
                let (theirs, until) = lower.grains.run_at(start, end);
                if theirs == Owner::Base {
                    at = until;
                    continue;
                }
                let (own, until) = self.grains.run_at(start, until);
                at = until;
                if own == Owner::Base {
                    return Some((start..until, theirs));
                }
            }
            None
        })
    }

    /// Puts the bytes of these grains into the data file, where nobody sees them: the grains are not its own yet. `before`
    /// is asked before each piece of at most `most` bytes whether to go on; says whether all was copied.
    pub(crate) fn copy_from(
        &self,
        lower: &Self,
        most: usize,
        mut before: impl FnMut(usize) -> Result<bool, DiskError>,
    ) -> Result<bool, DiskError> {
        let mut buffer = vec![0; most];
        for (grains, owner) in self.missing(lower) {
            if owner != Owner::Data {
                continue;
            }
            // Whole grains, also where the lower one ended in one: behind its end there are zeros, and what an
            // interrupted write left in this file is written over.
            let mut at = grains.start * GRAIN;
            let end = (grains.end * GRAIN).min(self.size());
            while at < end {
                let piece = &mut buffer[..(end - at).min(most as u64) as usize];
                if !before(piece.len())? {
                    return Ok(false);
                }
                lower.read_data(piece, at)?;
                self.write_unseen(piece, at)?;
                at += piece.len() as u64;
            }
        }
        Ok(true)
    }

    /// Makes what was copied durable. If it fails, all must be copied again.
    pub(crate) fn sync_copied(&self) -> Result<(), DiskError> {
        self.file.sync().map_err(|e| DiskError::io("sync merged layer", e))
    }

    /// Gives the space of what was copied back.
    pub(crate) fn drop_copied(&self, lower: &Self) -> Result<(), DiskError> {
        for (grains, owner) in self.missing(lower) {
            if owner == Owner::Data {
                let range = grains.start * GRAIN..(grains.end * GRAIN).min(self.size());
                let punched = self.file.punch(range);
                punched.map_err(|e| DiskError::io("free overlay space", e))?;
            }
        }
        Ok(())
    }

    /// Makes its own what was copied durably, and zeros, and keeps that. May be called again, and must be until it is `Ok`.
    pub(crate) fn adopt(&self, lower: &Self, records: &Records) -> Result<(), DiskError> {
        for (grains, owner) in self.missing(lower) {
            self.grains.set(grains, owner);
        }
        // Of all that `lower` has: what a call before this one could not keep is not missing any more.
        let all = GrainTable::leaves_of(&(0..lower.size().div_ceil(GRAIN)));
        for first in all.clone().step_by(LEAVES_AT_ONCE as usize) {
            let part = first..all.end.min(first.saturating_add(LEAVES_AT_ONCE));
            let written = part.filter(|leaf| lower.grains.has_leaf(*leaf));
            let record = |leaf| LeafRecord {
                number: self.number,
                leaf,
                bytes: self.grains.leaf_bytes(leaf),
            };
            let leaves: Vec<_> = written.map(record).collect();
            if !leaves.is_empty() {
                records.put_leaves(&leaves)?;
            }
        }
        Ok(())
    }
}
