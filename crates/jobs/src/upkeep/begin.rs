use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rekindle_repo::{
    CheckDepth, CheckOptions, CheckProgress, CheckReport, CheckScope, PointId, PruneOptions,
    PruneProgress, PruneReport, Retention, check, checkable, prunable, prune,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::{Progress, UpkeepKind, UpkeepView};
use crate::{JobError, Jobs, failure};

/// What a MB of a rate is.
const MB: u64 = 1_000_000;
/// The least grace while an appliance runs: a recovery that is being accepted is among the jobs by then.
const GRACE_HOURS_MIN: u32 = 1;
const GRACE_HOURS_MAX: u32 = 24 * 366;
/// Points that a request names: 64 KiB of them is the largest request anyway.
const NAMED_MAX: usize = 1000;

/// How a repository is pruned.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
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

/// How a repository is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckRequest {
    /// Only this point and what it needs.
    pub point: Option<PointId>,
    /// How deep.
    pub depth: CheckDepth,
    /// The most MB (1 000 000 bytes) of blocks that are read a second.
    pub max_mb_per_second: Option<u32>,
    /// Does not go on with one that was stopped.
    pub from_start: bool,
}

/// Upkeep that was begun: how it ends, in a line. It goes on when this is dropped.
#[derive(Debug)]
pub struct Ending(pub(super) JoinHandle<Result<String, JobError>>);

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
        Ok(Ending(self.env.low_priority.spawn_blocking(move || {
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

    /// Begins to check a repository. What is found is kept there, with the points.
    ///
    /// `Refused` for a rate of nothing, `Conflict` while something else is under way.
    pub fn check_repository(
        self: &Arc<Self>,
        repository: &str,
        request: CheckRequest,
    ) -> Result<Ending, JobError> {
        let opened = self.env.repository(repository)?;
        let refused = |error| failure::repo("check the repository", error);
        checkable(&opened).map_err(refused)?;
        if request.max_mb_per_second == Some(0) {
            return Err(JobError::refused("bad_rate", "a rate is at least 1 MB a second"));
        }
        let options = CheckOptions {
            scope: request.point.map_or(CheckScope::All, CheckScope::Point),
            depth: request.depth,
            max_bytes_per_second: request.max_mb_per_second.map(|rate| u64::from(rate) * MB),
            keep: true,
            resume: !request.from_start,
        };
        let progress = Arc::new(CheckProgress::default());
        let shown = Progress::Check(progress.clone());
        let place = self.upkeep.begin(repository, UpkeepKind::Check, shown)?;
        let name = repository.to_owned();
        Ok(Ending(self.env.low_priority.spawn_blocking(move || {
            let checked = check(&opened, &options, &progress, &place.cancel);
            let checked = checked.map_err(refused);
            place.end_check(&checked);
            drop(place);
            match checked {
                Ok(report) => {
                    log_check(&name, &report);
                    Ok(check_line(&report))
                }
                Err(error) => {
                    tracing::warn!(repository = %name, "a check did not come to its end: {error}");
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

    /// Points of a repository that jobs use which have not ended, and what batches want of any.
    fn points_in_use(&self, repository: &str) -> BTreeSet<PointId> {
        // Before the jobs: what a batch wants no more is one of theirs by then.
        let mut used = self.wanted.all();
        let jobs = self.list().into_iter().filter(|job| !job.state.is_final());
        let ours = jobs.filter(|job| job.repository == repository);
        used.extend(ours.filter_map(|job| job.point.parse().ok()));
        used
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

fn log_check(repository: &str, report: &CheckReport) {
    if let Some(reason) = &report.not_kept {
        tracing::warn!(repository, "what a check found is not kept with the points: {reason}");
    }
    match report.problems.first() {
        None => tracing::info!(repository, "checked: {}", check_line(report)),
        Some(problem) => {
            let points = report.damaged_points;
            tracing::error!(
                repository,
                points,
                first = problem.detail,
                "the repository is damaged"
            );
        }
    }
}

fn check_line(report: &CheckReport) -> String {
    format!(
        "{} of {} points and {} blocks: {} problems, {} points damaged",
        report.depth.as_str(),
        report.points,
        report.blocks,
        report.problem_count,
        report.damaged_points
    )
}
