use clap::{Args, ValueEnum};

/// How a migration comes to its end.
#[derive(Args, Default)]
pub(crate) struct CutOverArgs {
    /// Who moves the VM to another datastore [default: the host while it runs, where it can; otherwise with a short pause].
    #[arg(long, value_enum, value_name = "METHOD")]
    pub(crate) cut_over: Option<CutOver>,
    /// How the guest is stopped for that pause [default: shut-down].
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) stop: Option<Stop>,
    /// Give the guest so long to shut down; then it runs on, and the migration is given up [default: 300].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_within: Option<u64>,
    /// How much of a copy that the appliance compares it compares: full, or sampled:PERCENT or sampled:PERCENT:SEED [default: full].
    #[arg(long, value_name = "HOW")]
    pub(crate) verify: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CutOver {
    /// The vCenter, while it runs.
    Relocate,
    /// It is copied while it runs, then stopped and started where the copy is.
    LowPause,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Stop {
    /// By its guest, asked by its tools.
    ShutDown,
    /// By its power, as when that fails.
    PowerOff,
}
