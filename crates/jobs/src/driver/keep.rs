use jiff::Timestamp;

use super::{Command, Driver, Flow, show};
use crate::steps::turn;
use crate::still::Still;
use crate::{Finish, JobError, Mode, Outcome};

impl Driver {
    /// Ends serving. What the guest wrote is kept for a while if that was asked for.
    pub(super) async fn discard(&mut self, outcome: Outcome, why: &str) -> Flow {
        let keep = self.record.request.keep_seconds(self.env.config.keep.as_secs());
        let now = Timestamp::now();
        let until = crate::jobs::after(now, keep).ok().filter(|_| keep > 0);
        if until.is_none() || !self.record.plan.shelve() {
            return self.unwind(outcome, why).await;
        }
        self.record.outcome = Some(outcome);
        self.record.kept_until = until;
        self.record.note(now, format!("{why}, what the guest wrote is kept"));
        self.write().await
    }

    /// Waits until what the guest wrote has been kept for long enough, or somebody wants it back.
    pub(super) async fn keep(&mut self) -> Flow {
        self.live.drop_disks();
        self.show();
        let ends = show::until(self.record.kept_until.or(Some(Timestamp::now())));
        let command = tokio::select! {
            () = self.stop.cancelled() => return Flow::Stop,
            () = show::sleep(ends) => return self.let_go("kept for long enough").await,
            command = self.inbox.recv() => command,
        };
        let (answer, result, flow) = match command {
            None => return Flow::Stop,
            Some(Command::Still(answer)) => {
                let _ = answer.send(Still::of(&self.env, &self.record, &mut self.live).await);
                return Flow::On;
            }
            Some(Command::Cancel(answer) | Command::Finish(Finish::Discard, answer)) => {
                (answer, Ok(()), self.let_go("given up").await)
            }
            Some(Command::Undo(answer)) => match self.serve_again() {
                Ok(()) => (answer, Ok(()), self.write().await),
                Err(error) => (answer, Err(error), Flow::On),
            },
            Some(
                Command::Finish(Finish::Migrate { .. } | Finish::Commit { .. }, answer)
                | Command::Extend(_, answer)
                | Command::Retry(answer),
            ) => (answer, Err(show::not_now(self.state())), Flow::On),
        };
        // Nobody listens any more if the caller has gone.
        let _ = answer.send(result);
        flow
    }

    async fn let_go(&mut self, why: &str) -> Flow {
        self.record.note(Timestamp::now(), format!("what the guest wrote is {why}"));
        self.record.kept_until = None;
        self.record.plan.unwind();
        self.write().await
    }

    /// Walks forward again. Somebody asked for this job, so it does not queue; a live mount gets a
    /// new time limit.
    fn serve_again(&mut self) -> Result<(), JobError> {
        let now = Timestamp::now();
        if self.record.request.mode == Mode::LiveMount {
            let request = &self.record.request;
            let default = self.env.config.mount_expires.as_secs();
            let limit = request.expires_in_seconds.unwrap_or(default);
            self.record.expires_at = Some(crate::jobs::after(now, limit)?);
        }
        self.record.plan.unshelve();
        self.env.gate.readmit(&turn(&self.record), self.record.reserve);
        (self.record.outcome, self.record.kept_until, self.record.error) = (None, None, None);
        self.record.note(now, "its end is undone");
        Ok(())
    }
}
