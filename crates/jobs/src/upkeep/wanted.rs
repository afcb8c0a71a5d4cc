use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_repo::PointId;

use crate::JobId;

/// Points of which batches begin recoveries later. No prune lets them go.
#[derive(Default)]
pub(crate) struct Wanted(Mutex<BTreeMap<JobId, BTreeSet<PointId>>>);

impl Wanted {
    /// They are wanted until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, batch: &JobId, points: BTreeSet<PointId>) -> Held {
        self.0.lock().insert(batch.clone(), points);
        Held { wanted: self.clone(), batch: batch.clone() }
    }

    pub(super) fn all(&self) -> BTreeSet<PointId> {
        self.0.lock().values().flatten().cloned().collect()
    }
}

/// What a batch wants.
pub(crate) struct Held {
    wanted: Arc<Wanted>,
    batch: JobId,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.wanted.0.lock().remove(&self.batch);
    }
}
