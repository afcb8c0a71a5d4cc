use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::gate::Guest;
use super::record::{Book, Record};
use super::{BatchState, BatchView, GroupState, OnError};
use crate::upkeep::Held;
use crate::{ErrorView, JobError, JobId, JobState, JobView, Jobs, Mode, Outcome, failure};

/// How long a full queue is left alone.
const QUEUE_PAUSE: Duration = Duration::from_secs(1);

/// A batch on its way.
pub(super) struct Walk {
    pub(super) jobs: Arc<Jobs>,
    pub(super) book: Book,
    pub(super) record: Record,
    pub(super) view: watch::Sender<BatchView>,
    pub(super) cancel: CancellationToken,
    pub(super) stop: CancellationToken,
    /// Its points, which no prune lets go until it has ended.
    pub(super) _held: Held,
}

/// Why a wait was cut short.
enum Cut {
    Cancelled,
    Stopped,
}

impl Walk {
    pub(super) async fn run(mut self) {
        let ended = match self.groups().await {
            Ok(state) => state,
            Err(Cut::Cancelled) => BatchState::Cancelled,
            // Goes on at the next start.
            Err(Cut::Stopped) => return,
        };
        self.record.end(ended);
        self.save().await;
        tracing::info!(batch = %self.record.id, state = ?ended, "ended");
    }

    async fn groups(&mut self) -> Result<BatchState, Cut> {
        let mut all = true;
        for index in 0..self.record.groups.len() {
            let known = self.record.groups[index].state;
            if !matches!(known, GroupState::Up | GroupState::Failed) {
                self.group(index).await?;
            }
            let up = self.record.groups[index].state == GroupState::Up;
            all &= up;
            let skipped = self.record.groups[index].skipped;
            if !up && !skipped && self.record.on_error == OnError::Halt {
                return Ok(BatchState::Halted);
            }
        }
        Ok(if all { BatchState::Completed } else { BatchState::Incomplete })
    }

    async fn group(&mut self, index: usize) -> Result<(), Cut> {
        self.enter(index, GroupState::Starting).await;
        for member in 0..self.record.groups[index].members.len() {
            self.begin(index, member).await?;
        }
        for member in 0..self.record.groups[index].members.len() {
            self.until_up(index, member).await?;
        }
        let group = &self.record.groups[index];
        let failed = group.members.iter().any(|member| member.up != Some(true));
        if !(failed && self.record.on_error == OnError::Halt) {
            let delay = Duration::from_secs(group.delay_seconds);
            self.enter(index, GroupState::Waiting).await;
            self.race(sleep(delay)).await?;
            self.enter(index, GroupState::Checking).await;
            self.gates(index).await?;
        }
        let up = self.record.groups[index].is_up();
        self.enter(index, if up { GroupState::Up } else { GroupState::Failed }).await;
        Ok(())
    }

    /// Begins the job of a VM, if that was not done before.
    async fn begin(&mut self, group: usize, member: usize) -> Result<(), Cut> {
        let known = &self.record.groups[group].members[member];
        if known.job.is_some() || known.up.is_some() {
            return Ok(());
        }
        let again = match known.attempt {
            0 => String::new(),
            attempt => format!(" again {attempt}"),
        };
        let key = format!("batch {} {group} {member}{again}", self.record.id);
        let request = known.request.clone();
        let begun = loop {
            // A start that was begun is waited for: its job is to be known.
            let started =
                self.jobs.start_admitted(request.clone(), key.clone(), &self.record.admitted);
            match started.await {
                Err(JobError::Busy { .. }) => self.race(sleep(QUEUE_PAUSE)).await?,
                done => break done,
            }
        };
        let known = &mut self.record.groups[group].members[member];
        match begun {
            Ok(job) => known.job = Some(job),
            Err(error) => (known.up, known.error) = (Some(false), Some(error.to_view())),
        }
        self.save().await;
        self.race(std::future::ready(())).await
    }

    /// Waits until it is known whether a VM came up.
    async fn until_up(&mut self, group: usize, member: usize) -> Result<(), Cut> {
        let known = &self.record.groups[group].members[member];
        let (None, Some(job)) = (known.up, known.job.clone()) else { return Ok(()) };
        let within = Duration::from_secs(self.record.groups[group].within_seconds);
        let settled = timeout(within, settled(&self.jobs, &job));
        let (up, error) = match self.race(settled).await? {
            Ok(Ok(view)) => (is_up(&view), view.error),
            Ok(Err(error)) => (false, Some(error.to_view())),
            Err(_) => {
                let message = format!("it did not come up within {} s", within.as_secs());
                (false, Some(ErrorView { code: "too_slow".into(), message }))
            }
        };
        let known = &mut self.record.groups[group].members[member];
        known.up = Some(up);
        known.error = error.filter(|_| !up);
        self.save().await;
        Ok(())
    }

    /// Waits for all gates at once.
    async fn gates(&mut self, group: usize) -> Result<(), Cut> {
        let mut waiting = JoinSet::new();
        let guests = self.guests(group);
        for (index, known) in self.record.groups[group].gates.iter().enumerate() {
            let (gate, guests) = (known.gate.clone(), guests.clone());
            waiting.spawn(async move { (index, gate.pass(&guests).await) });
        }
        while let Some(passed) = self.race(waiting.join_next()).await? {
            let Ok((index, passed)) = passed else { continue };
            let known = &mut self.record.groups[group].gates[index];
            known.open = Some(passed.is_ok());
            known.error =
                passed.err().map(|message| ErrorView { code: "gate_shut".into(), message });
            self.save().await;
        }
        Ok(())
    }

    /// The VMs of a group that came up.
    fn guests(&self, group: usize) -> Vec<Arc<Guest>> {
        let members = self.record.groups[group].members.iter();
        let up = members.filter(|member| member.up == Some(true));
        let jobs = up.filter_map(|member| self.jobs.view(member.job.as_ref()?).ok());
        jobs.map(|job| Arc::new(Guest::new(&self.jobs, &self.record.id, job))).collect()
    }

    async fn enter(&mut self, group: usize, state: GroupState) {
        self.record.groups[group].state = state;
        self.save().await;
    }

    /// Writes the record down and shows it. What cannot be written now is found out again after a restart: jobs are
    /// begun under keys.
    async fn save(&self) {
        let (book, record) = (self.book.clone(), self.record.clone());
        if let Err(error) = failure::blocking(move || book.put(&record)).await {
            tracing::warn!(batch = %self.record.id, "cannot write the batch down: {error}");
        }
        self.view.send_replace(self.record.view());
    }

    async fn race<T>(&self, wait: impl Future<Output = T>) -> Result<T, Cut> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Cut::Stopped),
            () = self.cancel.cancelled() => Err(Cut::Cancelled),
            done = wait => Ok(done),
        }
    }
}

/// The job once it is known whether its VM came up.
async fn settled(jobs: &Jobs, id: &JobId) -> Result<JobView, JobError> {
    let mut view = jobs.watch(id)?;
    // The sender goes when the job has ended, and then the last view says how.
    let _ = view.wait_for(is_settled).await;
    let last = view.borrow().clone();
    Ok(last)
}

fn is_settled(view: &JobView) -> bool {
    match view.state {
        JobState::Queued | JobState::Starting => false,
        JobState::Migrating => view.request.mode != Mode::FullRestore,
        JobState::Serving
        | JobState::CleaningUp
        | JobState::Kept
        | JobState::Stuck
        | JobState::Completed
        | JobState::Cancelled
        | JobState::Failed => {
            !(view.state == JobState::CleaningUp && view.outcome == Some(Outcome::Migrated))
        }
    }
}

pub(super) fn is_up(view: &JobView) -> bool {
    matches!(view.state, JobState::Serving | JobState::Migrating)
        || view.outcome == Some(Outcome::Migrated)
}
