//! What a VM's configuration must lose and gain to run elsewhere (ESXI.md 3.3).

use std::collections::{BTreeMap, BTreeSet};

use rekindle_image::Vmx;

use crate::{AdapterRule, JobError, MacPolicy, Networks, SwapPolicy, UuidPolicy};

mod adapters;
mod minimum;
mod swap;

/// How a configuration is to be rewritten.
pub(crate) struct Rewrite<'a> {
    /// The VM's new name.
    pub(crate) name: &'a str,
    /// The stem of the VM's files.
    pub(crate) stem: &'a str,
    pub(crate) networks: Networks,
    /// Adapters that are treated otherwise.
    pub(crate) adapters: &'a BTreeMap<String, AdapterRule>,
    pub(crate) mac: MacPolicy,
    pub(crate) uuid: UuidPolicy,
    pub(crate) swap: SwapPolicy,
    /// Where the host writes snapshots, if not beside the disks: `/vmfs/volumes/…`.
    pub(crate) redo: Option<String>,
    /// Each disk's place, `scsi0:0`, and the file name of its descriptor.
    pub(crate) disks: Vec<(&'a str, &'a str)>,
    /// Whether the firmware's variables were backed up.
    pub(crate) nvram: bool,
}

/// A rewritten configuration, and what a person should know about it.
#[derive(Debug)]
pub(crate) struct Rewritten {
    pub(crate) bytes: Vec<u8>,
    pub(crate) notes: Vec<String>,
}

/// Keys that tell of the place where the VM was, or of a state that its disks are not in.
const STALE: &[&str] = &[
    "uuid.location",
    "vc.uuid",
    "workingdir",
    "sched.swap.derivedname",
    "sched.swap.dir",
    "extendedconfigfile",
    "cleanshutdown",
    "softpoweroff",
    "vmxstats.filename",
    "log.filename",
    "vmx.log.filename",
    "nvram.mode",
    "mem.filename",
];

/// The same, by how the key begins.
const STALE_PREFIXES: &[&str] = &[
    "checkpoint.",
    "snapshot.",
    "snapshot0.",
    "migrate.hostlog",
    "vmotion.",
    "numa.autosize.",
    "usb.autoconnect.",
    "replay.",
    "rollback.",
];

/// The controllers that disks and CDs hang on.
const CONTROLLERS: &[&str] = &["scsi", "sata", "ide", "nvme"];

impl Rewrite<'_> {
    /// Rewrites `text`. Lines that are not named here stay as they are.
    pub(crate) fn apply(&self, text: &str) -> Result<Rewritten, JobError> {
        let mut vmx = parse(text)?;
        let mut edit = Edit { vmx: &mut vmx, notes: Vec::new() };
        edit.drop_stale();
        edit.identity(self);
        edit.disks(self);
        edit.host_devices();
        edit.adapters(self)?;
        edit.swap(&self.swap)?;
        edit.redo(self.redo.as_deref());
        let notes = edit.notes;
        Ok(Rewritten { bytes: vmx.to_bytes(), notes })
    }
}

/// A configuration that can be recovered.
fn parse(text: &str) -> Result<Vmx, JobError> {
    let parsed = Vmx::parse(text.as_bytes());
    let vmx =
        parsed.map_err(|e| JobError::refused("bad_vmx", format!("the VM's configuration: {e}")))?;
    refuse_encrypted(&vmx)?;
    Ok(vmx)
}

/// An encrypted VM needs its key provider, which a recovery does not bring along.
fn refuse_encrypted(vmx: &Vmx) -> Result<(), JobError> {
    let vtpm = vmx.is_true("vtpm.present");
    let sealed =
        keys(vmx).into_iter().any(|key| key.starts_with("encryption.") || key == "datafilekey");
    if vtpm || sealed {
        let what = if vtpm { "a virtual TPM" } else { "encryption" };
        return Err(JobError::refused(
            "encrypted_vm",
            format!(
                "the VM has {what}: it runs only where its key provider is, and cannot be recovered \
                 live; remove {what} from the VM before its backup"
            ),
        ));
    }
    Ok(())
}

/// All keys in lower case.
fn keys(vmx: &Vmx) -> Vec<String> {
    vmx.entries().map(|(key, _)| key.to_ascii_lowercase()).collect()
}

/// `scsi0:1` of `scsi0:1.filename`, if the key is of a disk or CD.
fn device(key: &str) -> Option<&str> {
    let (device, _) = key.split_once('.')?;
    let kind = device.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':');
    (CONTROLLERS.contains(&kind) && device.contains(':')).then_some(device)
}

/// `serial0` of `serial0.filename`, for kinds of devices that are numbered without a colon.
fn numbered<'k>(key: &'k str, kind: &str) -> Option<&'k str> {
    let (device, _) = key.split_once('.')?;
    let number = device.strip_prefix(kind)?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(device)
}

struct Edit<'a> {
    vmx: &'a mut Vmx,
    notes: Vec<String>,
}

impl Edit<'_> {
    fn set(&mut self, device: &str, key: &str, value: &str) {
        self.vmx.set(&format!("{device}.{key}"), value);
    }

    fn is(&self, device: &str, key: &str, wanted: &str) -> bool {
        let value = self.vmx.get(&format!("{device}.{key}"));
        value.is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    }

    fn drop_stale(&mut self) {
        for key in keys(self.vmx) {
            let stale = STALE.contains(&key.as_str())
                || STALE_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
                || device(&key).is_some() && key.ends_with(".redo");
            if stale {
                self.vmx.remove(&key);
            }
        }
    }

    /// Name, UUID and the files that carry the VM's name. `uuid.action` answers the question
    /// `msg.uuid.altered` before it is asked.
    fn identity(&mut self, plan: &Rewrite<'_>) {
        self.vmx.set(".encoding", "UTF-8");
        self.vmx.set("displayName", plan.name);
        match plan.uuid {
            UuidPolicy::Keep => self.vmx.set("uuid.action", "keep"),
            UuidPolicy::New => {
                self.vmx.remove("uuid.bios");
                self.vmx.set("uuid.action", "create");
            }
        }
        if plan.nvram || self.vmx.get("nvram").is_some() {
            self.vmx.set("nvram", format!("{}.nvram", plan.stem));
        }
        self.no_change_tracking("ctkEnabled");
    }

    /// The change-tracking files are not recovered.
    fn no_change_tracking(&mut self, key: &str) {
        if self.vmx.get(key).is_some() {
            self.vmx.set(key, "FALSE");
        }
    }

    /// Disks of the recovery point are named relative to the folder and persistent; disks that are
    /// not in it are taken out, and CDs lose their medium.
    fn disks(&mut self, plan: &Rewrite<'_>) {
        let ours: BTreeSet<String> = plan.disks.iter().map(|(key, _)| key.to_lowercase()).collect();
        for (key, file) in &plan.disks {
            self.set(key, "present", "TRUE");
            self.set(key, "fileName", file);
            if self.vmx.get(&format!("{key}.mode")).is_some() {
                self.set(key, "mode", "persistent");
            }
            self.no_change_tracking(&format!("{key}.ctkEnabled"));
            let raw = self.vmx.get(&format!("{key}.deviceType")).is_some_and(|kind| {
                let kind = kind.to_ascii_lowercase();
                kind.contains("rdm") || kind.contains("raw")
            });
            if raw {
                self.vmx.remove(&format!("{key}.deviceType"));
            }
        }
        let devices: BTreeSet<String> =
            keys(self.vmx).iter().filter_map(|key| device(key)).map(str::to_owned).collect();
        for device in devices.difference(&ours) {
            self.other_device(device);
        }
    }

    fn other_device(&mut self, device: &str) {
        let get = |key: &str| {
            self.vmx.get(&format!("{device}.{key}")).unwrap_or_default().to_ascii_lowercase()
        };
        let kind = get("deviceType");
        // Older files leave the type out of a CD with an image.
        if kind.contains("cdrom") || kind.is_empty() && get("fileName").ends_with(".iso") {
            self.set(device, "deviceType", "atapi-cdrom");
            self.set(device, "clientDevice", "TRUE");
            self.set(device, "fileName", "emptyBackingString");
            self.set(device, "startConnected", "FALSE");
        } else if self.is(device, "present", "TRUE") {
            self.set(device, "present", "FALSE");
            self.notes.push(format!("{device} is not in the recovery point: taken out"));
        }
    }

    /// Devices that are files or hardware of the old host are there, but not connected; hardware
    /// that is passed through is taken out.
    fn host_devices(&mut self) {
        let all = keys(self.vmx);
        let of = |kind: &str| -> BTreeSet<String> {
            all.iter().filter_map(|key| numbered(key, kind)).map(str::to_owned).collect()
        };
        for floppy in of("floppy") {
            self.set(&floppy, "startConnected", "FALSE");
            if self.is(&floppy, "present", "TRUE") {
                self.set(&floppy, "clientDevice", "TRUE");
                self.set(&floppy, "fileName", "vmware-null-remote-floppy");
                self.vmx.remove(&format!("{floppy}.fileType"));
            }
        }
        for port in of("serial").into_iter().chain(of("parallel")) {
            self.set(&port, "startConnected", "FALSE");
        }
        for passed in of("pcipassthru") {
            if self.is(&passed, "present", "TRUE") {
                self.set(&passed, "present", "FALSE");
                self.notes.push(format!("{passed} was hardware of the old host: taken out"));
            }
        }
    }
}
