//! What of a VM decides whether disks can be attached to it.

use super::units::{self, Unit, free_units, units_of};
use super::{Attached, off_limits};
use crate::{
    VsphereError,
    error::Failure,
    property::Object,
    xml::{Element, Writer},
};

/// The key of the tag among a VM's extra configuration.
pub(super) const TAG: &str = "rekindle.attached";
/// The tag of a VM that steps aside for another, see [`crate::Vsphere::rename`].
const ASIDE: &str = "rekindle.set_aside";

pub(super) const HARDWARE: &[&str] = &[
    "config.hardware.device",
    "config.extraConfig",
    "config.changeVersion",
    "config.files.vmPathName",
    "config.keyId",
    "config.template",
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.consolidationNeeded",
];

/// What counts of a VM, read at one moment.
pub(super) struct Hardware(pub(super) Object);

impl Hardware {
    fn devices(&self) -> &[Element] {
        self.0.list("config.hardware.device")
    }

    pub(super) fn option(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.list("config.extraConfig").iter();
        let pair = pairs.find(|pair| pair.text_at(&["key"]) == Some(key))?;
        pair.text_at(&["value"]).filter(|value| !value.is_empty())
    }

    /// The disk that lies on this file, and not on another over it.
    pub(super) fn disk(&self, file: &str) -> Option<&Element> {
        let on = |device: &&Element| device.text_at(&["backing", "fileName"]) == Some(file);
        self.devices().iter().find(on)
    }

    pub(super) fn attached(&self, file: &str) -> Option<Attached> {
        let place = units::place(self.devices(), self.disk(file)?)?;
        Some(Attached { file: file.to_owned(), place })
    }

    /// Why nothing can be attached to the VM, for `tag`.
    pub(super) fn obstacle(&self, tag: &str) -> Option<(&'static str, String)> {
        let text = |path| self.0.text(path).unwrap_or_default();
        let other = [TAG, ASIDE].map(|key| (key, self.option(key)));
        let taken = other.into_iter().find(|(_, job)| job.is_some_and(|job| job != tag));
        if let Some((key, Some(job))) = taken {
            let message = format!(
                "job {job} has the VM: end that first (or, if there is no such job any more, remove {key} from the VM's \
                 advanced settings)"
            );
            return Some((off_limits::TAKEN, message));
        }
        let unfit = |why: &str| Some((off_limits::UNFIT, why.to_owned()));
        if self.0.get("config.keyId").is_some_and(|key| !key.children.is_empty()) {
            let message = "the VM is encrypted: a disk from here would not be".to_owned();
            return Some((off_limits::ENCRYPTED, message));
        }
        if self.0.flag("runtime.consolidationNeeded") {
            let message = "its snapshots want to be consolidated: do that first".to_owned();
            return Some((off_limits::CONSOLIDATION, message));
        }
        match (text("runtime.connectionState"), text("runtime.powerState")) {
            _ if self.0.flag("config.template") => unfit("it is a template"),
            (_, "suspended") => unfit("it is suspended: resume it first"),
            ("connected" | "", _) => None,
            (state, _) => unfit(&format!("its state is {state}: its host does not answer for it")),
        }
    }

    /// Units for so many disks.
    pub(super) fn units(&self, count: usize) -> Result<Vec<Unit>, Failure> {
        let mut free = free_units(self.devices());
        if free.len() >= count {
            free.truncate(count);
            return Ok(free);
        }
        let controllers = units_of(self.devices()).count();
        let message = format!(
            "{count} disks are to be attached, and {} units are free on the VM's {controllers} SCSI controllers that share no \
             bus: add a controller, or detach other disks",
            free.len()
        );
        Err(refused(off_limits::NO_FREE_UNIT, message))
    }

    /// Has the change refused if somebody else changed the VM since it was read.
    pub(super) fn write_version(&self, w: &mut Writer) {
        if let Some(version) = self.0.text("config.changeVersion").filter(|v| !v.is_empty()) {
            w.text("changeVersion", version);
        }
    }
}

pub(super) fn refused(fault: &str, message: String) -> Failure {
    let call = "ReconfigVM_Task";
    Failure::Error(VsphereError::Refused { call, fault: fault.to_owned(), message })
}
