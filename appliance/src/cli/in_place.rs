use clap::Args;

/// A recovery in the place of the original, which steps aside until the recovery is committed.
#[derive(Args)]
pub(crate) struct InPlaceArgs {
    /// Power the original off, rename it and run the recovered VM under its name, until `finish ID commit` or `discard`.
    /// The original is the VM with the backed-up VM's name, or name:NAME, uuid:UUID or moref:ID.
    #[arg(
        long,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        requires = "target",
        conflicts_with_all = ["mount", "disk_only", "full", "disks", "name", "name_prefix", "name_suffix"]
    )]
    pub(crate) in_place: Option<String>,
    /// Give the original's guest so long to shut down before its power is cut.
    #[arg(long, value_name = "SECONDS", requires = "in_place")]
    pub(crate) shut_down_seconds: Option<u64>,
    /// Set this behind the original's name [default: " (before JOB)"].
    #[arg(long, value_name = "TEXT", requires = "in_place")]
    pub(crate) aside_suffix: Option<String>,
}
