use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rekindle_repo::{
    PointId, PruneOptions, PruneProgress, PruneReport, Retention, prunable, prune,
};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::{Progress, UpkeepKind, UpkeepView};
use crate::{JobError, Jobs, failure};

/// The least grace while an appliance runs: a recovery that is being accepted is among the jobs by then.
const GRACE_HOURS_MIN: u32 = 1;
const GRACE_HOURS_MAX: u32 = 24 * 366;
/// Points that a request names: 64 KiB of them is the largest request anyway.
const NAMED_MAX: usize = 1000;

/// How a repository is pruned.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneRequest {
    /// Which points stay, instead of what is configured.
    pub keep: Option<Retention>,
    /// How many hours what is condemned stays, instead of what is configured.
    pub grace_hours: Option<u32>,
    /// Points that go whatever the retention says.
    pub drop: BTreeSet<PointId>,
    /// Condemned points that are taken back.
    pub spare: BTreeSet<PointId>,
    /// Changes nothing and says what would be done.
    pub dry_run: bool,
}

/// Upkeep that was begun: how it ends, in a line. It goes on when this is dropped.
#[derive(Debug)]
pub struct Ending(JoinHandle<Result<String, JobError>>);

impl Ending {
    /// Waits for it.
    pub async fn line(self) -> Result<String, JobError> {
        failure::joined(self.0).await
    }
}

impl Jobs {
    /// What is under way in a repository, and how the last time ended.
    pub fn upkeep(&self, repository: &str) -> Result<UpkeepView, JobError> {
        self.env.attached(repository)?;
        Ok(self.upkeep.view(repository))
    }

    /// Stops what is under way in a repository. What it did stays done.
    ///
    /// `Conflict` if there is nothing.
    pub fn stop_upkeep(&self, repository: &str) -> Result<(), JobError> {
        self.env.attached(repository)?;
        self.upkeep.stop(repository)
    }

    /// Begins to prune a repository. Points that jobs use stay, also those of jobs that end meanwhile or whose guests'
    /// writes are kept.
    ///
    /// `Refused` for a request that cannot be meant, `Conflict` while something else is under way.
    pub fn prune(
        self: &Arc<Self>,
        repository: &str,
        request: PruneRequest,
    ) -> Result<Ending, JobError> {
        let opened = self.env.repository(repository)?;
        let refused = |error| failure::repo("prune the repository", error);
        prunable(&opened).map_err(refused)?;
        let options = self.prune_options(repository, request)?;
        let progress = Arc::new(PruneProgress::default());
        let shown = Progress::Prune(progress.clone());
        let place = self.upkeep.begin(repository, UpkeepKind::Prune, shown)?;
        let (jobs, name) = (self.clone(), repository.to_owned());
        Ok(Ending(tokio::task::spawn_blocking(move || {
            let in_use = || jobs.points_in_use(&name);
            let pruned = prune(&opened, &options, &in_use, &progress, &place.cancel);
            let pruned = pruned.map_err(refused);
            place.end_prune(&pruned);
            drop(place);
            match pruned {
                Ok(report) => {
                    let line = line(&report);
                    tracing::info!(repository = %name, "pruned: {line}");
                    Ok(line)
                }
                Err(error) => {
                    tracing::warn!(repository = %name, "a prune did not come to its end: {error}");
                    Err(error)
                }
            }
        })))
    }

    fn prune_options(
        &self,
        repository: &str,
        request: PruneRequest,
    ) -> Result<PruneOptions, JobError> {
        let configured = self.env.config.upkeep.get(repository).cloned().unwrap_or_default();
        let retention = request.keep.unwrap_or(configured.retention);
        retention.validate().map_err(|error| failure::repo("prune the repository", error))?;
        let hours = request.grace_hours.unwrap_or(configured.grace_hours);
        if !(GRACE_HOURS_MIN..=GRACE_HOURS_MAX).contains(&hours) {
            let message = format!(
                "a grace time is {GRACE_HOURS_MIN} to {GRACE_HOURS_MAX} hours, and not {hours}"
            );
            return Err(JobError::refused("bad_grace", message));
        }
        if request.drop.len() > NAMED_MAX || request.spare.len() > NAMED_MAX {
            let message = format!("name at most {NAMED_MAX} points at once");
            return Err(JobError::refused("too_many_points", message));
        }
        Ok(PruneOptions {
            retention,
            drop: request.drop,
            spare: request.spare,
            grace: SignedDuration::from_hours(hours.into()),
            now: Timestamp::now(),
            dry_run: request.dry_run,
        })
    }

    /// Points of a repository that jobs use which have not ended.
    fn points_in_use(&self, repository: &str) -> BTreeSet<PointId> {
        let jobs = self.list().into_iter().filter(|job| !job.state.is_final());
        let ours = jobs.filter(|job| job.repository == repository);
        ours.filter_map(|job| job.point.parse().ok()).collect()
    }
}

fn line(report: &PruneReport) -> String {
    let (gone, going) = (&report.removed, &report.condemned);
    let would = if report.dry_run { "would have " } else { "" };
    format!(
        "{would}deleted {} points and {} packs ({} bytes), condemned {} points and {} packs ({} bytes)",
        gone.points, gone.packs, gone.bytes, going.points, going.packs, going.bytes
    )
}
