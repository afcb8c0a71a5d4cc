use clap::Args;

use super::DaemonArgs;

#[derive(Args)]
pub(crate) struct KeepArgs {
    /// The job: it serves, or is kept.
    pub(crate) id: String,
    /// A word to find the point by; may be given more than once.
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}
