//! The VM that steps aside for a recovery in place.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Link;
use crate::{JobError, OriginalRef};

/// A VM that is to step aside or to get disks, as it stood when it was found: what it goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OriginalVm {
    /// The host's id of it.
    pub(crate) id: String,
    /// Its instance UUID, which tells it from a VM that has its id later.
    pub(crate) uuid: Option<String>,
    pub(crate) name: String,
    pub(crate) runs: bool,
}

/// It, and the host that it is on.
pub(crate) struct FoundOriginal {
    pub(crate) vm: OriginalVm,
    /// Where a target has several.
    pub(crate) host: Option<String>,
}

impl Link {
    /// The VM that is told so, or else the one with the backed-up VM's name.
    pub(crate) async fn find_original(
        &self,
        original: Option<&OriginalRef>,
        backed_up: &str,
    ) -> Result<FoundOriginal, JobError> {
        to_host!(self, link => link.find_original(original, backed_up).await)
    }

    /// The same, where a person waits for the answer.
    pub(crate) async fn look_for_original(
        &self,
        original: Option<&OriginalRef>,
        backed_up: &str,
    ) -> Result<FoundOriginal, JobError> {
        super::vsphere::in_time(self.find_original(original, backed_up)).await
    }

    /// Has it off: by its guest within that time if there is one, or else by its power. Whether its guest did it.
    pub(crate) async fn halt(
        &self,
        vm: &OriginalVm,
        within: Option<Duration>,
    ) -> Result<bool, JobError> {
        to_host!(self, link => link.halt(vm, within).await)
    }

    /// Has it running. One that may still shut down for so long is waited for first.
    pub(crate) async fn wake(
        &self,
        vm: &OriginalVm,
        shutting_down: Duration,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.wake(vm, shutting_down).await)
    }

    /// Renames it and tags it with the job.
    pub(crate) async fn set_aside(
        &self,
        vm: &OriginalVm,
        name: &str,
        job: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.set_aside(vm, name, job).await)
    }

    /// Gives it its name back and takes the tag away. One with neither is as it was; one that somebody
    /// has renamed keeps that name, and a note says so.
    pub(crate) async fn put_back(
        &self,
        vm: &OriginalVm,
        aside: &str,
        job: &str,
    ) -> Result<Option<String>, JobError> {
        to_host!(self, link => link.put_back(vm, aside, job).await)
    }

    /// Deletes it, if it has the name or the job's tag, and is off.
    pub(crate) async fn remove_original(
        &self,
        vm: &OriginalVm,
        aside: &str,
        job: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.remove_original(vm, aside, job).await)
    }

    /// Powers a VM off, wherever it is; it need not exist.
    pub(crate) async fn power_off_vm(&self, vm: &str) -> Result<(), JobError> {
        to_host!(self, link => link.power_off_vm(vm).await)
    }

    /// Takes a VM out of the inventory, wherever it is; it need not exist.
    pub(crate) async fn unregister_vm(&self, vm: &str) -> Result<(), JobError> {
        to_host!(self, link => link.unregister_vm(vm).await)
    }
}
