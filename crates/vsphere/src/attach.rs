//! Disks of ours on a VM that is not: attached while it runs, with a tag of the caller's, and detached again.

use tokio::time::Instant;

use crate::{
    VmId, Vsphere, VsphereError,
    error::Failure,
    soap::Request,
    task,
    xml::{Element, Writer},
};

mod hardware;
mod units;

use hardware::{HARDWARE, Hardware, TAG, refused};
use units::Unit;

/// A disk that is to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Its descriptor: `[datastore] dir/disk.vmdk`.
    pub file: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A disk that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its descriptor: `[datastore] dir/disk.vmdk`.
    pub file: String,
    /// Where the VM has it: `scsi0:1`.
    pub place: String,
}

/// Names of what [`VsphereError::Refused`] says of a VM that disks cannot be attached to, beside the server's own faults.
pub mod off_limits {
    /// No SCSI controller has a unit left for each disk.
    pub const NO_FREE_UNIT: &str = "NoFreeUnit";
    /// The VM is encrypted.
    pub const ENCRYPTED: &str = "VmEncrypted";
    /// The VM's snapshots are to be consolidated first.
    pub const CONSOLIDATION: &str = "VmNeedsConsolidation";
    /// Another job has the VM.
    pub const TAKEN: &str = "VmTaken";
    /// The VM is a template, suspended, or its host does not answer.
    pub const UNFIT: &str = "VmUnfit";
}

fn write_tag(w: &mut Writer, tag: &str) {
    w.element("extraConfig", |w| {
        w.text("key", TAG);
        w.typed_text("value", "xsd:string", tag);
    });
}

/// An independent disk: a snapshot of the VM leaves it out, and so never writes over it or keeps it.
fn write_add(w: &mut Writer, key: i32, disk: &NewDisk, unit: &Unit) {
    w.element("deviceChange", |w| {
        w.text("operation", "add");
        w.typed("device", "VirtualDisk", |w| {
            w.text("key", &key.to_string());
            w.typed("backing", "VirtualDiskFlatVer2BackingInfo", |w| {
                w.text("fileName", &disk.file);
                w.text("diskMode", "independent_persistent");
            });
            w.text("controllerKey", &unit.controller.to_string());
            w.text("unitNumber", &unit.number.to_string());
            w.text("capacityInKB", &(disk.size_bytes / 1024).to_string());
        });
    });
}

/// Without a `fileOperation` the disk's files stay.
fn write_remove(w: &mut Writer, device: &Element) {
    w.element("deviceChange", |w| {
        w.text("operation", "remove");
        w.typed("device", "VirtualDisk", |w| {
            for name in ["key", "controllerKey", "unitNumber", "capacityInKB"] {
                if let Some(value) = device.text_at(&[name]) {
                    w.text(name, value);
                }
            }
        });
    });
}

impl Vsphere {
    /// Whether so many disks can be attached to the VM under `tag`; `Refused` says why not, see [`off_limits`].
    pub async fn check_room(&self, vm: &VmId, count: usize, tag: &str) -> Result<(), VsphereError> {
        let now = self.session.insist(|| self.hardware(vm)).await?;
        match now.obstacle(tag) {
            Some((fault, message)) => Err(refused(fault, message).into()),
            None => Ok(now.units(count).map(drop)?),
        }
    }

    /// Where a VM's `.vmx` is: `[datastore] dir/vm.vmx`.
    pub async fn vmx_path(&self, vm: &VmId) -> Result<String, VsphereError> {
        let now = self.session.insist(|| self.hardware(vm)).await?;
        Ok(now.0.owned("config.files.vmPathName"))
    }

    async fn hardware(&self, vm: &VmId) -> Result<Hardware, Failure> {
        Ok(Hardware(self.session.read(&vm.moref(), HARDWARE).await?))
    }

    /// Attaches disks to a VM, running or not, each on a free unit of a SCSI controller that it has, and tags the VM, all in
    /// one call. Those that are attached are fine. Returns where they are once all are seen to be there.
    pub async fn ensure_attached(
        &self,
        vm: &VmId,
        disks: &[NewDisk],
        tag: &str,
    ) -> Result<Vec<Attached>, VsphereError> {
        self.session.insist(|| self.try_attach(vm, disks, tag)).await
    }

    async fn try_attach(
        &self,
        vm: &VmId,
        disks: &[NewDisk],
        tag: &str,
    ) -> Result<Vec<Attached>, Failure> {
        let deadline = Instant::now() + self.session.limits.task;
        let mut carried_out = false;
        loop {
            let now = self.hardware(vm).await?;
            let missing: Vec<&NewDisk> =
                disks.iter().filter(|disk| now.disk(&disk.file).is_none()).collect();
            match (missing.is_empty(), carried_out) {
                (true, _) if carried_out || now.option(TAG) == Some(tag) => {
                    return Ok(disks.iter().filter_map(|disk| now.attached(&disk.file)).collect());
                }
                (false, true) => {
                    let message = format!("{} is not attached all the same", missing[0].file);
                    return Err(refused("NotCarriedOut", message));
                }
                _ => {}
            }
            if let Some((fault, message)) = now.obstacle(tag) {
                return Err(refused(fault, message));
            }
            let units = now.units(missing.len())?;
            let request = Request::new("ReconfigVM_Task", &vm.moref(), |w| {
                w.element("spec", |w| {
                    now.write_version(w);
                    for (key, (disk, unit)) in (1..).zip(missing.iter().zip(&units)) {
                        write_add(w, -key, disk, unit);
                    }
                    write_tag(w, tag);
                });
            });
            carried_out = self.reconfigured(&request, deadline).await?;
        }
    }

    /// Takes disks off a VM, by their descriptors, and its tag if it is `tag`; their files stay, and no other device is touched. Those that are not
    /// attached, and a VM that is gone, are fine. A call of ours that still runs is waited for first. Returns how many there were.
    pub async fn ensure_detached(
        &self,
        vm: &VmId,
        files: &[String],
        tag: &str,
    ) -> Result<usize, VsphereError> {
        self.session.insist(|| self.try_detach(vm, files, tag)).await
    }

    async fn try_detach(&self, vm: &VmId, files: &[String], tag: &str) -> Result<usize, Failure> {
        let deadline = Instant::now() + self.session.limits.task;
        let (mut carried_out, mut removed) = (false, 0);
        loop {
            let now = match self.hardware(vm).await {
                Err(failure) if failure.is_gone() => return Ok(removed),
                Err(Failure::Error(VsphereError::NotFound { .. })) => return Ok(removed),
                now => now?,
            };
            let ours: Vec<&Element> = files.iter().filter_map(|file| now.disk(file)).collect();
            let others = now.option(TAG).is_some_and(|other| other != tag);
            // One call at least: it comes after an earlier one of ours that adds them still.
            match (ours.is_empty(), carried_out || others) {
                (true, true) => return Ok(removed),
                (false, true) if carried_out => {
                    return Err(refused("NotCarriedOut", "a disk stays all the same".into()));
                }
                _ => {}
            }
            let request = Request::new("ReconfigVM_Task", &vm.moref(), |w| {
                w.element("spec", |w| {
                    now.write_version(w);
                    ours.iter().for_each(|device| write_remove(w, device));
                    if !others {
                        write_tag(w, "");
                    }
                });
            });
            carried_out = self.reconfigured(&request, deadline).await?;
            if carried_out {
                removed = ours.len();
            }
        }
    }

    /// Whether the change was made; if not, the VM is to be read again: it was changed by somebody else meanwhile.
    async fn reconfigured(&self, request: &Request, deadline: Instant) -> Result<bool, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let Err(failure) = self.session.run(request, left).await else { return Ok(true) };
        if failure.is(&["ConcurrentAccess"]) && !left.is_zero() {
            return Ok(false);
        }
        match task::in_the_way(&failure) {
            Some(task) => self.session.wait_out(&task, deadline).await?,
            None => task::forgotten(failure, deadline).await?,
        }
        Ok(false)
    }
}
