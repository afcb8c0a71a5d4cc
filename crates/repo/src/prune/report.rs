use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::condemned::Condemned;
use super::plan::Stored;
use crate::id::PackId;

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PruneReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Every point that was judged, by VM and from the newest on. One that nothing keeps is condemned.
    pub verdicts: Vec<Verdict>,
    /// What goes after the grace time.
    pub condemned: PruneCounts,
    /// What was condemned before and went.
    pub removed: PruneCounts,
    /// What was condemned before and stays, as it is needed after all.
    pub spared: PruneCounts,
    /// What was condemned before and has time left.
    pub waiting: PruneCounts,
    /// When a prune will next have something to delete.
    pub next_at: Option<Timestamp>,
    /// Why nothing was deleted although its time had come.
    pub held_up: Option<String>,
}

/// Objects of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PruneCounts {
    /// Recovery points.
    pub points: u64,
    /// Maps of disks.
    pub maps: u64,
    /// Packs of blocks: about 64 MiB each.
    pub packs: u64,
    /// Bytes of these packs.
    pub bytes: u64,
    /// Packs among them that are in a cold tier. They are deleted as they are, without a thaw.
    pub cold_packs: u64,
    /// US dollars that Amazon charges for deleting them before their least time there is over (us-east-1, if they came
    /// there when they were last written; other stores differ).
    pub early_deletion_usd: f64,
}

impl PruneCounts {
    /// What `list` names, deleted at `at`.
    pub(super) fn of(list: &Condemned, stored: &Stored, at: Timestamp) -> Self {
        let mut counts = Self {
            points: list.points.len() as u64,
            maps: list.maps.len() as u64,
            ..Self::default()
        };
        list.packs.iter().for_each(|pack| counts.add_pack(*pack, stored, at));
        counts
    }

    fn add_pack(&mut self, pack: PackId, stored: &Stored, at: Timestamp) {
        self.packs += 1;
        let Some(pack) = stored.packs.get(&pack) else { return };
        self.bytes += pack.len;
        self.cold_packs += u64::from(pack.tier.is_cold());
        let age = pack.written_at.duration_until(at);
        self.early_deletion_usd += pack.tier.early_deletion_usd(pack.len, age);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.maps += other.maps;
        self.packs += other.packs;
        self.bytes += other.bytes;
        self.cold_packs += other.cold_packs;
        self.early_deletion_usd += other.early_deletion_usd;
    }
}

/// How far a prune is.
#[derive(Debug, Default)]
pub struct PruneProgress {
    total: AtomicU64,
    done: AtomicU64,
}

impl PruneProgress {
    /// Bytes of disks whose maps are to be read.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes of disks whose maps were read.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn start(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}
