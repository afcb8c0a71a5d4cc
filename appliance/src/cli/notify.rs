use clap::Subcommand;

use super::DaemonArgs;

#[derive(Subcommand)]
pub(crate) enum NotifyCommand {
    /// List the channels that are told what happens: webhooks, mail, syslog.
    Ls(DaemonArgs),
    /// Send a test event to each channel and say what came back.
    Test(DaemonArgs),
}
