//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;

mod batch;
mod cut_over;
mod format;
mod in_place;
mod jobs;
mod keep;
mod notify;
mod recover;
mod repo;
mod state;
mod upkeep;
mod user;

pub(crate) use batch::{BatchCommand, ResumeArgs, StartArgs};
pub(crate) use cut_over::{CutOver, CutOverArgs, Stop};
pub(crate) use format::Format;
pub(crate) use in_place::InPlaceArgs;
pub(crate) use jobs::{
    Action, CancelArgs, ExtendArgs, FinishArgs, JobArgs, JobsArgs, ReportFormat, TopArgs,
};
pub(crate) use keep::KeepArgs;
pub(crate) use notify::NotifyCommand;
pub(crate) use recover::{HardwareArgs, KeepOrNew, Migration, Networks, RecoverArgs};
pub(crate) use repo::{
    ColdArgs, IngestArgs, OpenArgs, PasskeyArgs, PasskeyCommand, RepoCommand, RetrievalArg, S3Args,
    TierArg,
};
pub(crate) use state::{RestoreArgs, StateCommand};
pub(crate) use upkeep::{CheckArgs, Found, PruneArgs, UpkeepArgs};
pub(crate) use user::{AuditCommand, GrantArgs, TokenCommand, TotpCommand, UserCommand};

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
    /// Show what guests ask for, how long they wait and what room is left, again and again.
    Top(TopArgs),
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
    /// Make and list backups of the appliance's own state, or restore it from one.
    State {
        #[command(subcommand)]
        what: StateCommand,
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
    /// The form of the log. RUST_LOG chooses what is in it.
    #[arg(long, env = "REKINDLE_LOG_FORMAT", value_enum, default_value = "auto")]
    #[arg(value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text on a terminal, else JSON
    Auto,
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
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
