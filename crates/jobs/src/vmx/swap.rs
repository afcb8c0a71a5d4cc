//! What a host writes for a VM beside its disks: the swap file and snapshots.

use super::Edit;
use crate::{JobError, SwapPolicy};

impl Edit<'_> {
    /// The keys of the old place are gone already. A swap file that is not to be beside the VM
    /// means that of the VM's own process too.
    pub(super) fn swap(&mut self, swap: &SwapPolicy) -> Result<(), JobError> {
        match swap {
            SwapPolicy::Beside => return Ok(()),
            SwapPolicy::Datastore(name) => {
                self.vmx.set("sched.swap.dir", format!("/vmfs/volumes/{name}"));
            }
            SwapPolicy::Reserved => {
                let size = self.vmx.get("memSize").and_then(|size| size.trim().parse::<u32>().ok());
                let size = size.ok_or_else(|| {
                    let message = "the VM's configuration does not say how much memory it has";
                    JobError::refused("bad_vmx", message)
                })?;
                self.vmx.set("sched.mem.min", size.to_string());
                self.vmx.set("sched.mem.pin", "TRUE");
            }
        }
        self.vmx.set("sched.swap.vmxSwapEnabled", "FALSE");
        Ok(())
    }

    /// Without the second key, a host since version 5 writes snapshots beside the disks.
    pub(super) fn redo(&mut self, directory: Option<&str>) {
        if let Some(directory) = directory {
            self.vmx.set("workingDir", directory);
            self.vmx.set("snapshot.redoNotWithParent", "TRUE");
        }
    }
}
