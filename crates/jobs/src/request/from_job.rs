//! A copy of a VM that runs already.

use super::{Mode, RecoveryRequest, text};
use crate::{JobError, JobState};

impl RecoveryRequest {
    /// What a recovery is of: a recovery point, or what a job's VM is now. Of the latter a copy is for a look: it is
    /// mounted.
    pub(super) fn validate_source(&self) -> Result<(), JobError> {
        if self.from_job.is_none() {
            return text("point", &self.point);
        }
        let refused = |message: &str| Err(JobError::refused("bad_from_job", message));
        if !self.point.is_empty() || self.before.is_some() || self.tag.is_some() {
            return refused("from_job says what it is of: leave out point, before and tag");
        }
        if self.mode != Mode::LiveMount {
            return refused("from_job is for a live mount: make what is to stay a recovery point");
        }
        if !self.disks.is_empty() {
            return refused("from_job mounts all disks of the VM");
        }
        Ok(())
    }
}

/// Only a VM as a whole that runs as it was backed up, or is kept, can be taken as it is.
pub(crate) fn check_source(mode: Mode, state: JobState) -> Result<(), JobError> {
    match mode {
        Mode::LiveRecovery | Mode::LiveMount => {}
        Mode::DiskOnly | Mode::FullRestore => {
            let message = "only a live recovery or live mount has a VM as a whole";
            return Err(JobError::conflict("not_a_whole_vm", message));
        }
    }
    match state {
        JobState::Serving | JobState::Kept => Ok(()),
        other => {
            let message = format!(
                "the job is {}: its VM is taken as it is while it serves or is kept",
                other.as_str()
            );
            Err(JobError::conflict("not_serving", message))
        }
    }
}
