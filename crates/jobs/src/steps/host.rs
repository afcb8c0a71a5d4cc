//! The steps that a host takes part in.

use super::{Found, Work};
use crate::journal::HostMount;
use crate::target::Link;
use crate::{Destination, JobError, Phase};

mod networks;
mod redo;

impl Work<'_> {
    fn host_mount(&self) -> Result<&HostMount, JobError> {
        self.record.place.datastore.as_ref().ok_or_else(|| JobError::Corrupt {
            what: "read the job's journal".into(),
            source: anyhow::anyhow!("a step of vSphere, and no datastore"),
        })
    }

    pub(super) fn link(&self) -> Result<(&Link, &HostMount, String), JobError> {
        let mount = self.host_mount()?;
        let vmx = self.record.vmx_path().unwrap_or_default();
        Ok((self.env.link(&mount.target)?, mount, vmx))
    }

    pub(super) fn export_path(&self) -> String {
        format!("/{}", self.record.place.export)
    }

    /// Mounts the export as a datastore; the host may know it by another name already.
    pub(super) async fn mount(&mut self) -> Result<Found, JobError> {
        // Before others are kept waiting: those that leave have to come through here as well.
        self.await_mount().await?;
        let (link, mount, _) = self.link()?;
        let mut users = self.env.mounted.of(&mount.share()).await;
        users.insert(self.record.id.clone(), Vec::new());
        let name = link.mount(mount, &self.export_path()).await?;
        Ok(Found { datastore: Some(name), ..Found::default() })
    }

    /// Removes the datastore if no other job uses it on that host. Jobs that come meanwhile wait.
    pub(super) async fn unmount(&mut self) -> Result<(), JobError> {
        let (link, mount, _) = self.link()?;
        let mut users = self.env.mounted.of(&mount.share()).await;
        if users.keys().all(|job| *job == self.record.id) {
            link.unmount(mount, &self.export_path()).await?;
        }
        users.remove(&self.record.id);
        Ok(())
    }

    pub(super) async fn register(&mut self) -> Result<Found, JobError> {
        let (link, mount, vmx) = self.link()?;
        let beside = self.record.original.as_ref().map(|original| original.id.as_str());
        let id = link.register(mount, &vmx, &self.record.name, beside).await?;
        self.put_on_port_groups(&id).await?;
        Ok(Found { host_vm: Some(id), ..Found::default() })
    }

    /// A VM that has migrated is not at this path any more, and stays.
    pub(super) async fn unregister(&mut self) -> Result<(), JobError> {
        let (link, mount, vmx) = self.link()?;
        link.unregister(mount, &vmx).await?;
        match self.moved_vm() {
            Some(vm) => link.unregister_vm(vm).await,
            None => Ok(()),
        }
    }

    pub(super) async fn power_on(&mut self) -> Result<Found, JobError> {
        let (link, mount, vmx) = self.link()?;
        link.power_on(mount, &vmx, self.record.request.uuid()).await?;
        Ok(Found::default())
    }

    pub(super) async fn power_off(&mut self) -> Result<(), JobError> {
        let (link, mount, vmx) = self.link()?;
        link.power_off(mount, &vmx).await?;
        match self.moved_vm() {
            Some(vm) => link.power_off_vm(vm).await,
            None => Ok(()),
        }
    }

    pub(super) fn vm(&self) -> Result<&str, JobError> {
        let vm = self.record.host_vm.as_deref();
        vm.ok_or_else(|| JobError::conflict("vm_gone", "the VM was never registered"))
    }

    pub(super) fn to_datastore(&self) -> Result<&str, JobError> {
        match &self.record.destination {
            Some(Destination::Datastore(name)) => Ok(name),
            Some(Destination::Directory(_) | Destination::Images { .. }) | None => {
                Err(JobError::refused("destination_missing", "no datastore to migrate to"))
            }
        }
    }

    pub(super) async fn relocate(&mut self) -> Result<Found, JobError> {
        let _moving = self.await_move().await?;
        let (link, mount, _) = self.link()?;
        let total: u64 = self.record.disks.iter().map(|disk| disk.size).sum();
        let meter = &self.status.meter;
        let _working = meter.begin(Phase::Relocate, total);
        let progress = |percent: u8| meter.set(total / 100 * u64::from(percent.min(100)));
        link.relocate(mount, self.vm()?, self.to_datastore()?, progress).await?;
        Ok(Found::default())
    }

    /// Ends a migration that is under way. It may have come to its end all the same.
    pub(super) async fn stop_relocating(&mut self) -> Result<Found, JobError> {
        let (link, mount, _) = self.link()?;
        if self.has_migrated() {
            return Ok(Found::default());
        }
        let Ok(vm) = self.vm() else { return Ok(Found::default()) };
        link.cancel_tasks(vm).await?;
        let left = match link.find(vm).await? {
            Some(found) => !found.datastores.contains(&mount.datastore),
            None => false,
        };
        if self.record.request.in_place.is_some() {
            return Ok(self.stopped_in_place(left));
        }
        let migrated_to = left.then(|| self.to_datastore().map(str::to_owned)).transpose()?;
        Ok(Found { migrated_to, ..Found::default() })
    }

    /// The VM is on the other datastore, with nothing left on ours, and runs if it ran.
    pub(super) async fn depart(&mut self) -> Result<Found, JobError> {
        let (link, mount, _) = self.link()?;
        let wanted = self.to_datastore()?;
        let Some(found) = link.find(self.vm()?).await? else {
            return Err(JobError::conflict("vm_gone", "the VM is not registered any more"));
        };
        let moved = found.vmx_path.starts_with(&format!("[{wanted}] "))
            && !found.datastores.contains(&mount.datastore);
        if !moved {
            let places = found.datastores.join(", ");
            let message = format!("after its migration the VM still has files on {places}");
            return Err(JobError::conflict("vm_stayed", message));
        }
        let in_place = self.record.request.in_place.is_some();
        if !found.runs && self.record.request.power_on() && !in_place {
            return Err(JobError::conflict(
                "vm_stopped",
                format!("the VM is on {wanted}, but does not run"),
            ));
        }
        let notes = self.forget_redirection(link).await?;
        // In place it has migrated when that is committed.
        let migrated_to = (!in_place).then(|| wanted.to_owned());
        Ok(Found { migrated_to, notes, ..Found::default() })
    }
}
