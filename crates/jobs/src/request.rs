use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use rekindle_nfs::ClientNet;
use rekindle_repo::ThawOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobError, JobId};

mod attach;
mod cut_over;
mod from_job;
mod hardware;
mod in_place;
mod verification;

pub use cut_over::{CutOver, CutOverMethod, GuestStop};
pub(crate) use from_job::check_source;
pub use hardware::{AdapterNetwork, AdapterRule, MacPolicy, SwapPolicy};
pub use in_place::{InPlace, OriginalRef};
pub use verification::{Compared, Sampling, Verification};

/// The most characters a VM's name may have (vSphere: fewer than 80).
pub(crate) const NAME_MAX: usize = 79;
/// The most client addresses one export may be open to.
pub(crate) const CLIENTS_MAX: usize = 256;
/// The most networks a request may map.
const NETWORKS_MAX: usize = 64;
/// The longest text that a request may carry in any one field, in bytes.
const TEXT_MAX: usize = 1024;
/// The most disks that a request may name: a VM has 256.
const DISKS_MAX: usize = 256;
/// The longest that a discarded job's overlays are kept: 30 days.
const KEEP_MAX_SECONDS: u64 = 30 * 86_400;
/// The longest time limit of a live mount: a year.
const EXPIRY_MAX_SECONDS: u64 = 366 * 86_400;

/// What is asked for: which recovery point to run where, and how it is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRequest {
    /// A recovery point's id, or a VM's name for its latest point. Absent with `from_job`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub point: String,
    /// Instead of a point: a job that serves a whole VM, or has it kept. What its VM is now is mounted beside it, at no copy,
    /// and goes on for as long as this job lasts, also if that one ends before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_job: Option<JobId>,
    /// Only a point that was taken at this time or before, of the VM that `point` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// Only a point with this tag, of the VM that `point` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The repository to look in; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Whether the VM is to stay.
    #[serde(default)]
    pub mode: Mode,
    /// Only these disks of the VM, by their place: `scsi0:1`. All of them when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Where the VM runs.
    pub target: TargetRef,
    /// The recovered VM's name; `<original>_<n>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Set before the original's name, instead of `name`; numbered only if that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
    /// The same, set behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_suffix: Option<String>,
    /// Where a live recovery ends. May be given at `finish` instead, but for a full restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<Destination>,
    /// When the migration starts; by default by itself on vSphere, at `finish` elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationStart>,
    /// How a migration to another datastore comes to its end; for a live recovery or disks alone on vSphere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_over: Option<CutOver>,
    /// How much of a copy is compared before it counts: every byte when absent. For what the appliance itself compares: a migration to a
    /// directory, or to a datastore with a short pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verification>,
    /// After how many seconds a live mount discards itself; the configured default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// For how many seconds what the guest wrote is kept once the job is discarded or expires, so
    /// that this can be undone; the configured default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_seconds: Option<u64>,
    /// Whether a vSphere target powers the VM on. When absent it does, but for disks alone; a full
    /// restore never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_on: Option<bool>,
    /// What becomes of the VM's network adapters; by default a live recovery keeps them and a
    /// live mount, whose original may still run, disconnects them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Networks>,
    /// Adapters that are treated otherwise, by their name in the configuration: `ethernet0`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub adapters: BTreeMap<String, AdapterRule>,
    /// Whether adapters keep their MAC addresses; by default a VM that keeps its UUID does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacPolicy>,
    /// Where the host puts the VM's swap file; beside the VM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapPolicy>,
    /// A datastore of the target that takes what the guest writes, in a snapshot's files, instead of
    /// this appliance. It is written back before a migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redo_datastore: Option<String>,
    /// Has the original step aside for the recovered VM, which takes its name and place; for a live
    /// recovery on vSphere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlace>,
    /// Attaches the disks to this VM of the target, which may run, instead of a VM of their own; for disks alone on vSphere.
    /// They are detached when the job ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_to: Option<OriginalRef>,
    /// Whether the VM keeps its identity; by default a live recovery does and a live mount gets
    /// a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<UuidPolicy>,
    /// How packs in a cold tier are thawed before the VM starts; standard retrieval for 10 days when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thaw: Option<ThawOptions>,
}

/// How a recovery ends if all goes well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Ends migrated: the VM and what its guest wrote stay.
    #[default]
    LiveRecovery,
    /// Ends discarded, by request or by itself at a time limit.
    LiveMount,
    /// As a live recovery, of disks in a VM that is as small as can be: 100 MB of memory, one
    /// processor, one video card, no network; or on a VM that is there, see `attach_to`.
    DiskOnly,
    /// The VM is written to where it stays and never runs from the export.
    FullRestore,
}

/// Where the VM runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TargetRef {
    /// Nowhere yet: the VM's folder is served over NFS, and whoever may mount it runs the VM.
    Export {
        /// The addresses that may mount the export, or networks of them. Nobody else gets in.
        clients: Vec<ClientNet>,
    },
    /// A configured vCenter or ESXi host.
    Vsphere {
        /// The target's name in the configuration.
        name: String,
        /// The host's name or address; the target's own default when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// Nowhere: a full restore to a directory.
    Nowhere {},
}

/// Where a migration writes the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// Another datastore of the vSphere target, by name.
    Datastore(String),
    /// A directory on the appliance: absolute, and absent or empty. Disks are flat VMDKs there.
    Directory(PathBuf),
    /// The same, with disks of another kind.
    Images {
        /// The directory.
        directory: PathBuf,
        /// What its disks are.
        format: ImageFormat,
    },
}

/// What a disk is in a directory that a VM was migrated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// A descriptor and a flat extent, as ESXi has them, with holes.
    Flat,
    /// One growing VMDK (monolithicSparse), of less than 2 TiB.
    Sparse,
    /// QEMU's, version 3.
    Qcow2,
    /// The disk's bytes, with holes.
    Raw,
}

/// When the migration of a live recovery starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationStart {
    /// By itself, once the VM serves and the mover has read it.
    Automatic,
    /// When `finish` is called.
    Manual,
}

/// What becomes of the network adapters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Networks {
    /// As the VM was backed up.
    Keep,
    /// Present, but not connected at power-on.
    Disconnect,
    /// Taken out of the VM.
    Remove,
    /// From the VM's network names to the target's; those not named are disconnected.
    Map(BTreeMap<String, String>),
}

/// Whether the recovered VM is the backed-up one or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UuidPolicy {
    /// The same: its BIOS UUID stays.
    Keep,
    /// Another: the host makes a new UUID, without asking.
    New,
}

/// How a job that serves is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// Move the VM to where it stays, verify it, then clean up.
    Migrate {
        /// Where; what the request said when absent.
        #[serde(default)]
        to: Option<Destination>,
        /// How, on vSphere; what the request said when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cut_over: Option<CutOver>,
        /// How much of the copy is compared; what the request said when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verify: Option<Verification>,
    },
    /// Throw away what the guest wrote, and clean up. Of a recovery in place the original is back then.
    Discard,
    /// Keep a recovery in place, once it has migrated. The original stays as it is, off and renamed.
    Commit {
        /// Delete the original, with its disks.
        #[serde(default)]
        remove_original: bool,
    },
}

impl RecoveryRequest {
    /// Refuses what could never work, whatever the state of the appliance. No I/O.
    pub fn validate(&self) -> Result<(), JobError> {
        self.validate_source()?;
        let texts = [("repository", &self.repository), ("name", &self.name), ("tag", &self.tag)];
        for (field, value) in texts {
            if let Some(value) = value {
                text(field, value)?;
            }
        }
        self.validate_names()?;
        if self.disks.len() > DISKS_MAX {
            let message = format!("at most {DISKS_MAX} disks can be named");
            return Err(JobError::refused("bad_disks", message));
        }
        self.disks.iter().try_for_each(|disk| text("disks", disk))?;
        self.target.validate()?;
        hardware::validate(&self.adapters, self.swap.as_ref(), &self.target)?;
        if let Some(name) = &self.redo_datastore {
            hardware::on_vsphere("redo_datastore", name, &self.target)?;
        }
        self.validate_end()?;
        self.validate_in_place()?;
        self.validate_attach()?;
        self.validate_cut_over()?;
        self.validate_verify()?;
        match &self.networks {
            Some(Networks::Map(map)) => networks(map),
            Some(Networks::Keep | Networks::Disconnect | Networks::Remove) | None => Ok(()),
        }
    }

    fn validate_names(&self) -> Result<(), JobError> {
        let affixes = [&self.name_prefix, &self.name_suffix];
        if self.name.is_some() && affixes.iter().any(|affix| affix.is_some()) {
            return Err(JobError::refused(
                "bad_name",
                "`name` is the whole name: give it, or name_prefix and name_suffix",
            ));
        }
        if let Some(name) = &self.name {
            vm_name(name)?;
        }
        for affix in affixes.into_iter().flatten() {
            text("name_prefix, name_suffix", affix)?;
            vm_name(affix.trim_matches(' '))?;
        }
        Ok(())
    }

    /// How it ends must fit how it runs.
    fn validate_end(&self) -> Result<(), JobError> {
        if let Some(destination) = &self.migrate {
            destination.validate(&self.target)?;
        }
        self.validate_full()?;
        self.validate_keep()?;
        if self.mode == Mode::LiveMount && (self.migrate.is_some() || self.migration.is_some()) {
            return Err(JobError::refused(
                "mount_is_not_migrated",
                "a live mount ends discarded; ask for mode live_recovery to migrate",
            ));
        }
        if self.migration == Some(MigrationStart::Automatic) && self.migrate.is_none() {
            return Err(JobError::refused(
                "destination_missing",
                "an automatic migration needs `migrate`: a datastore or a directory",
            ));
        }
        match (self.mode, self.expires_in_seconds) {
            (Mode::LiveMount, Some(seconds)) => expiry(seconds),
            (Mode::DiskOnly, Some(_)) if self.attach_to.is_some() => Ok(()),
            (Mode::LiveRecovery | Mode::DiskOnly | Mode::FullRestore, Some(_)) => {
                Err(JobError::refused(
                    "recovery_does_not_expire",
                    "only a live mount and attached disks expire; ask for mode live_mount",
                ))
            }
            (_, None) => Ok(()),
        }
    }

    fn validate_keep(&self) -> Result<(), JobError> {
        let Some(seconds) = self.keep_seconds.filter(|seconds| *seconds > 0) else { return Ok(()) };
        if seconds > KEEP_MAX_SECONDS {
            let message = format!("keep_seconds must be at most {KEEP_MAX_SECONDS}");
            return Err(JobError::refused("bad_keep", message));
        }
        if self.redo_datastore.is_some() || self.mode == Mode::FullRestore {
            let message = "keep_seconds needs the guest's writes to be on this appliance";
            return Err(JobError::refused("bad_keep", message));
        }
        Ok(())
    }

    /// For how many seconds what the guest wrote outlives the job, of `default`.
    pub(crate) fn keep_seconds(&self, default: u64) -> u64 {
        let here = self.redo_datastore.is_none() && self.mode != Mode::FullRestore;
        self.keep_seconds.unwrap_or(if here { default } else { 0 })
    }

    /// A full restore goes straight to where the VM stays, and nothing else does.
    fn validate_full(&self) -> Result<(), JobError> {
        let refused = |code, message: &str| Err(JobError::refused(code, message));
        let nowhere = matches!(self.target, TargetRef::Nowhere {});
        if self.mode != Mode::FullRestore {
            let message = "target nowhere is for a full restore to a directory";
            return if nowhere { refused("bad_target", message) } else { Ok(()) };
        }
        match &self.target {
            TargetRef::Export { .. } => {
                refused("bad_target", "a full restore to a directory has target nowhere")
            }
            _ if self.migrate.is_none() => {
                refused("destination_missing", "a full restore needs `migrate`")
            }
            _ if self.migration.is_some() || self.redo_datastore.is_some() => {
                refused("full_restore_runs_nowhere", "it takes no `migration` or `redo_datastore`")
            }
            _ if self.power_on == Some(true) => {
                refused("full_restore_runs_nowhere", "it does not power the VM on")
            }
            TargetRef::Vsphere { .. } | TargetRef::Nowhere {} => Ok(()),
        }
    }

    /// Whether the migration starts by itself.
    pub(crate) fn migrates_by_itself(&self) -> bool {
        let by_default = match self.migrate {
            Some(Destination::Datastore(_)) => MigrationStart::Automatic,
            Some(Destination::Directory(_) | Destination::Images { .. }) | None => {
                MigrationStart::Manual
            }
        };
        self.migration.unwrap_or(by_default) == MigrationStart::Automatic
    }

    pub(crate) fn networks(&self) -> Networks {
        self.networks.clone().unwrap_or(match self.mode {
            Mode::LiveRecovery | Mode::FullRestore => Networks::Keep,
            Mode::LiveMount | Mode::DiskOnly => Networks::Disconnect,
        })
    }

    pub(crate) fn uuid(&self) -> UuidPolicy {
        self.uuid.unwrap_or(match self.mode {
            Mode::LiveRecovery | Mode::FullRestore => UuidPolicy::Keep,
            Mode::LiveMount | Mode::DiskOnly => UuidPolicy::New,
        })
    }

    pub(crate) fn mac(&self) -> MacPolicy {
        self.mac.unwrap_or(match self.uuid() {
            UuidPolicy::Keep => MacPolicy::Keep,
            UuidPolicy::New => MacPolicy::New,
        })
    }

    pub(crate) fn swap(&self) -> SwapPolicy {
        self.swap.clone().unwrap_or_default()
    }

    /// Datastores of the target that must be there before anything is done.
    pub(crate) fn datastores(&self) -> Vec<&str> {
        let swap = match &self.swap {
            Some(SwapPolicy::Datastore(name)) => Some(name.as_str()),
            Some(SwapPolicy::Beside | SwapPolicy::Reserved) | None => None,
        };
        swap.into_iter().chain(self.redo_datastore.as_deref()).collect()
    }

    pub(crate) fn power_on(&self) -> bool {
        self.power_on.unwrap_or(match self.mode {
            Mode::LiveRecovery | Mode::LiveMount => true,
            Mode::DiskOnly | Mode::FullRestore => false,
        })
    }
}

impl TargetRef {
    fn validate(&self) -> Result<(), JobError> {
        match self {
            Self::Export { clients } => {
                if clients.is_empty() || clients.len() > CLIENTS_MAX {
                    return Err(JobError::refused(
                        "bad_clients",
                        format!("an export needs 1 to {CLIENTS_MAX} client addresses"),
                    ));
                }
                Ok(())
            }
            Self::Vsphere { name, host } => {
                text("target.name", name)?;
                host.as_deref().map_or(Ok(()), |host| text("target.host", host))
            }
            Self::Nowhere {} => Ok(()),
        }
    }
}

impl Destination {
    /// Refuses a destination that the target cannot reach. No I/O.
    pub(crate) fn validate(&self, target: &TargetRef) -> Result<(), JobError> {
        match (self, target) {
            (Self::Datastore(name), TargetRef::Vsphere { .. }) => text("migrate.datastore", name),
            (Self::Datastore(_), TargetRef::Export { .. } | TargetRef::Nowhere {}) => {
                Err(JobError::refused(
                    "destination_unreachable",
                    "an export is migrated to a directory; a datastore needs a vsphere target",
                ))
            }
            (Self::Directory(_) | Self::Images { .. }, TargetRef::Vsphere { .. }) => {
                Err(JobError::refused(
                    "destination_unreachable",
                    "a VM on vSphere is migrated to a datastore; a directory needs an export target",
                ))
            }
            (
                Self::Directory(path) | Self::Images { directory: path, .. },
                TargetRef::Export { .. } | TargetRef::Nowhere {},
            ) => directory(path),
        }
    }

    /// The datastore; `None` for a directory.
    pub(crate) fn datastore(&self) -> Option<&str> {
        match self {
            Self::Datastore(name) => Some(name),
            Self::Directory(_) | Self::Images { .. } => None,
        }
    }

    /// The directory, and what disks are there; `None` for a datastore.
    pub(crate) fn directory(&self) -> Option<(&PathBuf, ImageFormat)> {
        match self {
            Self::Datastore(_) => None,
            Self::Directory(path) => Some((path, ImageFormat::Flat)),
            Self::Images { directory, format } => Some((directory, *format)),
        }
    }
}

/// Refuses a time limit that is none.
pub(crate) fn expiry(seconds: u64) -> Result<(), JobError> {
    if (1..=EXPIRY_MAX_SECONDS).contains(&seconds) {
        return Ok(());
    }
    let message = format!("expires_in_seconds must be from 1 to {EXPIRY_MAX_SECONDS}");
    Err(JobError::refused("bad_expiry", message))
}

fn directory(path: &std::path::Path) -> Result<(), JobError> {
    use std::path::Component;
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let fits = path.as_os_str().len() <= TEXT_MAX && path.to_str().is_some_and(is_printable);
    if !path.is_absolute() || !plain || !fits || path.file_name().is_none() {
        return Err(JobError::refused(
            "bad_directory",
            format!("the directory must be an absolute path without `..`: {}", path.display()),
        ));
    }
    Ok(())
}

/// A VM's name: what vSphere takes, and no path separators.
pub(crate) fn vm_name(name: &str) -> Result<(), JobError> {
    let fits = name.chars().count() <= NAME_MAX;
    let starts_well = !name.starts_with(['.', ' ']) && !name.ends_with(' ');
    if fits && starts_well && !name.contains(['/', '\\', '%', '"']) {
        return Ok(());
    }
    Err(JobError::refused(
        "bad_name",
        format!(
            "a VM's name has at most {NAME_MAX} characters, none of / \\ % \", and starts with \
             neither a dot nor a space"
        ),
    ))
}

fn networks(map: &BTreeMap<String, String>) -> Result<(), JobError> {
    if map.len() > NETWORKS_MAX {
        return Err(JobError::refused(
            "bad_networks",
            format!("at most {NETWORKS_MAX} networks can be mapped"),
        ));
    }
    map.iter().try_for_each(|(from, to)| {
        hardware::plain("networks.map", from)?;
        hardware::plain("networks.map", to)
    })
}

pub(crate) fn text(field: &str, value: &str) -> Result<(), JobError> {
    if value.is_empty() || value.len() > TEXT_MAX || !is_printable(value) {
        return Err(JobError::refused(
            "bad_text",
            format!("{field} must have 1 to {TEXT_MAX} bytes and no control characters"),
        ));
    }
    Ok(())
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
