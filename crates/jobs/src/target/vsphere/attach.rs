use rekindle_vsphere::{Attached, NewDisk, VsphereError, off_limits};

use super::{Link, failure, refused, vm_id};
use crate::JobError;
use crate::journal::HostMount;
use crate::target::OriginalVm;

/// What a job makes of a VM that cannot have its disks.
fn off_limits_failure(what: &str, error: VsphereError) -> JobError {
    let code = match &error {
        VsphereError::Refused { fault, .. } => match fault.as_str() {
            off_limits::NO_FREE_UNIT => "no_free_unit",
            off_limits::ENCRYPTED => "vm_encrypted",
            off_limits::CONSOLIDATION => "vm_needs_consolidation",
            off_limits::TAKEN => "vm_taken",
            off_limits::UNFIT => "vm_unfit",
            _ => return failure(what, error),
        },
        _ => return failure(what, error),
    };
    refused(code, what, &error)
}

impl Link {
    pub(crate) async fn check_room(
        &self,
        vm: &OriginalVm,
        mount: &HostMount,
        disks: usize,
        job: &str,
    ) -> Result<(), JobError> {
        let (session, now) = self.aside(vm).await?;
        let path = session.vmx_path(&now.id).await;
        let path = path.map_err(|e| failure("look at the VM", e))?;
        if path.starts_with(&format!("[{}] ", mount.datastore)) {
            let message = format!("{} is recovered by a job of this appliance itself", vm.name);
            return Err(JobError::refused("vm_taken", message));
        }
        let room = session.check_room(&now.id, disks, job).await;
        room.map_err(|e| off_limits_failure("attach disks to the VM", e))
    }

    pub(crate) async fn attach(
        &self,
        vm: &OriginalVm,
        disks: &[NewDisk],
        job: &str,
    ) -> Result<Vec<Attached>, JobError> {
        let (session, now) = self.aside(vm).await?;
        let attached = session.ensure_attached(&now.id, disks, job).await;
        attached.map_err(|e| off_limits_failure("attach the disks to the VM", e))
    }

    /// A VM under its id that is another is none of ours to touch, and has nothing of ours.
    pub(crate) async fn detach(
        &self,
        vm: &OriginalVm,
        files: &[String],
        job: &str,
    ) -> Result<(), JobError> {
        let session = self.session().await?;
        let id = vm_id(&vm.id)?;
        match session.standing(&id).await {
            Err(VsphereError::NotFound { .. }) => return Ok(()),
            Ok(now) if now.instance_uuid != vm.uuid => return Ok(()),
            now => now.map_err(|e| failure("look at the VM", e))?,
        };
        let removed = session.ensure_detached(&id, files, job).await;
        removed.map(drop).map_err(|e| failure("detach the disks from the VM", e))
    }
}
