//! Hot copies by the clock: in the hours that are configured, the newest point of each VM.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

use anyhow::Context;
use jiff::Zoned;
use rekindle_repo::{Attached, HotReport, PointId, RepoError, Repository};
use tokio::runtime::Handle;

use crate::{
    config::{Config, HotCopySection},
    exit::Failure,
    local,
};

/// How often it is looked whether there is something to copy.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// How often a repository that is not open is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The threads that copy. They end when this is dropped; a copy under way with its next piece.
pub(super) struct HotCopies {
    stop: Arc<AtomicBool>,
    alive: Vec<Sender<()>>,
}

impl Drop for HotCopies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.alive.clear();
    }
}

/// Begins to copy for each repository whose hot copy has hours.
pub(super) fn start(
    config: &Config,
    repositories: &BTreeMap<String, Attached>,
) -> Result<HotCopies, Failure> {
    let mut copies = HotCopies { stop: Arc::default(), alive: Vec::new() };
    for entry in config.repositories() {
        let scheduled = entry.hot_copy.filter(|hot| hot.from.is_some());
        let (Some(hot), Some(attached)) = (scheduled, repositories.get(&entry.name)) else {
            continue;
        };
        let (alive, ended) = channel();
        let copier = Copier {
            name: entry.name,
            attached: attached.clone(),
            hot,
            runtime: Handle::current(),
            stop: copies.stop.clone(),
            ended,
            warned: BTreeSet::new(),
        };
        let thread = std::thread::Builder::new().name("hot-copy".into());
        thread.spawn(move || copier.run()).context("start to make hot copies")?;
        copies.alive.push(alive);
    }
    Ok(copies)
}

struct Copier {
    name: String,
    attached: Attached,
    hot: HotCopySection,
    runtime: Handle,
    stop: Arc<AtomicBool>,
    /// Ends with its sender.
    ended: Receiver<()>,
    /// What could not be copied and was said: once for each point.
    warned: BTreeSet<Option<PointId>>,
}

impl Copier {
    fn run(mut self) {
        loop {
            let open = self.attached.get().ok();
            let pause = if open.is_some() { LOOK_EVERY } else { ASK_EVERY };
            if let Some(repository) = open.filter(|_| !self.is_over()) {
                match self.copy(&repository) {
                    // What was copied until then is found the next time.
                    Err(RepoError::Cancelled) => {}
                    Err(error) => self.failed(None, &error),
                    Ok(()) => _ = self.warned.remove(&None),
                }
            }
            if self.ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn copy(&mut self, repository: &Repository) -> Result<(), RepoError> {
        let listing = self.runtime.block_on(repository.points())?;
        let (hot, stop) = (self.hot.clone(), self.stop.clone());
        let over = move || is_over(&hot, &stop);
        let limits = local::hot::limits(&self.hot);
        let mut told = |point: &PointId, copied: Result<HotReport, RepoError>| match copied {
            Ok(report) => self.copied(point, &report),
            Err(error) => self.failed(Some(point), &error),
        };
        rekindle_repo::copy_newest_hot(repository, listing, limits, &over, &mut told)
    }

    fn is_over(&self) -> bool {
        is_over(&self.hot, &self.stop)
    }

    fn copied(&mut self, point: &PointId, report: &HotReport) {
        self.warned.remove(&Some(point.clone()));
        tracing::info!(
            repository = self.name,
            %point,
            copied_bytes = report.copied_bytes,
            dropped = report.dropped.len(),
            "a point is in the hot copy"
        );
    }

    fn failed(&mut self, point: Option<&PointId>, error: &RepoError) {
        let new = self.warned.insert(point.cloned());
        if new && !self.stop.load(Ordering::Relaxed) {
            let (repository, point) = (&self.name, point.map(ToString::to_string));
            tracing::warn!(repository, point, "cannot copy to the hot copy: {error}");
        }
    }
}

/// Whether nothing is to be copied now.
fn is_over(hot: &HotCopySection, stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed) || !hot.holds_at(Zoned::now().time())
}
