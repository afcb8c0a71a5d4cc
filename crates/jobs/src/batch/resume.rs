//! A batch that was halted goes on, when somebody says so.
//!
//! What is to be done again is written down before any of it is: a crash then leaves a batch that runs, and goes on at the
//! next start. A VM that is begun again is so under another key than before, so that it gets a job of its own.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::{Member, Record};
use super::walk::is_up;
use super::{BatchState, Batches, GroupState};
use crate::{JobError, JobId, JobState, Jobs, failure};

/// What becomes of the group at which a batch was halted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// What of it is not up is begun or looked at again: VMs whose job has failed or ended, and all gates.
    #[default]
    Retry,
    /// It stays as it is, and the next group's turn comes.
    Skip,
}

impl Batches {
    /// Lets a halted batch go on: durable when it returns. A group that does not come up later halts it again.
    ///
    /// `Conflict` if it is not halted, `Busy` if as many run as may.
    pub async fn resume(&self, id: &JobId, how: Resume) -> Result<(), JobError> {
        let _one_at_a_time = self.accepting.lock().await;
        let state = self.view(id)?.state;
        if state != BatchState::Halted {
            let message = format!(
                "batch {id} is not halted, which alone can be resumed: start another with what is missing"
            );
            return Err(JobError::conflict("batch_not_halted", message));
        }
        self.check_running()?;
        let mut record = self.book.get(id)?.ok_or_else(|| super::engine::not_found(id))?;
        let group = record.resume(how, &self.jobs);
        let (book, written) = (self.book.clone(), record.clone());
        failure::blocking(move || book.put(&written)).await?;
        tracing::info!(batch = %id, group, ?how, "resumed");
        let walk = self.add(record);
        self.spawn(walk);
        Ok(())
    }
}

impl Record {
    /// Makes it as it is to go on; says at which group.
    fn resume(&mut self, how: Resume, jobs: &Jobs) -> usize {
        let halted = |group: &super::record::GroupRecord| {
            group.state == GroupState::Failed && !group.skipped
        };
        self.state = BatchState::Running;
        self.finished_at = None;
        self.resumed_at = Some(Timestamp::now());
        let Some(at) = self.groups.iter().position(halted) else { return self.groups.len() };
        let group = &mut self.groups[at];
        match how {
            Resume::Skip => group.skipped = true,
            Resume::Retry => {
                group.state = GroupState::Pending;
                group.members.iter_mut().for_each(|member| member.again(jobs));
                for gate in &mut group.gates {
                    (gate.open, gate.error) = (None, None);
                }
            }
        }
        at + 1
    }
}

impl Member {
    /// One whose job is up, or may yet come up, keeps it; any other is begun anew.
    fn again(&mut self, jobs: &Jobs) {
        let view = self.job.as_ref().and_then(|job| jobs.view(job).ok());
        let on_its_way = |state| matches!(state, JobState::Queued | JobState::Starting);
        let keeps = view.is_some_and(|view| is_up(&view) || on_its_way(view.state));
        (self.up, self.error) = (None, None);
        if !keeps {
            self.job = None;
            self.attempt += 1;
        }
    }
}
