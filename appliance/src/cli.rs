//! The command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use rekindle_console::{Role, Scope};

mod upkeep;

use crate::exit;
pub(crate) use upkeep::{CheckArgs, Found, PruneArgs, UpkeepArgs};

mod batch;
mod cut_over;
mod format;
mod in_place;
mod keep;
mod notify;

pub(crate) use batch::{BatchCommand, ResumeArgs, StartArgs};
pub(crate) use cut_over::{CutOver, CutOverArgs, Stop};
pub(crate) use format::Format;
pub(crate) use in_place::InPlaceArgs;
pub(crate) use keep::KeepArgs;
pub(crate) use notify::NotifyCommand;

/// Makes a backed-up virtual machine run again in seconds, without restoring it first.
#[derive(Parser)]
#[command(name = "rekindle", version, after_help = exit::HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the appliance.
    Serve(ServeArgs),
    /// Check a configuration file and say what is wrong with it.
    CheckConfig {
        /// The TOML file.
        file: PathBuf,
    },
    /// Show what there is to configure, to measure or to call.
    Describe {
        /// Which list.
        what: Topic,
    },
    /// Write manual pages and shell completions (for the package).
    #[command(hide = true)]
    Pages {
        /// Where they go.
        dir: PathBuf,
    },
    /// Show a recovery of a sample VM from start to end (done by scripts/demo).
    Demo,
    /// Make, list and check repositories. Needs no running appliance.
    Repo {
        #[command(subcommand)]
        what: RepoCommand,
    },
    /// Read a VM (.vmx) or a disk image into a repository as a recovery point.
    Ingest(IngestArgs),
    /// List recovery points.
    Points(PointsArgs),
    /// Start a recovery.
    Recover(Box<RecoverArgs>),
    /// List jobs, or show or watch one.
    Jobs(JobsArgs),
    /// End a job: migrate the VM to where it stays, or discard what its guest wrote.
    Finish(FinishArgs),
    /// Move the time limit of a live mount.
    Extend(ExtendArgs),
    /// Serve a job again that was discarded or has expired, with what its guest wrote.
    Undo(JobArgs),
    /// Make a recovery point of what a job's guest wrote. The job stays as it is.
    Keep(KeepArgs),
    /// Try at once what a stuck job cannot get past.
    Retry(JobArgs),
    /// Take a job back, whatever it does now.
    Cancel(CancelArgs),
    /// Start many recoveries in ordered groups, and list, show or end such batches.
    Batch {
        #[command(subcommand)]
        what: BatchCommand,
    },
    /// List exports and who uses them.
    Exports(ListArgs),
    /// Show the cache.
    Cache(ListArgs),
    /// List where VMs can run.
    Target {
        #[command(subcommand)]
        what: TargetCommand,
    },
    /// List or test who is told what happens: webhooks, mail, syslog.
    Notify {
        #[command(subcommand)]
        what: NotifyCommand,
    },
    /// Write what support needs into one text file, without secrets.
    SupportBundle(BundleArgs),
    /// Make, list and change users, their API tokens and their second factors.
    User {
        #[command(subcommand)]
        what: UserCommand,
    },
    /// Show, export and verify the audit log.
    Audit {
        #[command(subcommand)]
        what: AuditCommand,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Topic {
    /// The configuration file with every key, its default and its bounds.
    Config,
    /// The metrics at /metrics.
    Metrics,
    /// The calls of the HTTP API.
    Api,
}

/// Which configuration to use.
#[derive(Args, Clone, Default)]
pub(crate) struct ConfigArgs {
    /// Configuration file [default: /etc/rekindle/rekindle.toml if it is there].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// State directory, over what the file says. Without --config no file is read: the embedded
    /// defaults are used, with a repository in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Args)]
pub(crate) struct BundleArgs {
    /// The file to write [default: rekindle-support-TIME.txt].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Subcommand)]
pub(crate) enum RepoCommand {
    /// Make a repository in a new or empty directory, or on S3.
    Add {
        /// The directory, or s3://BUCKET/PREFIX.
        place: String,
        #[command(flatten)]
        s3: S3Args,
        /// What is there are images of VMs, as others left them: make nothing, and have each recovered as it lies.
        #[arg(long, conflicts_with_all = ["encrypt", "block_bytes", "passkey_file"])]
        images: bool,
        /// Bytes per block: a power of two from 4096 to 4194304.
        #[arg(long, default_value_t = 262_144, value_name = "BYTES")]
        block_bytes: u32,
        /// Seal it: nothing in it can be read without a passkey, which is asked for unless --passkey-file names it.
        #[arg(long)]
        encrypt: bool,
        /// What the passkey is called. Not sealed.
        #[arg(long, default_value = "first", value_name = "LABEL", requires = "encrypt")]
        label: String,
        #[command(flatten)]
        passkey: PasskeyArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List configured repositories and what is in them.
    Ls {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell which repositories the running appliance can read, since when, and why not.
    State(ListArgs),
    /// Read everything in a repository and verify it. What is found is kept with its points, and a check that was
    /// stopped goes on where it was.
    Check(Box<CheckArgs>),
    /// Tell how soon a recovery point can be recovered: its tier, what is frozen, what a thaw takes.
    Tier {
        #[command(flatten)]
        point: ColdArgs,
    },
    /// Have the store thaw what a recovery point in a cold tier needs. A recovery does so by itself.
    Thaw {
        #[command(flatten)]
        point: ColdArgs,
        /// How fast.
        #[arg(long, value_enum, default_value_t = RetrievalArg::Standard)]
        retrieval: RetrievalArg,
        /// For how many days what is thawed stays so.
        #[arg(long, default_value_t = 10)]
        days: u32,
        /// Return when all can be read.
        #[arg(long)]
        wait: bool,
    },
    /// Bring a recovery point on S3 to another tier. What other points share stays at hand.
    Move {
        #[command(flatten)]
        point: ColdArgs,
        /// Where to.
        #[arg(long, value_enum)]
        tier: TierArg,
    },
    /// Let old recovery points go, and delete what none of the others needs once its grace time is over.
    Prune(Box<PruneArgs>),
    /// Show what prunes or checks a repository on the appliance, and how the last ones ended.
    Upkeep(UpkeepArgs),
    /// List, add and remove the passkeys of a sealed repository.
    Passkey {
        #[command(subcommand)]
        what: PasskeyCommand,
    },
}

#[derive(Subcommand)]
pub(crate) enum PasskeyCommand {
    /// List them by id, with when they were added and what they are called.
    Ls {
        #[command(flatten)]
        open: OpenArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add one. To change a passkey, add the new one and remove the old one.
    Add {
        #[command(flatten)]
        open: OpenArgs,
        /// The file that holds the new passkey [default: asked for].
        #[arg(long, value_name = "FILE")]
        new_passkey_file: Option<PathBuf>,
        /// What it is called. Not sealed.
        #[arg(long, default_value = "", value_name = "LABEL")]
        label: String,
    },
    /// Remove one; not the last. Who knew it may have kept what it opened.
    Remove {
        #[command(flatten)]
        open: OpenArgs,
        /// Its id or label.
        which: String,
    },
}

/// Which repository to open, and with what.
#[derive(Args)]
pub(crate) struct OpenArgs {
    /// A configured name, a directory, or s3://BUCKET/PREFIX.
    pub(crate) repository: String,
    #[command(flatten)]
    pub(crate) passkey: PasskeyArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// What opens a sealed repository.
#[derive(Args, Clone, Default)]
pub(crate) struct PasskeyArgs {
    /// The file that holds the passkey of a sealed repository [default: what the configuration names, or asked for].
    #[arg(long, value_name = "FILE")]
    pub(crate) passkey_file: Option<PathBuf>,
}

/// A recovery point that may be in a cold tier.
#[derive(Args)]
pub(crate) struct ColdArgs {
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// A recovery point, or a VM for its latest.
    pub(crate) point: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RetrievalArg {
    /// Minutes; not from Deep Archive.
    Expedited,
    /// Hours.
    Standard,
    /// The cheapest.
    Bulk,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum TierArg {
    /// Copied to the directory that `hot_copy` names in the configuration.
    Hot,
    /// Read at once.
    Warm,
    /// S3 Glacier Flexible Retrieval.
    Glacier,
    /// S3 Glacier Deep Archive.
    DeepArchive,
}

/// How a store on S3 is reached. What is not given comes from where the AWS tools look: the environment, the
/// shared configuration, the container, the machine.
#[derive(Args)]
pub(crate) struct S3Args {
    /// The store's URL [default: Amazon's].
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// The region that requests are signed for [default: us-east-1].
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Whether the bucket is in the path and not in the host's name [default: with an endpoint].
    #[arg(long, value_name = "BOOL")]
    pub(crate) path_style: Option<bool>,
    /// Certificates (PEM) to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The keys: a file in the format of ~/.aws/credentials.
    #[arg(long, value_name = "FILE")]
    pub(crate) credentials_file: Option<PathBuf>,
    /// Which profile of that file, or of the shared configuration.
    #[arg(long)]
    pub(crate) profile: Option<String>,
}

#[derive(Args)]
pub(crate) struct IngestArgs {
    /// A .vmx or .ovf file with its disks beside it, an .ova, or a disk image (raw, VMDK, VHD, VHDX, qcow2).
    #[arg(required_unless_present = "from")]
    pub(crate) source: Option<PathBuf>,
    /// Read a VM from a configured target instead, by its name or instance UUID: a full backup, through a snapshot
    /// that is removed again if the VM runs.
    #[arg(long, value_name = "vsphere://TARGET/VM", conflicts_with_all = ["source", "changes"])]
    pub(crate) from: Option<crate::local::vsphere::From>,
    /// A repository's configured name, directory or s3:// place; may be left out if there is only one.
    #[arg(long, short)]
    pub(crate) repository: Option<String>,
    /// The VM's name [default: what the .vmx says, or the image's file name].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A word to find the point by; may be given more than once.
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Read only what changed since --parent and take the rest from that point, unread. The file is
    /// JSON, byte ranges for each disk as vSphere's changed block tracking tells them:
    /// {"scsi0:0": [{"start": 0, "length": 65536}]}. A list that leaves something out makes a point
    /// that never was.
    #[arg(long, value_name = "FILE", group = "changes", requires = "parent")]
    pub(crate) changed: Option<PathBuf>,
    /// The same, told by the persistent dirty bitmap of this name in each disk's qcow2 image.
    #[arg(long, value_name = "NAME", group = "changes", requires = "parent")]
    pub(crate) dirty_bitmap: Option<String>,
    /// The recovery point of this VM that --changed or --dirty-bitmap counts from.
    #[arg(long, value_name = "POINT", requires = "changes")]
    pub(crate) parent: Option<String>,
    /// How hard to compress, from 1 (fast) to 19 (small, and far slower) [default: compression_level of
    /// the repository's configuration, or 1].
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) compression_level: Option<i32>,
    #[command(flatten)]
    pub(crate) passkey: PasskeyArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print a report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How to reach a running appliance. Its token is in the environment variable REKINDLE_TOKEN or in
/// a file, never on the command line.
#[derive(Args, Clone)]
pub(crate) struct DaemonArgs {
    /// The appliance's address.
    #[arg(long, env = "REKINDLE_URL", default_value = "http://127.0.0.1:8480", value_name = "URL")]
    pub(crate) url: String,
    /// Trust the certificates in this PEM file, and no others.
    #[arg(long, env = "REKINDLE_CA_FILE", value_name = "FILE", conflicts_with = "fingerprint")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 fingerprint, and no other.
    #[arg(long, env = "REKINDLE_FINGERPRINT", value_name = "AA:BB:…")]
    pub(crate) fingerprint: Option<String>,
    /// The file that holds the token; REKINDLE_TOKEN may hold the token itself.
    #[arg(long, env = "REKINDLE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A one-time code, where the appliance wants one to start or end recoveries.
    #[arg(long, env = "REKINDLE_TOTP", value_name = "CODE")]
    pub(crate) totp: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct PointsArgs {
    /// Only this VM's points (name or id).
    #[arg(long)]
    pub(crate) vm: Option<String>,
    /// Only this repository's points.
    #[arg(long)]
    pub(crate) repository: Option<String>,
    /// Those that a prune has let go, with when they are deleted.
    #[arg(long)]
    pub(crate) condemned: bool,
    /// Only those of which the last check found this.
    #[arg(long, value_enum)]
    pub(crate) check: Option<Found>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

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

#[derive(Args)]
pub(crate) struct JobsArgs {
    /// Only this job, with its steps.
    pub(crate) id: Option<String>,
    /// Follow the job until it ends; its outcome is the exit status.
    #[arg(long, requires = "id")]
    pub(crate) watch: bool,
    /// Print what was planned and what it took, instead.
    #[arg(long, requires = "id", conflicts_with = "watch", value_enum, value_name = "FORMAT")]
    pub(crate) report: Option<ReportFormat>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For programs.
    Json,
    /// A line for each step, for spreadsheets.
    Csv,
    /// A page that stands alone.
    Html,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Action {
    /// Move the VM, with what its guest wrote, to where it stays.
    Migrate,
    /// Throw away what the guest wrote; of a recovery in place, have the original back.
    Discard,
    /// Keep a recovery in place that has migrated.
    Commit,
    /// Make a recovery point of what the guest wrote, and throw it away then.
    Keep,
}

#[derive(Args)]
pub(crate) struct FinishArgs {
    /// The job.
    pub(crate) id: String,
    /// How it ends.
    pub(crate) action: Action,
    /// Migrate to this directory of the appliance.
    #[arg(long, value_name = "DIR", conflicts_with = "to_datastore")]
    pub(crate) to_directory: Option<PathBuf>,
    /// What its disks are there [default: flat VMDKs].
    #[arg(long, value_enum, value_name = "FORMAT", requires = "to_directory")]
    pub(crate) format: Option<Format>,
    /// Migrate to this datastore.
    #[arg(long, value_name = "NAME")]
    pub(crate) to_datastore: Option<String>,
    #[command(flatten)]
    pub(crate) cut_over: CutOverArgs,
    /// With commit: delete the original, with its disks. Without, it stays, off and renamed.
    #[arg(long)]
    pub(crate) remove_original: bool,
    /// Follow the job until it ends; its outcome is the exit status.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// A job and nothing else.
#[derive(Args)]
pub(crate) struct JobArgs {
    /// The job.
    pub(crate) id: String,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct ExtendArgs {
    /// The job.
    pub(crate) id: String,
    /// It ends by itself so many seconds from now.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) expires_in_seconds: u64,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct CancelArgs {
    /// The job.
    pub(crate) id: String,
    /// Follow the job until it has ended.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// List users.
    Ls(ListArgs),
    /// Make a user. The password is read from the keyboard, standard input or a file.
    Add {
        /// The name to log in with.
        name: String,
        #[command(flatten)]
        grant: GrantArgs,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Change what a user may do.
    Grant {
        /// The user.
        name: String,
        #[command(flatten)]
        grant: GrantArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Set another user's password, and end its sessions.
    Passwd {
        /// The user.
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Remove a user, its sessions and its tokens.
    Rm {
        /// The user.
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// API tokens: for scripts, with an end.
    Token {
        #[command(subcommand)]
        what: TokenCommand,
    },
    /// A second factor: one-time codes from an authenticator app.
    Totp {
        #[command(subcommand)]
        what: TotpCommand,
    },
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the newest records.
    Ls {
        /// How many.
        #[arg(long, default_value_t = 50, value_name = "RECORDS", value_parser = clap::value_parser!(u16).range(1..=1000))]
        last: u16,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Print the whole log, one JSON document per line, and verify it on the way.
    Export {
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Prove that no record was changed, removed or reordered, and print the log's tip.
    Verify {
        /// Verify this export instead of the appliance's log.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The hash that the log must end with, as a verification printed it.
        #[arg(long, value_name = "HASH")]
        tip: Option<String>,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// List tokens, never their texts.
    Ls(ListArgs),
    /// Make a token and print its text, once.
    Add {
        /// What it is for.
        name: String,
        /// Whose it is [default: one's own].
        #[arg(long)]
        user: Option<String>,
        /// What it may do at most [default: what its user may].
        #[arg(long)]
        role: Option<Role>,
        /// When it ends.
        #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=366))]
        expires_in_days: u16,
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Remove a token: it stops working at once.
    Rm {
        /// The token's id, as `ls` shows it.
        id: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

#[derive(Subcommand)]
pub(crate) enum TotpCommand {
    /// Get a secret for an authenticator app.
    Begin {
        /// The user: oneself.
        #[arg(long = "user", default_value = "admin", value_name = "USER")]
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Show a code of it: it is asked for from then on.
    Confirm {
        /// The code that the app shows.
        code: String,
        /// The user: oneself.
        #[arg(long = "user", default_value = "admin", value_name = "USER")]
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Remove a second factor: one's own (with --totp), or that of another as admin.
    Rm {
        /// The user.
        #[arg(long = "user", default_value = "admin", value_name = "USER")]
        name: String,
        #[command(flatten)]
        daemon: DaemonArgs,
    },
}

/// What a user may do.
#[derive(Args)]
pub(crate) struct GrantArgs {
    /// viewer (looks), operator (recovers too) or admin (users and audit too).
    #[arg(long)]
    pub(crate) role: Role,
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
}

/// With what.
#[derive(Args)]
pub(crate) struct ScopeArgs {
    /// Only with this repository; may be given more than once.
    #[arg(long = "only-repository", value_name = "NAME")]
    repositories: Vec<String>,
    /// Only with this target, or `export`; may be given more than once.
    #[arg(long = "only-target", value_name = "NAME")]
    targets: Vec<String>,
}

impl ScopeArgs {
    pub(crate) fn scope(&self) -> Scope {
        let some = |names: &[String]| (!names.is_empty()).then(|| names.iter().cloned().collect());
        Scope { repositories: some(&self.repositories), targets: some(&self.targets) }
    }
}

#[derive(Args)]
pub(crate) struct PasswordArgs {
    /// The file that holds the password.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum TargetCommand {
    /// List configured targets.
    Ls(ListArgs),
    /// Not in this version: targets are added in the configuration file.
    #[command(hide = true)]
    Add,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
