use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rekindle_repo::PointId;

use crate::JobId;

/// Points of which batches begin recoveries later. No prune lets them go.
#[derive(Default)]
pub(crate) struct Wanted {
    /// By batch, and by who holds them: one that is resumed does before it holds them no more.
    held: Mutex<BTreeMap<(JobId, u64), BTreeSet<PointId>>>,
    next: AtomicU64,
}

impl Wanted {
    /// They are wanted until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, batch: &JobId, points: BTreeSet<PointId>) -> Held {
        let key = (batch.clone(), self.next.fetch_add(1, Ordering::Relaxed));
        self.held.lock().insert(key.clone(), points);
        Held { wanted: self.clone(), key }
    }

    pub(super) fn all(&self) -> BTreeSet<PointId> {
        self.held.lock().values().flatten().cloned().collect()
    }
}

/// What a batch wants.
pub(crate) struct Held {
    wanted: Arc<Wanted>,
    key: (JobId, u64),
}

impl Drop for Held {
    fn drop(&mut self) {
        self.wanted.held.lock().remove(&self.key);
    }
}
