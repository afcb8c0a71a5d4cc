//! The only place where the errors of the crates below become errors of a job. No `_` arms.

use std::future::Future;

use rekindle_disk::DiskError;
use rekindle_nfs::NfsError;
use rekindle_repo::RepoError;
use tokio_util::task::TaskTracker;

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
        RepoError::Cold { .. } => JobError::conflict("point_cold", format!("{what}: {error}")),
        RepoError::Refused { .. } | RepoError::Locked { .. } => {
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

/// A random number, which names what is made.
pub(crate) fn random() -> Result<u16, JobError> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|e| {
        JobError::unavailable("internal", "draw a random number", anyhow::anyhow!("{e}"))
    })?;
    Ok(u16::from_le_bytes(random))
}

tokio::task_local! {
    /// What the step under way has started. A step that is cut short is undone only when all of it
    /// has ended: a closure on a blocking thread goes on when nobody waits for it any more.
    static STARTED: TaskTracker;
}

/// Runs a step so that `started` knows of all that it starts.
pub(crate) async fn tracked<F: Future>(started: TaskTracker, step: F) -> F::Output {
    STARTED.scope(started, step).await
}

/// A part of the step that runs as a task of its own.
pub(crate) fn part<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let started = STARTED.try_with(TaskTracker::clone).unwrap_or_default();
    started.clone().track_future(tracked(started, work))
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    let task = match STARTED.try_with(TaskTracker::clone) {
        Ok(started) => started.spawn_blocking(work),
        // Outside of a step nothing is undone.
        Err(_) => tokio::task::spawn_blocking(work),
    };
    joined(task).await
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::Poll;

    use tokio::task::JoinSet;
    use tokio_util::task::TaskTracker;

    use super::{blocking, part, tracked};
    use crate::JobError;

    /// Cuts `step` short once its blocking closure runs, and holds that nothing may be undone
    /// before the closure has ended.
    async fn cut_short(
        step: impl Future<Output = ()>,
        runs: mpsc::Receiver<()>,
        end: mpsc::Sender<()>,
    ) {
        let started = TaskTracker::new();
        {
            let mut step = Box::pin(tracked(started.clone(), step));
            while runs.try_recv().is_err() {
                assert!(futures_poll(&mut step).await.is_pending());
                tokio::task::yield_now().await;
            }
        }
        started.close();
        let mut ended = Box::pin(started.wait());
        assert!(futures_poll(&mut ended).await.is_pending(), "the closure still runs");
        end.send(()).unwrap();
        ended.await;
        assert!(end.send(()).is_err(), "the closure has ended and dropped its end");
    }

    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
    }

    fn slow(
        runs: mpsc::Sender<()>,
        end: mpsc::Receiver<()>,
    ) -> impl FnOnce() -> Result<(), JobError> {
        move || {
            runs.send(()).unwrap();
            end.recv().unwrap();
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_step_that_is_cut_short_ends_before_it_is_undone() {
        let ((runs, running), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let step = async move { blocking(slow(runs, ended)).await.unwrap() };
        cut_short(step, running, end).await;
    }

    #[tokio::test]
    async fn and_so_do_its_parts() {
        let ((runs, running), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let step = async move {
            let mut parts = JoinSet::new();
            parts.spawn(part(async move { blocking(slow(runs, ended)).await }));
            parts.join_next().await;
        };
        cut_short(step, running, end).await;
    }
}
