//! Upkeep of repositories by the running appliance, which knows what its jobs use: prunes, checks, and recovery points
//! that are made of what guests wrote.
//!
//! At most one for each repository at a time. It is not journaled: one that a stop or a crash cuts short has done a part
//! of its work, which the next one ends.

mod begin;
mod keep;
mod view;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use rekindle_repo::{
    CheckProgress, CheckReport, IngestProgress, PruneProgress, PruneReport, Retention,
};

pub use begin::{CheckRequest, Ending, PruneRequest};
pub use keep::{KeepReport, KeepRequest};
pub use view::{UpkeepEnd, UpkeepKind, UpkeepRunning, UpkeepView};
pub(crate) use wanted::{Held, Wanted};

use crate::JobError;

/// How a repository is kept, unless a request says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpkeepConfig {
    /// Which points stay.
    pub retention: Retention,
    /// How long what a prune condemns stays.
    pub grace_hours: u32,
}

impl Default for UpkeepConfig {
    fn default() -> Self {
        Self { retention: Retention::default(), grace_hours: 72 }
    }
}

/// What is going on in each repository, and how the last time ended.
#[derive(Default)]
pub(crate) struct Upkeep(Mutex<BTreeMap<String, Slot>>);

#[derive(Default)]
struct Slot {
    running: Option<Running>,
    prune: Option<UpkeepEnd<PruneReport>>,
    check: Option<UpkeepEnd<CheckReport>>,
    keep: Option<UpkeepEnd<KeepReport>>,
}

struct Running {
    kind: UpkeepKind,
    begun_at: Timestamp,
    progress: Progress,
    cancel: Arc<AtomicBool>,
}

/// How far it is.
#[derive(Clone)]
enum Progress {
    Prune(Arc<PruneProgress>),
    Check(Arc<CheckProgress>),
    Keep(Arc<IngestProgress>),
}

impl Progress {
    /// Bytes of disks done, and in all.
    fn bytes(&self) -> (u64, u64) {
        match self {
            Self::Prune(prune) => (prune.done(), prune.total()),
            Self::Check(check) => (check.done(), check.total()),
            Self::Keep(keep) => (keep.counts().done, keep.counts().total),
        }
    }
}

impl Upkeep {
    /// Takes the repository's one place. It is free again when the guard is dropped.
    fn begin(
        self: &Arc<Self>,
        repository: &str,
        kind: UpkeepKind,
        progress: Progress,
    ) -> Result<Place, JobError> {
        let mut slots = self.0.lock();
        let slot = slots.entry(repository.to_owned()).or_default();
        if let Some(running) = &slot.running {
            let what = running.kind.as_str();
            let message = format!("a {what} of {repository:?} is under way: wait, or stop it");
            return Err(JobError::conflict("upkeep_under_way", message));
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let begun_at = Timestamp::now();
        slot.running = Some(Running { kind, begun_at, progress, cancel: cancel.clone() });
        Ok(Place { upkeep: self.clone(), repository: repository.to_owned(), begun_at, cancel })
    }

    /// Stops what is under way. It ends within seconds.
    fn stop(&self, repository: &str) -> Result<(), JobError> {
        let slots = self.0.lock();
        match slots.get(repository).and_then(|slot| slot.running.as_ref()) {
            Some(running) => {
                running.cancel.store(true, Ordering::Relaxed);
                Ok(())
            }
            None => {
                let message = format!("nothing is under way in repository {repository:?}");
                Err(JobError::conflict("no_upkeep", message))
            }
        }
    }

    /// Stops everything: the appliance does.
    pub(crate) fn stop_all(&self) {
        for running in self.0.lock().values().filter_map(|slot| slot.running.as_ref()) {
            running.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn view(&self, repository: &str) -> UpkeepView {
        let slots = self.0.lock();
        let Some(slot) = slots.get(repository) else { return UpkeepView::default() };
        let running = slot.running.as_ref().map(|running| {
            let (done_bytes, total_bytes) = running.progress.bytes();
            UpkeepRunning {
                kind: running.kind,
                begun_at: running.begun_at,
                done_bytes,
                total_bytes,
            }
        });
        let (prune, check, keep) = (slot.prune.clone(), slot.check.clone(), slot.keep.clone());
        UpkeepView { running, prune, check, keep }
    }
}

/// The place of one that is under way.
struct Place {
    upkeep: Arc<Upkeep>,
    repository: String,
    begun_at: Timestamp,
    cancel: Arc<AtomicBool>,
}

impl Place {
    /// How it ended, for whoever asks.
    fn end<R: Clone>(&self, result: &Result<R, JobError>) -> UpkeepEnd<R> {
        UpkeepEnd {
            begun_at: self.begun_at,
            ended_at: Timestamp::now(),
            report: result.as_ref().ok().cloned(),
            error: result.as_ref().err().map(JobError::to_view),
        }
    }

    fn end_prune(&self, result: &Result<PruneReport, JobError>) {
        let end = self.end(result);
        self.upkeep.0.lock().entry(self.repository.clone()).or_default().prune = Some(end);
    }

    fn end_keep(&self, result: &Result<KeepReport, JobError>) {
        let end = self.end(result);
        self.upkeep.0.lock().entry(self.repository.clone()).or_default().keep = Some(end);
    }

    fn end_check(&self, result: &Result<CheckReport, JobError>) {
        let end = self.end(result);
        self.upkeep.0.lock().entry(self.repository.clone()).or_default().check = Some(end);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slot) = self.upkeep.0.lock().get_mut(&self.repository) {
            slot.running = None;
        }
    }
}
