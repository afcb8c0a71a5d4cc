//! The original of a recovery in place: it steps aside for the recovered VM, and goes back unless that is committed.
//!
//! 1. `identify`: who it is, its name, whether it runs    journaled before anything is done to it
//! 2. `halt`: it is off                                   crash here: powered on again if it ran
//! 3. `set_aside`: it has our name and our tag, in one call   crash here: its name is put back, by either
//! 4. the recovered VM is registered under its name, and runs
//! 5. the recovered VM has migrated
//! 6. `commit`: somebody's word is journaled              crash before: all of it can still be taken back
//! 7. what the word says is done
//!
//! Taken back before 6, the recovered VM is off and out of the inventory before the original has its name and runs.

use std::time::Duration;

use jiff::Timestamp;

use super::{Found, Work};
use crate::request::NAME_MAX;
use crate::target::OriginalVm;
use crate::{InPlace, JobError, Step};

impl Work<'_> {
    fn in_place(&self) -> InPlace {
        self.record.request.in_place.clone().unwrap_or_default()
    }

    /// The original as it stood when it was found.
    pub(super) fn original(&self) -> Result<&OriginalVm, JobError> {
        self.record.original.as_ref().ok_or_else(|| JobError::Corrupt {
            what: "read the job's journal".into(),
            source: anyhow::anyhow!("a step of a recovery in place, and no original"),
        })
    }

    /// The name that the original has while it is aside.
    fn aside_name(&self) -> String {
        let default = || format!(" (before {})", self.record.id);
        let suffix = self.in_place().suffix.unwrap_or_else(default);
        let room = NAME_MAX.saturating_sub(suffix.chars().count());
        let stem: String = self.record.name.chars().take(room).collect();
        format!("{}{suffix}", stem.trim_end())
    }

    pub(super) async fn identify(&mut self) -> Result<Found, JobError> {
        if let Some(vm) = &self.record.request.attach_to {
            return self.identify_other(vm).await;
        }
        let (link, _, _) = self.link()?;
        let in_place = self.in_place();
        let found = link.find_original(in_place.original.as_ref(), &self.record.vm).await?.vm;
        if found.name != self.record.name {
            let message = format!("the original was {} and is {}", self.record.name, found.name);
            return Err(JobError::conflict("original_changed", message));
        }
        let state = if found.runs { "runs" } else { "does not run" };
        let note = format!("the original is {} ({}), which {state}", found.name, found.id);
        Ok(Found { original: Some(found), notes: vec![note], ..Found::default() })
    }

    pub(super) async fn halt(&mut self) -> Result<Found, JobError> {
        let (link, _, _) = self.link()?;
        let within = self.in_place().shut_down_seconds.map(Duration::from_secs);
        let gently = link.halt(self.original()?, within).await?;
        let cut = || "the original's guest did not shut down in time: its power was cut".to_owned();
        let notes = (!gently && within.is_some()).then(cut);
        Ok(Found { notes: notes.into_iter().collect(), ..Found::default() })
    }

    /// The original runs again if it ran. A shutdown that was cut short goes on in its guest, and must
    /// not be taken for running.
    pub(super) async fn wake(&mut self) -> Result<(), JobError> {
        let original = self.original()?;
        if self.has_migrated() || !original.runs {
            return Ok(());
        }
        let (link, _, _) = self.link()?;
        link.wake(original, self.shutting_down()).await
    }

    /// For how long the original's guest may still be shutting down, because the step was cut short.
    fn shutting_down(&self) -> Duration {
        let times = self.record.times.get(&Step::Halt);
        let cut = times.filter(|times| times.finished_at.is_none());
        let since = cut.and_then(|times| times.started_at);
        let (Some(since), Some(within)) = (since, self.in_place().shut_down_seconds) else {
            return Duration::ZERO;
        };
        let gone = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
        Duration::from_secs(within).saturating_sub(gone)
    }

    pub(super) async fn set_aside(&mut self) -> Result<Found, JobError> {
        let (link, _, _) = self.link()?;
        let name = self.aside_name();
        link.set_aside(self.original()?, &name, self.record.id.as_str()).await?;
        let notes = vec![format!("the original is {name} for now")];
        Ok(Found { notes, ..Found::default() })
    }

    pub(super) async fn put_back(&mut self) -> Result<Found, JobError> {
        if self.has_migrated() {
            return Ok(Found::default());
        }
        let (link, _, _) = self.link()?;
        let (original, aside) = (self.original()?, self.aside_name());
        let note = link.put_back(original, &aside, self.record.id.as_str()).await?;
        Ok(Found { notes: note.into_iter().collect(), ..Found::default() })
    }

    /// The recovered VM where a migration has taken it, which is none of ours by its path any more. Until
    /// a commit it goes when the job does.
    pub(super) fn moved_vm(&self) -> Option<&str> {
        let gone = self.record.request.in_place.is_some() && !self.has_migrated();
        let begun = gone && self.record.destination.is_some();
        self.record.host_vm.as_deref().filter(|_| begun)
    }

    /// What becomes of a migration that was to be stopped, and had come to its end (`left`) or not.
    pub(super) fn stopped_in_place(&self, left: bool) -> Found {
        match (left, self.record.plan.is_unwinding()) {
            (false, _) => Found::default(),
            (true, false) => Found { arrived: true, ..Found::default() },
            (true, true) => {
                let note =
                    "the recovered VM's files stay where it was migrated to, for you to remove";
                Found { notes: vec![note.to_owned()], ..Found::default() }
            }
        }
    }

    /// Waits for somebody's word, and does as it says. What was said is journaled by then, so that
    /// nothing is deleted that was not to be.
    pub(super) async fn commit(&mut self) -> Result<Found, JobError> {
        let Some(remove) = self.record.commit else {
            let what = "a word: commit it, or discard it to have the original back";
            *self.status.waits_for.lock() = Some(what.to_owned());
            return std::future::pending().await;
        };
        *self.status.waits_for.lock() = None;
        let to = self.record.destination.as_ref().and_then(|to| to.datastore());
        let note = if remove { self.remove_original().await? } else { self.kept_note() };
        Ok(Found { migrated_to: to.map(str::to_owned), notes: vec![note], ..Found::default() })
    }

    fn kept_note(&self) -> String {
        format!("the original stays as {}, off", self.aside_name())
    }

    /// That the original cannot be removed is no reason to give up what is committed.
    async fn remove_original(&self) -> Result<String, JobError> {
        let (link, _, _) = self.link()?;
        match link
            .remove_original(self.original()?, &self.aside_name(), self.record.id.as_str())
            .await
        {
            Ok(()) => Ok("the original is removed, as the commit said".to_owned()),
            Err(error) => {
                tracing::warn!("the original cannot be removed: {error}");
                Ok(format!("{}: it cannot be removed: {error}", self.kept_note()))
            }
        }
    }
}
