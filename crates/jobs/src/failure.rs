//! The only place where the errors of the crates below become errors of a job. No `_` arms.

use std::future::Future;

use rekindle_disk::DiskError;
use rekindle_nfs::NfsError;
use rekindle_repo::RepoError;

use crate::JobError;

pub(crate) fn disk(what: &str, error: DiskError) -> JobError {
    match error {
        DiskError::Unavailable { .. } => JobError::unavailable("disk_unavailable", what, error),
        DiskError::Stopped(_) => JobError::unavailable("writes_stopped", what, error),
        DiskError::Full => JobError::Full { place: "the overlays' file system".into(), missing: 0 },
        DiskError::Corrupt(_) => JobError::Corrupt { what: what.into(), source: error.into() },
        DiskError::Gone | DiskError::OutOfRange { .. } | DiskError::Refused(_) => {
            JobError::conflict("disk_refused", format!("{what}: {error}"))
        }
    }
}

pub(crate) fn repo(what: &str, error: RepoError) -> JobError {
    match error {
        RepoError::Unavailable { .. } | RepoError::Cancelled => {
            JobError::unavailable("repository_unavailable", what, error)
        }
        RepoError::Corrupt { .. } => JobError::Corrupt { what: what.into(), source: error.into() },
        RepoError::Full => JobError::Full { place: "the repository".into(), missing: 0 },
        RepoError::NotFound { what } => JobError::NotFound { what: "point", name: what },
        RepoError::Refused { .. } => {
            JobError::refused("repository_refused", format!("{what}: {error}"))
        }
    }
}

pub(crate) fn nfs(what: &str, error: NfsError) -> JobError {
    match error {
        NfsError::Listen { .. } | NfsError::Io { .. } => {
            JobError::unavailable("export_unavailable", what, error)
        }
        NfsError::Corrupt(_) => JobError::Corrupt { what: what.into(), source: error.into() },
        NfsError::Full(_) => {
            JobError::Full { place: "the exports' file system".into(), missing: 0 }
        }
        NfsError::NotFound(_) | NfsError::Refused(_) => {
            JobError::conflict("export_refused", format!("{what}: {error}"))
        }
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// The result of a task; one that panicked or was shut down is an error.
pub(crate) async fn joined<T>(
    task: impl Future<Output = Result<Result<T, JobError>, tokio::task::JoinError>>,
) -> Result<T, JobError> {
    match task.await {
        Ok(result) => result,
        Err(error) => Err(JobError::unavailable("internal", "finish a task", error)),
    }
}
