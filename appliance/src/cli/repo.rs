//! Repositories: made, listed, read into, opened.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{CheckArgs, ConfigArgs, ListArgs, PruneArgs, UpkeepArgs};

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
