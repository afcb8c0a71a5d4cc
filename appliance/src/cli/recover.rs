//! Recoveries: what of, where to, and what becomes of the VM.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{CutOverArgs, DaemonArgs, Format, InPlaceArgs};

#[derive(Args)]
pub(crate) struct RecoverArgs {
    /// A recovery point's id, or a VM's name for its latest point, or `*` for all VMs (as a batch).
    #[arg(required_unless_present = "from_job", conflicts_with = "from_job")]
    pub(crate) point: Option<String>,
    /// With --mount: no point, but what the VM of this job is now, while it serves or is kept.
    #[arg(long, value_name = "JOB", requires = "mount", conflicts_with_all = ["since", "before", "tag", "disks"])]
    pub(crate) from_job: Option<String>,
    /// With `*`: only VMs with a point that was taken at this time or later.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["name", "forecast"])]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Of the VM's points, the latest that was taken at this time or before (2025-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<jiff::Timestamp>,
    /// Of the VM's points, the latest with this tag.
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// The repository to look in [default: all].
    #[arg(long)]
    pub(crate) repository: Option<String>,
    /// Only for a look or a test: ends discarded.
    #[arg(long)]
    pub(crate) mount: bool,
    /// Disks alone, in the smallest VM that can hold them, which is not started.
    #[arg(long, conflicts_with = "mount")]
    pub(crate) disk_only: bool,
    /// Write the VM to where it stays, and run nothing.
    #[arg(long, conflicts_with_all = ["mount", "disk_only", "clients"])]
    pub(crate) full: bool,
    /// Attach the disks to this VM of the target, which may run, until the job ends: name:NAME, uuid:UUID or moref:ID.
    #[arg(
        long,
        value_name = "WHICH",
        requires_all = ["disk_only", "target"],
        conflicts_with_all = ["host", "to_datastore", "migration", "no_power_on"]
    )]
    pub(crate) attach_to: Option<String>,
    /// Only this disk, by its place (scsi0:1); may be given more than once.
    #[arg(long = "disk", value_name = "PLACE")]
    pub(crate) disks: Vec<String>,
    /// Serve an export to this address; may be given more than once.
    #[arg(long = "client", value_name = "ADDRESS", required_unless_present_any = ["target", "full"])]
    pub(crate) clients: Vec<IpAddr>,
    /// Run the VM on this configured target.
    #[arg(long, value_name = "NAME", conflicts_with = "clients")]
    pub(crate) target: Option<String>,
    /// The target's host to run on.
    #[arg(long, requires = "target")]
    pub(crate) host: Option<String>,
    /// The recovered VM's name [default: the original's with a number].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Set this before the original's name instead.
    #[arg(long, value_name = "TEXT", conflicts_with = "name")]
    pub(crate) name_prefix: Option<String>,
    /// Set this behind it.
    #[arg(long, value_name = "TEXT", conflicts_with = "name")]
    pub(crate) name_suffix: Option<String>,
    /// Where a migration writes the VM: a directory of the appliance (with --client).
    #[arg(long, value_name = "DIR", conflicts_with_all = ["mount", "to_datastore"])]
    pub(crate) to_directory: Option<PathBuf>,
    /// What its disks are there [default: flat VMDKs].
    #[arg(long, value_enum, value_name = "FORMAT", requires = "to_directory")]
    pub(crate) format: Option<Format>,
    /// Where the VM is migrated: a datastore (with --target).
    #[arg(long, value_name = "NAME", conflicts_with = "mount", requires = "target")]
    pub(crate) to_datastore: Option<String>,
    /// When the migration starts [default: by itself to a datastore, at `finish` to a directory].
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) migration: Option<Migration>,
    /// A live mount or attached disks end by themselves after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) expires_in_seconds: Option<u64>,
    /// Keep what the guest wrote for this long once the job is discarded or expires, for `undo`.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) keep_seconds: Option<u64>,
    /// Only say how long it would take, and whether it would be accepted.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) forecast: bool,
    /// Do not power the VM on (with --target).
    #[arg(long, requires = "target")]
    pub(crate) no_power_on: bool,
    #[command(flatten)]
    pub(crate) hardware: HardwareArgs,
    #[command(flatten)]
    pub(crate) in_place: InPlaceArgs,
    #[command(flatten)]
    pub(crate) cut_over: CutOverArgs,
    /// Asked again with the same key, the same job is found and no second one is started.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// The file that holds a passkey of the sealed repository that the point is in.
    #[arg(long, value_name = "FILE")]
    pub(crate) passkey_file: Option<PathBuf>,
    /// Wait until the VM is served.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// What becomes of the VM's devices and identity.
#[derive(Args)]
pub(crate) struct HardwareArgs {
    /// What becomes of the VM's network adapters.
    #[arg(long, value_enum)]
    pub(crate) networks: Option<Networks>,
    /// Put adapters on network FROM on network TO, and disconnect the others; may be given more than once.
    #[arg(long = "map-network", value_name = "FROM=TO", conflicts_with = "networks")]
    pub(crate) map: Vec<String>,
    /// One adapter otherwise: ethernet0=keep, disconnect, remove, or connect:NETWORK.
    #[arg(long = "adapter", value_name = "NAME=WHAT")]
    pub(crate) adapters: Vec<String>,
    /// MAC addresses [default: kept if the UUID is].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) mac: Option<KeepOrNew>,
    /// The VM's UUID [default: kept by a recovery, new for a mount].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) uuid: Option<KeepOrNew>,
    /// The VM's swap file: beside (the VM), reserved (none, as all memory is), or datastore:NAME.
    #[arg(long, value_name = "WHERE")]
    pub(crate) swap: Option<String>,
    /// A datastore that takes what the guest writes, instead of the appliance (with --target).
    #[arg(long, value_name = "DATASTORE", requires = "target")]
    pub(crate) redo: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum KeepOrNew {
    /// The same as the original's.
    Keep,
    /// Another, made by the host.
    New,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Migration {
    /// By itself, once the VM is served.
    Automatic,
    /// When `finish` is called.
    Manual,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Networks {
    /// As the VM was backed up.
    Keep,
    /// Present, but not connected.
    Disconnect,
    /// Taken out.
    Remove,
}
