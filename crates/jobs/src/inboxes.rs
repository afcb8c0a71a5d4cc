use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::driver::Command;
use crate::still::Still;
use crate::{JobError, JobId};

/// Where each job takes its messages, for the other jobs. They keep no driver alive.
#[derive(Default)]
pub(crate) struct Inboxes(Mutex<BTreeMap<JobId, mpsc::WeakSender<Command>>>);

impl Inboxes {
    pub(crate) fn add(&self, job: &JobId, inbox: &mpsc::Sender<Command>) {
        self.0.lock().insert(job.clone(), inbox.downgrade());
    }

    pub(crate) fn forget(&self, jobs: &[JobId]) {
        self.0.lock().retain(|job, _| !jobs.contains(job));
    }

    /// The VM of a job as it is now. Its guest writes on.
    pub(crate) async fn still(&self, job: &JobId) -> Result<Still, JobError> {
        let inbox = self.0.lock().get(job).and_then(mpsc::WeakSender::upgrade);
        let inbox = inbox.ok_or_else(|| ended(job))?;
        send(job, &inbox, Command::Still).await
    }
}

fn ended(job: &JobId) -> JobError {
    JobError::conflict("job_ended", format!("job {job} has ended"))
}

/// Asks a job's driver for something, and waits for its answer.
pub(crate) async fn send<T>(
    job: &JobId,
    inbox: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T, JobError>>) -> Command,
) -> Result<T, JobError> {
    let (answer, answered) = oneshot::channel();
    inbox.send(command(answer)).await.map_err(|_| ended(job))?;
    answered.await.map_err(|_| ended(job))?
}
