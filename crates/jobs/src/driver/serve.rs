use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::{Command, Driver, Flow, SHOW_EVERY, show};
use crate::still::Still;
use crate::{Destination, Finish, JobError, Mode, Outcome, Step, mover};

/// The mover's background read. It ends when this is dropped.
struct Warming(JoinHandle<Result<(), JobError>>);

impl Drop for Warming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Warming {
    /// Resolves once, when the read has ended.
    async fn ended(warming: &mut Option<Self>) -> Result<(), JobError> {
        match warming {
            Some(warming) => crate::failure::joined(&mut warming.0).await,
            None => std::future::pending().await,
        }
    }
}

impl Driver {
    /// Waits for what ends serving: a message, the time limit, or the mover's own turn.
    pub(super) async fn serve(&mut self) -> Flow {
        if self.begin_serving().await == Flow::Stop {
            return Flow::Stop;
        }
        let mut warming = match self.start_warming().await {
            Ok(warming) => warming,
            Err(error) => {
                tracing::warn!("does not read ahead: {error}");
                None
            }
        };
        let mut tick = tokio::time::interval(SHOW_EVERY);
        while self.record.plan.is_serving() {
            if let Some(to) = self.record.again.take() {
                if self.migrate_otherwise(to).await == Flow::Stop {
                    return Flow::Stop;
                }
                continue;
            }
            if warming.is_none() && self.record.request.migrates_by_itself() && !self.tried {
                if self.migrate_by_itself().await == Flow::Stop {
                    return Flow::Stop;
                }
                continue;
            }
            let expires = show::until(self.record.expires_at);
            let command = tokio::select! {
                () = self.stop.cancelled() => return Flow::Stop,
                () = show::sleep(expires) => return self.discard(Outcome::Expired, "expired").await,
                ended = Warming::ended(&mut warming) => {
                    warming = None;
                    match ended {
                        Ok(()) => {
                            self.live.warmed = true;
                            self.show();
                        }
                        // Guests read what they need all the same.
                        Err(error) => tracing::warn!("stopped reading ahead: {error}"),
                    }
                    continue;
                }
                command = self.inbox.recv() => command,
                _ = tick.tick(), if warming.is_some() => {
                    self.show();
                    continue;
                }
            };
            let Some(command) = command else { return Flow::Stop };
            if self.serve_command(command).await == Flow::Stop {
                return Flow::Stop;
            }
        }
        Flow::On
    }

    async fn begin_serving(&mut self) -> Flow {
        let again = self.record.times.get(&Step::Export).and_then(|times| times.finished_at);
        if self.record.serving_since.is_some_and(|since| again.is_none_or(|again| again < since)) {
            self.show();
            return Flow::On;
        }
        let now = Timestamp::now();
        self.record.serving_since = Some(now);
        self.record.note(now, "serving");
        self.write().await
    }

    async fn serve_command(&mut self, command: Command) -> Flow {
        let (answer, flow) = match command {
            Command::Cancel(answer) => (answer, self.unwind(Outcome::Cancelled, "cancelled").await),
            Command::Finish(Finish::Discard, answer) => {
                (answer, self.discard(Outcome::Discarded, "discarded").await)
            }
            Command::Undo(answer) if self.record.request.in_place.is_some() => {
                let why = "given up, the original comes back";
                (answer, self.unwind(Outcome::Discarded, why).await)
            }
            Command::Finish(Finish::Commit { .. }, answer) => {
                let message = "a recovery in place is committed when it has migrated";
                let _ = answer.send(Err(JobError::conflict("not_migrated", message)));
                return Flow::On;
            }
            Command::Undo(answer) | Command::Retry(answer) => {
                let _ = answer.send(Err(show::not_now(self.record.state())));
                return Flow::On;
            }
            Command::Still(answer) => {
                let _ = answer.send(Still::of(&self.env, &self.record, &mut self.live).await);
                return Flow::On;
            }
            Command::Finish(Finish::Migrate { to, cut_over, verify }, answer) => {
                let begun = self.begin_migration(to, cut_over, verify).await;
                let flow = if begun.is_ok() { self.write().await } else { Flow::On };
                // Nobody listens any more if the caller has gone.
                let _ = answer.send(begun);
                return flow;
            }
            Command::Extend(seconds, answer) => {
                let extended = self.extend(seconds);
                let flow = if extended.is_ok() { self.write().await } else { Flow::On };
                let _ = answer.send(extended);
                return flow;
            }
        };
        let _ = answer.send(Ok(()));
        flow
    }

    fn extend(&mut self, seconds: u64) -> Result<(), JobError> {
        if !self.record.request.may_expire() {
            let message = "only a live mount and attached disks have a time limit";
            return Err(JobError::conflict("recovery_does_not_expire", message));
        }
        let now = Timestamp::now();
        let at = crate::jobs::after(now, seconds)?;
        self.record.expires_at = Some(at);
        self.record.note(now, format!("its time limit is {at:.0} now"));
        Ok(())
    }

    async fn migrate_by_itself(&mut self) -> Flow {
        self.tried = true;
        let begun = self.begin_migration(None, None, None).await;
        self.begun(begun).await
    }

    /// The host has no licence to move the VM: it is copied, and stopped for a moment.
    async fn migrate_otherwise(&mut self, to: Destination) -> Flow {
        self.tried = true;
        let begun = self.begin_migration(Some(to), None, None).await;
        self.begun(begun).await
    }

    async fn begun(&mut self, begun: Result<(), JobError>) -> Flow {
        match begun {
            Ok(()) => self.write().await,
            Err(error) => {
                tracing::warn!("cannot migrate by itself: {error}");
                self.record.error = Some(error.to_view());
                self.record.note(Timestamp::now(), format!("cannot migrate: {error}"));
                self.write().await
            }
        }
    }

    /// A live recovery is read into the cache, ahead of its guest and of its migration.
    async fn start_warming(&mut self) -> Result<Option<Warming>, JobError> {
        let wanted = self.env.config.mover.warm && self.record.request.mode == Mode::LiveRecovery;
        if !wanted || self.live.warmed {
            return Ok(None);
        }
        let point = self.live.point(&self.env, &self.record).await?;
        let disks = self.live.disks(&self.env, &self.record).await?;
        let (env, status) = (self.env.clone(), Arc::clone(&self.status));
        Ok(Some(Warming(tokio::spawn(in_span(async move {
            mover::warm(&env, &disks, &point.maps, &status.meter).await
        })))))
    }
}

/// A task of the job logs as the job does.
fn in_span<F: Future>(work: F) -> tracing::instrument::Instrumented<F> {
    tracing::Instrument::instrument(work, tracing::Span::current())
}
