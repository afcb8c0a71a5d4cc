use std::pin::pin;

use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use super::{Command, Driver, Flow, SHOW_EVERY, show};
use crate::steps::{Found, Work, turn};
use crate::target::UNLICENSED;
use crate::{Finish, JobError, Next, Outcome, Step, failure};

/// How a step ended.
enum Ended {
    Done(Box<Result<Found, JobError>>),
    /// Someone ends the job: the step is left where it is, and undone.
    Cut(Outcome, &'static str),
    /// Someone commits: the step goes on with that, once it is journaled. Whether the original goes.
    Committed(bool),
    Stop,
}

impl Driver {
    /// Does the next step: "begun" is durable before, "done" after.
    pub(super) async fn apply(&mut self, step: Step) -> Flow {
        self.record.plan.begin();
        let times = self.record.times(step);
        *times = Default::default();
        let now = Timestamp::now();
        times.started_at = Some(now);
        if step == Step::Stop {
            // Told again after a restart, the guest has been told before.
            self.record.stopped_at.get_or_insert(now);
        }
        if self.write().await == Flow::Stop {
            return Flow::Stop;
        }
        match self.work(step).await {
            Ended::Done(done) => match *done {
                Ok(found) => self.applied(step, found).await,
                Err(error) => self.failed(step, &error).await,
            },
            Ended::Cut(outcome, why) => self.unwind(outcome, why).await,
            Ended::Committed(remove_original) => {
                self.record.commit = Some(remove_original);
                self.record.note(Timestamp::now(), "committed");
                self.write().await
            }
            Ended::Stop => Flow::Stop,
        }
    }

    /// Runs the step. When this returns, nothing of it runs any more, also if it was cut short.
    async fn work(&mut self, step: Step) -> Ended {
        let started = TaskTracker::new();
        let ended = self.work_until_cut(step, started.clone()).await;
        started.close();
        started.wait().await;
        ended
    }

    /// Runs the step beside the inbox and the clock. To publish takes one rename: it is not cut
    /// short, because a copy that has its name must count as migrated.
    async fn work_until_cut(&mut self, step: Step, started: TaskTracker) -> Ended {
        let expires = show::until(self.record.expires_at);
        let mut tick = tokio::time::interval(SHOW_EVERY);
        let work = Work {
            env: &self.env,
            record: &self.record,
            live: &mut self.live,
            status: &self.status,
        };
        let mut doing = pin!(failure::tracked(started, work.apply(step)));
        let may_cut = step != Step::Publish;
        let asks = step == Step::Commit && self.record.commit.is_none();
        let committed = step == Step::Commit && !asks;
        loop {
            let command = tokio::select! {
                biased;
                done = &mut doing => return Ended::Done(Box::new(done)),
                () = self.stop.cancelled(), if may_cut => return Ended::Stop,
                () = show::sleep(expires), if may_cut => {
                    return Ended::Cut(Outcome::Expired, "expired");
                }
                command = self.inbox.recv(), if may_cut => command,
                _ = tick.tick() => {
                    let view = show::view(&self.env, &self.record, &self.status, self.stuck.as_ref());
                    self.view.send_replace(view);
                    continue;
                }
            };
            match command {
                None => return Ended::Stop,
                Some(Command::Finish(Finish::Commit { remove_original }, answer)) if asks => {
                    let _ = answer.send(Ok(()));
                    return Ended::Committed(remove_original);
                }
                Some(Command::Finish(Finish::Discard, answer) | Command::Undo(answer)) if asks => {
                    let _ = answer.send(Ok(()));
                    return Ended::Cut(Outcome::Discarded, "given up, the original comes back");
                }
                Some(Command::Cancel(answer)) if !committed => {
                    // Nobody listens any more if the caller has gone.
                    let _ = answer.send(Ok(()));
                    return Ended::Cut(Outcome::Cancelled, "cancelled");
                }
                Some(Command::Still(answer)) => {
                    let _ = answer.send(Err(show::not_now(self.record.state())));
                }
                Some(
                    Command::Finish(_, answer)
                    | Command::Cancel(answer)
                    | Command::Extend(_, answer)
                    | Command::Undo(answer)
                    | Command::Retry(answer),
                ) => {
                    let _ = answer.send(Err(show::not_now(self.record.state())));
                }
            }
        }
    }

    async fn applied(&mut self, step: Step, found: Found) -> Flow {
        let now = Timestamp::now();
        self.record.plan.applied();
        self.record.times(step).finished_at = Some(now);
        self.note_found(found);
        if self.record.plan.is_unwinding() {
            self.record.outcome = Some(Outcome::Migrated);
            self.record.error = None;
            self.record.note(now, "migrated");
        }
        self.write().await
    }

    /// A migration that fails goes back to serving, anything else back to nothing.
    async fn failed(&mut self, step: Step, error: &JobError) -> Flow {
        let now = Timestamp::now();
        tracing::warn!(step = step.as_str(), "failed: {error}");
        self.record.times(step).error = Some(error.to_view());
        self.record.error = Some(error.to_view());
        let migrating = self.record.plan.is_migrating();
        if step == Step::Relocate && error.code() == UNLICENSED && self.record.may_pause() {
            self.record.unlicensed = true;
            self.record.again = self.record.destination.clone();
        }
        self.record.plan.retreat();
        let plan = &self.record.plan;
        let serves = migrating && !plan.is_unwinding();
        if plan.is_shelved() {
            // Its end was undone, and that did not work: the end stands, and may be undone again.
            let keep = self.record.request.keep_seconds(self.env.config.keep.as_secs());
            self.record.kept_until = crate::jobs::after(now, keep).ok();
            self.record.outcome = Some(Outcome::Discarded);
        }
        let what = if serves { "migration failed" } else { "failed" };
        self.record.note(now, format!("{what}: {}: {error}", step.as_str()));
        if self.record.plan.is_unwinding() {
            self.record.outcome = Some(Outcome::Failed);
        }
        self.write().await
    }

    /// Takes the last step back, as often as it takes. Meanwhile the job is visibly stuck.
    pub(super) async fn undo(&mut self, step: Step) -> Flow {
        let mut pause = self.env.config.retry_first;
        loop {
            let error = match self.take_back(step).await {
                None => return Flow::Stop,
                Some(Ok(found)) => return self.undone(step, found).await,
                Some(Err(error)) => error,
            };
            if self.stuck.is_none() {
                tracing::warn!(step = step.as_str(), "cannot be taken back yet: {error}");
                self.record.note(Timestamp::now(), format!("stuck: {}: {error}", step.as_str()));
            }
            self.record.times(step).error = Some(error.to_view());
            self.meet(Some(step), &error, pause);
            let before = self.record.plan.next();
            if self.pause(&mut pause).await == Flow::Stop {
                return Flow::Stop;
            }
            if self.record.plan.next() != before {
                return Flow::On;
            }
        }
    }

    /// Undoes the step once; `None` if the appliance stops meanwhile.
    async fn take_back(&mut self, step: Step) -> Option<Result<Found, JobError>> {
        let work = Work {
            env: &self.env,
            record: &self.record,
            live: &mut self.live,
            status: &self.status,
        };
        tokio::select! {
            biased;
            done = work.undo(step) => Some(done),
            () = self.stop.cancelled() => None,
        }
    }

    async fn undone(&mut self, step: Step, found: Found) -> Flow {
        let now = Timestamp::now();
        self.stuck = None;
        if found.migrated_to.is_some() && self.record.outcome != Some(Outcome::Migrated) {
            // The host had moved the VM all the same: it stays, and nothing else of the job does.
            self.record.outcome = Some(Outcome::Migrated);
            self.record.note(now, "migrated");
            self.record.plan.unwind();
        }
        let arrived = found.arrived && self.record.plan.arrive();
        self.note_found(found);
        if arrived {
            self.record.error = None;
            self.record.note(now, "the host had moved it all the same");
            return self.write().await;
        }
        self.record.plan.undone();
        if self.record.plan.next() == Next::Keep {
            // What is kept takes its space, but no place among the jobs that run.
            self.env.gate.leave(&turn(&self.record));
        }
        let times = self.record.times(step);
        (times.undone_at, times.error) = (Some(now), None);
        self.write().await
    }

    fn note_found(&mut self, found: Found) {
        let record = &mut self.record;
        if let (Some(name), Some(mount)) = (found.datastore, record.place.datastore.as_mut()) {
            mount.datastore = name;
        }
        record.host_vm = found.host_vm.or(record.host_vm.take());
        record.original = found.original.or(record.original.take());
        record.migrated_to = found.migrated_to.or(record.migrated_to.take());
        record.pause_ms = found.pause_ms.or(record.pause_ms);
        record.ran = found.ran.or(record.ran);
        if let Some(compared) = found.compared {
            record.compared = Some(compared);
            record.note(Timestamp::now(), compared.to_string());
        }
        if let Some(copied) = found.copied {
            record.nvram = copied.nvram;
            for (disk, size) in record.disks.iter_mut().zip(copied.sizes) {
                disk.size = size;
            }
        }
        for note in found.notes {
            record.note(Timestamp::now(), note);
        }
    }
}
