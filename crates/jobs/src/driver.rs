//! One task per job: the only one that changes it. Messages come in, a view goes out.

mod keep;
mod migrate;
mod obstacle;
mod serve;
mod show;
mod thawed;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::journal::Record;
use crate::live::Live;
use crate::plan::Next;
use crate::steps::{Status, turn};
use crate::still::Still;
use crate::{Finish, JobError, JobState, JobView, Obstacle, Outcome};

pub(crate) use show::view;
pub(crate) use thawed::KeptThawed;

/// Messages to one job that may wait. More callers wait for their turn to send.
pub(crate) const INBOX: usize = 8;
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// What others may ask of a job. The answer says whether it will be done, not that it was.
pub(crate) enum Command {
    Finish(Finish, Answer),
    /// Moves the time limit to so many seconds from now.
    Extend(u64, Answer),
    Cancel(Answer),
    /// Serves again what was kept.
    Undo(Answer),
    /// Tries again at once what does not work.
    Retry(Answer),
    /// Freezes what the guest wrote and hands out the VM as it is then.
    Still(oneshot::Sender<Result<Still, JobError>>),
}

pub(crate) type Answer = oneshot::Sender<Result<(), JobError>>;

/// Whether the driver goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    /// The appliance stops: leave everything as it is.
    Stop,
}

/// The owner of one job.
pub(crate) struct Driver {
    pub(crate) env: Arc<Env>,
    pub(crate) record: Record,
    pub(crate) live: Live,
    pub(crate) view: watch::Sender<JobView>,
    pub(crate) inbox: mpsc::Receiver<Command>,
    pub(crate) stop: CancellationToken,
    pub(crate) status: Arc<Status>,
    /// Why the job cannot go on at the moment.
    pub(crate) stuck: Option<Obstacle>,
    /// A migration that starts by itself has been tried.
    pub(crate) tried: bool,
    /// Keeps what it reads thawed.
    pub(crate) thawed: Option<KeptThawed>,
}

impl Driver {
    /// Walks the job until it has ended or the appliance stops.
    #[tracing::instrument(skip_all, name = "job", fields(job = %self.record.id))]
    pub(crate) async fn run(mut self) {
        let mut flow = self.make_live().await;
        while flow == Flow::On && !self.stop.is_cancelled() {
            self.keep_thawed();
            flow = match self.record.plan.next() {
                Next::Apply(step) => self.apply(step).await,
                Next::Serve => self.serve().await,
                Next::Undo(step) => self.undo(step).await,
                Next::Keep => self.keep().await,
                Next::Finished => {
                    self.end().await;
                    return;
                }
            };
        }
        self.env.keep(self.live);
    }

    /// After a restart: brings back what [`Live::restore`] could not, because the repository did
    /// not answer. Clients wait meanwhile: the NFS server holds what they ask of the disks.
    async fn make_live(&mut self) -> Flow {
        let mut pause = self.env.config.retry_first;
        while let Err(error) = self.live.restore(&self.env, &self.record).await {
            if self.record.plan.is_unwinding() {
                // Taking back needs no disks.
                tracing::warn!("went on without its disks: {error}");
                return Flow::On;
            }
            if self.stuck.is_none() {
                tracing::warn!("waits to serve again: {error}");
            }
            self.meet(None, &error, pause);
            let opened = self.repository_opens();
            if self.pause_until(&mut pause, opened).await == Flow::Stop {
                return Flow::Stop;
            }
        }
        self.stuck = None;
        self.show();
        Flow::On
    }

    /// Comes when the job's repository is opened; never if it is open.
    fn repository_opens(&self) -> impl Future<Output = ()> + use<> {
        let attached = self.env.attached(&self.record.repository).ok().cloned();
        let attached = attached.filter(|attached| attached.get().is_err());
        async move {
            match attached {
                Some(attached) => attached.opened().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Waits before something is tried again, with growing pauses. Any message ends the pause; one
    /// to end the job turns the walk round.
    async fn pause(&mut self, pause: &mut Duration) -> Flow {
        self.pause_until(pause, std::future::pending()).await
    }

    /// The same; `sooner` ends the pause too.
    async fn pause_until(
        &mut self,
        pause: &mut Duration,
        sooner: impl Future<Output = ()>,
    ) -> Flow {
        let wait = tokio::time::sleep(*pause);
        *pause = (*pause * 2).min(self.env.config.retry_max);
        let command = tokio::select! {
            () = self.stop.cancelled() => return Flow::Stop,
            () = wait => return Flow::On,
            () = sooner => return Flow::On,
            command = self.inbox.recv() => command,
        };
        match command {
            None => Flow::Stop,
            Some(command) => {
                *pause = self.env.config.retry_first;
                self.end_by(command).await
            }
        }
    }

    /// Ends the job as the message says, whatever it is doing. A migration cannot begin now.
    async fn end_by(&mut self, command: Command) -> Flow {
        let (answer, result) = match command {
            Command::Cancel(answer) => (answer, self.unwind(Outcome::Cancelled, "cancelled").await),
            Command::Finish(Finish::Discard, answer) if self.record.plan.is_unwinding() => {
                (answer, Flow::On)
            }
            Command::Retry(answer) => (answer, Flow::On),
            Command::Still(answer) => {
                let _ = answer.send(Err(show::not_now(self.state())));
                return Flow::On;
            }
            Command::Finish(_, answer) | Command::Extend(_, answer) | Command::Undo(answer) => {
                // Nobody listens any more if the caller has gone.
                let _ = answer.send(Err(show::not_now(self.state())));
                return Flow::On;
            }
        };
        let _ = answer.send(Ok(()));
        result
    }

    /// Turns the walk round.
    async fn unwind(&mut self, outcome: Outcome, why: &str) -> Flow {
        if self.record.plan.is_unwinding() {
            return Flow::On;
        }
        *self.status.waits_for.lock() = None;
        self.record.outcome = Some(outcome);
        self.record.note(Timestamp::now(), why);
        self.record.plan.unwind();
        self.write().await
    }

    /// Makes the record durable. There is no going on without: it is tried until it works.
    async fn write(&mut self) -> Flow {
        let mut pause = self.env.config.retry_first;
        while let Err(error) = self.env.journal.write(&self.record).await {
            if self.stuck.is_none() {
                tracing::error!("cannot write its journal: {error}");
            }
            self.meet(None, &error, pause);
            tokio::select! {
                () = self.stop.cancelled() => return Flow::Stop,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(self.env.config.retry_max);
        }
        if self.stuck.as_ref().is_some_and(|obstacle| obstacle.step.is_none()) {
            self.stuck = None;
        }
        self.show();
        Flow::On
    }

    /// The last entry. Nothing is left of the job but this.
    async fn end(&mut self) {
        // A job that was ended before it asked to be admitted waits no longer.
        self.env.gate.leave(&turn(&self.record));
        let now = Timestamp::now();
        self.record.finished_at = Some(now);
        self.record.note(now, self.record.state().as_str());
        tracing::info!(state = self.record.state().as_str(), "ended");
        self.write().await;
    }

    fn state(&self) -> JobState {
        if self.stuck.is_some() && show::is_stuck(&self.record) {
            return JobState::Stuck;
        }
        self.record.state()
    }

    fn show(&self) {
        let view = view(&self.env, &self.record, &self.status, self.stuck.as_ref());
        self.view.send_replace(view);
    }
}
