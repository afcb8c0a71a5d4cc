use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DaemonArgs;

#[derive(Subcommand)]
pub(crate) enum BatchCommand {
    /// Start what a JSON file describes: ordered groups of recoveries, with delays and gates.
    Start(StartArgs),
    /// List batches.
    Ls(DaemonArgs),
    /// Show a batch: its groups, their VMs and gates.
    Show(ShowArgs),
    /// Begin no more of a batch's groups. The jobs that were begun go on.
    Cancel(EndArgs),
    /// Let a batch that was halted go on.
    Resume(ResumeArgs),
}

#[derive(Args)]
pub(crate) struct StartArgs {
    /// The file, in the form of `POST /api/v1/batches`; `-` reads standard input.
    pub(crate) file: PathBuf,
    /// A file with a passkey of the sealed repositories that it recovers from.
    #[arg(long, value_name = "FILE")]
    pub(crate) passkey_file: Option<PathBuf>,
    /// Follow it until its last group is up, or it ends otherwise.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// The batch.
    pub(crate) id: String,
    /// Follow it until it has ended.
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct ResumeArgs {
    /// The batch.
    pub(crate) id: String,
    /// Pass over the group that is not up [default: retry what failed of it].
    #[arg(long)]
    pub(crate) skip: bool,
    /// Follow it until its last group is up, or it ends otherwise.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct EndArgs {
    /// The batch.
    pub(crate) id: String,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}
