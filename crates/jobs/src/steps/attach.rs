//! Disks alone on a VM that is there.
//!
//! 1. `identify`: which VM it is, and that it can have them   journaled before anything is done to it
//! 2. `attach`: one call adds the disks and tags the VM       crash here: done again, or taken back; both find what is there
//! 3. taken back, one call removes the disks and the tag      crash here: done again
//!
//! A disk is told by its file, which is in this job's folder of our own datastore, so that no other is ever touched; the
//! tag tells other jobs, also another appliance's, that the VM is in use.

use rekindle_vsphere::NewDisk;

use super::{Found, Work};
use crate::target::FoundOriginal;
use crate::{JobError, OriginalRef};

impl Work<'_> {
    /// The disks as the host names them.
    fn new_disks(&self) -> Result<Vec<NewDisk>, JobError> {
        let (_, mount, _) = self.link()?;
        let folder = &self.record.place.folder;
        let disk = |disk: &crate::journal::DiskRecord| NewDisk {
            file: format!("[{}] {folder}/{}", mount.datastore, disk.descriptor),
            size_bytes: disk.size,
        };
        Ok(self.record.disks.iter().map(disk).collect())
    }

    pub(super) async fn identify_other(&mut self, vm: &OriginalRef) -> Result<Found, JobError> {
        let (link, mount, _) = self.link()?;
        let FoundOriginal { vm, host } = link.find_original(Some(vm), "").await?;
        if host != mount.host {
            let there = host.as_deref().unwrap_or("the target's own host");
            let message = format!("{} is on {there} now: ask again", vm.name);
            return Err(JobError::conflict("vm_moved", message));
        }
        link.check_room(&vm, mount, self.record.disks.len(), self.record.id.as_str()).await?;
        let state = if vm.runs { "runs" } else { "does not run" };
        let note = format!("the disks are for {} ({}), which {state}", vm.name, vm.id);
        Ok(Found { original: Some(vm), notes: vec![note], ..Found::default() })
    }

    pub(super) async fn attach(&mut self) -> Result<Found, JobError> {
        let (link, _, _) = self.link()?;
        let vm = self.original()?;
        let attached = link.attach(vm, &self.new_disks()?, self.record.id.as_str()).await?;
        let note = |(disk, one): (&crate::journal::DiskRecord, rekindle_vsphere::Attached)| {
            format!("{} is attached to {} as {}", disk.key, vm.name, one.place)
        };
        let notes = self.record.disks.iter().zip(attached).map(note).collect();
        Ok(Found { notes, ..Found::default() })
    }

    /// A VM that was never found has nothing of ours.
    pub(super) async fn detach(&mut self) -> Result<(), JobError> {
        let Some(vm) = &self.record.original else { return Ok(()) };
        let (link, _, _) = self.link()?;
        let files: Vec<String> = self.new_disks()?.into_iter().map(|disk| disk.file).collect();
        link.detach(vm, &files, self.record.id.as_str()).await
    }
}
