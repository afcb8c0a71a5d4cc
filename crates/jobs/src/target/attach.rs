//! A VM that gets disks of ours.

use rekindle_vsphere::{Attached, NewDisk};

use super::{Link, OriginalVm};
use crate::JobError;
use crate::journal::HostMount;

impl Link {
    /// Refuses a VM that so many disks cannot be attached to, and one that runs from our own datastore: it is another job's.
    pub(crate) async fn check_room(
        &self,
        vm: &OriginalVm,
        mount: &HostMount,
        disks: usize,
        job: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.check_room(vm, mount, disks, job).await)
    }

    /// The same, where a person waits for the answer.
    pub(crate) async fn look_for_room(
        &self,
        vm: &OriginalVm,
        mount: &HostMount,
        disks: usize,
    ) -> Result<(), JobError> {
        super::vsphere::in_time(self.check_room(vm, mount, disks, "")).await
    }

    /// Attaches the disks and tags the VM with the job; says where each is, in order. Those that are attached are fine.
    pub(crate) async fn attach(
        &self,
        vm: &OriginalVm,
        disks: &[NewDisk],
        job: &str,
    ) -> Result<Vec<Attached>, JobError> {
        to_host!(self, link => link.attach(vm, disks, job).await)
    }

    /// Takes the disks off, if they are on, and the job's tag. A VM that is gone has none.
    pub(crate) async fn detach(
        &self,
        vm: &OriginalVm,
        files: &[String],
        job: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.detach(vm, files, job).await)
    }
}
