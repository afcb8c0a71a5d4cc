//! Disks that a VM which is there gets, instead of one of their own.

use super::{Mode, OriginalRef, RecoveryRequest, TargetRef, expiry, text};
use crate::JobError;

impl OriginalRef {
    pub(super) fn validate(&self, field: &str) -> Result<(), JobError> {
        let (how, value) = match self {
            Self::Name(name) => ("name", name),
            Self::Uuid(uuid) => ("uuid", uuid),
            Self::Moref(moref) => ("moref", moref),
        };
        text(&format!("{field}.{how}"), value)
    }
}

impl RecoveryRequest {
    /// Whether the job may have a time limit: it ends discarded then.
    pub(crate) fn may_expire(&self) -> bool {
        self.mode == Mode::LiveMount || self.attach_to.is_some()
    }

    /// Attached disks have no VM that could be named, started, changed or moved, and no host but their VM's.
    pub(super) fn validate_attach(&self) -> Result<(), JobError> {
        let Some(vm) = &self.attach_to else { return Ok(()) };
        let refused = |message: &str| Err(JobError::refused("bad_attach", message));
        match (&self.target, self.mode) {
            (TargetRef::Vsphere { host: None, .. }, Mode::DiskOnly) => {}
            (TargetRef::Vsphere { host: Some(_), .. }, Mode::DiskOnly) => {
                return refused("attach_to goes to the host that the VM is on: name no other");
            }
            _ => return refused("attach_to is for disks alone (disk_only) on a vsphere target"),
        }
        if self.migrate.is_some() || self.migration.is_some() || self.cut_over.is_some() {
            return refused(
                "attached disks are not migrated: they end detached and discarded. Recover them without attach_to to keep them",
            );
        }
        let of_a_vm = self.power_on.is_some()
            || self.networks.is_some()
            || !self.adapters.is_empty()
            || self.mac.is_some()
            || self.uuid.is_some()
            || self.swap.is_some()
            || self.redo_datastore.is_some();
        if of_a_vm {
            return refused(
                "attach_to makes no VM: power_on, networks, adapters, mac, uuid, swap and redo_datastore mean nothing with it",
            );
        }
        self.expires_in_seconds.map_or(Ok(()), expiry)?;
        vm.validate("attach_to")
    }
}
