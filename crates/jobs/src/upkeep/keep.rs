use std::sync::Arc;

use rekindle_repo::{IngestOptions, IngestProgress, IngestReport, ingest_successor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Ending, Progress, UpkeepKind};
use crate::{JobError, JobId, Jobs, failure};

/// How what a guest wrote becomes a recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepRequest {
    /// Words to find the point by.
    pub tags: Vec<String>,
}

/// A recovery point that was made of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeepReport {
    /// The job.
    pub job: JobId,
    /// The new point's id.
    pub point: String,
    /// Bytes of disks that were read: blocks in which the guest wrote.
    pub read_bytes: u64,
    /// Bytes of disks that were taken from the older point unread.
    pub unchanged_bytes: u64,
    /// Bytes of blocks that the repository had not.
    pub written_bytes: u64,
    /// Bytes that these take there.
    pub stored_bytes: u64,
}

impl Jobs {
    /// Begins to make a recovery point of a job that serves or is kept: of what its guest wrote, and of the point below it for
    /// the rest, in the same repository. What the guest wrote is frozen at one moment, and it writes on. The job stays as it is.
    /// Nothing is visible of a point before all of it is there.
    ///
    /// `Conflict` for a job that has no VM as a whole, and while something else is under way in the repository.
    pub async fn keep_as_point(
        self: &Arc<Self>,
        id: &JobId,
        request: KeepRequest,
    ) -> Result<Ending, JobError> {
        let repository = self.view(id)?.repository;
        let opened = self.env.repository(&repository)?;
        let progress = Arc::new(IngestProgress::default());
        // Before anything is frozen: nothing is while this is refused.
        let shown = Progress::Keep(progress.clone());
        let place = self.upkeep.begin(&repository, UpkeepKind::Keep, shown)?;
        let still = self.still(id).await?;
        let (job, runtime) = (id.clone(), Handle::current());
        let options = IngestOptions { tags: request.tags, ..IngestOptions::default() };
        let keep = move || {
            let successor = still.successor(&runtime);
            let kept = ingest_successor(&opened, successor, &options, &progress, &place.cancel);
            drop(still);
            let kept = kept.map(|report| report_of(job.clone(), &report));
            let kept = kept.map_err(|error| {
                failure::repo("make a recovery point of what the guest wrote", error)
            });
            place.end_keep(&kept);
            drop(place);
            match kept {
                Ok(report) => {
                    let line = line(&report);
                    tracing::info!(repository, job = %job, "kept what a guest wrote: {line}");
                    Ok(line)
                }
                Err(error) => {
                    tracing::warn!(repository, job = %job, "what a guest wrote did not become a recovery point: {error}");
                    Err(error)
                }
            }
        };
        Ok(Ending(self.env.background.spawn_blocking_on(keep, &self.env.low_priority)))
    }
}

fn report_of(job: JobId, report: &IngestReport) -> KeepReport {
    let counts = &report.counts;
    KeepReport {
        job,
        point: report.point.id.to_string(),
        read_bytes: counts.read,
        unchanged_bytes: counts.unchanged,
        written_bytes: counts.written,
        stored_bytes: counts.stored,
    }
}

fn line(report: &KeepReport) -> String {
    format!(
        "point {}: read {} bytes, wrote {} as {}",
        report.point, report.read_bytes, report.written_bytes, report.stored_bytes
    )
}
