use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ConfigArgs, DaemonArgs};

#[derive(Subcommand)]
pub(crate) enum StateCommand {
    /// Make a backup now, into the directory that is configured for them, and say where it is.
    Backup(DaemonArgs),
    /// List the backups that there are.
    Ls(DaemonArgs),
    /// Make the state directory of a backup. Needs no running appliance, and a state directory without state.
    Restore(RestoreArgs),
}

#[derive(Args)]
pub(crate) struct RestoreArgs {
    /// The backup.
    pub(crate) file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}
