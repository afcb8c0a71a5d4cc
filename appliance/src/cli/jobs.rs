//! Jobs: shown, ended, taken back.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CutOverArgs, DaemonArgs, Format};

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

#[derive(Args)]
pub(crate) struct TopArgs {
    /// Seconds between two looks, which is what rates are over.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
    /// End after so many looks [default: when it is interrupted].
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
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
