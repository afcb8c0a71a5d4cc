use clap::{Args, ValueEnum};
use rekindle_repo::{PointId, Retention};

use super::{ConfigArgs, DaemonArgs, OpenArgs, PasskeyArgs};

#[derive(Args)]
pub(crate) struct PruneArgs {
    /// A configured name; with --without-appliance also a directory, or s3://BUCKET/PREFIX.
    pub(crate) repository: String,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    /// How long what is let go can be taken back and is not deleted: more than twice the longest ingest
    /// [default: prune_grace_hours of the configuration, or 72].
    #[arg(long, value_name = "HOURS")]
    pub(crate) grace_hours: Option<u32>,
    /// Let this recovery point go whatever is kept; may be given more than once.
    #[arg(long, value_name = "POINT")]
    pub(crate) drop: Vec<PointId>,
    /// Take this recovery point back; may be given more than once.
    #[arg(long, value_name = "POINT")]
    pub(crate) spare: Vec<PointId>,
    /// Change nothing and say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Prune from here, and not by the running appliance, which knows what its recoveries use: only where no
    /// appliance uses the repository. Then --grace-hours 0 deletes at once; nothing may be ingested meanwhile.
    #[arg(long)]
    pub(crate) without_appliance: bool,
    #[command(flatten)]
    pub(crate) passkey: PasskeyArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", conflicts_with = "without_appliance")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// Which points of each VM stay, by days, weeks (from Monday), months and years of UTC. One of these given, none
/// that is configured counts.
#[derive(Args)]
pub(crate) struct KeepArgs {
    /// Keep the newest so many [default: keep_last of the configuration; the same for the others].
    #[arg(long, value_name = "POINTS")]
    keep_last: Option<u32>,
    /// Keep the newest of each of so many days that have one.
    #[arg(long, value_name = "DAYS")]
    keep_daily: Option<u32>,
    /// The same for weeks.
    #[arg(long, value_name = "WEEKS")]
    keep_weekly: Option<u32>,
    /// The same for months.
    #[arg(long, value_name = "MONTHS")]
    keep_monthly: Option<u32>,
    /// The same for years.
    #[arg(long, value_name = "YEARS")]
    keep_yearly: Option<u32>,
    /// Keep whatever has this tag; may be given more than once.
    #[arg(long = "keep-tag", value_name = "TAG")]
    keep_tags: Vec<String>,
}

impl KeepArgs {
    /// What was asked for, if anything was.
    pub(crate) fn retention(&self) -> Option<Retention> {
        let Self { keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly, keep_tags } =
            self;
        let counts = [keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly];
        if counts.iter().all(|count| count.is_none()) && keep_tags.is_empty() {
            return None;
        }
        let [last, daily, weekly, monthly, yearly] = counts.map(|count| count.unwrap_or_default());
        let tags = keep_tags.iter().cloned().collect();
        Some(Retention { last, daily, weekly, monthly, yearly, tags })
    }
}

#[derive(Args)]
pub(crate) struct UpkeepArgs {
    /// Its configured name.
    pub(crate) repository: String,
    /// Stop it.
    #[arg(long)]
    pub(crate) stop: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Only this recovery point and what it needs.
    #[arg(long, value_name = "POINT")]
    pub(crate) point: Option<PointId>,
    /// Only manifests, maps and the indices of packs, and no block.
    #[arg(long)]
    pub(crate) structure: bool,
    /// Read at most so many MB (1 000 000 bytes) of blocks a second.
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_mb_per_second: Option<u32>,
    /// Begin anew, and do not go on with one that was stopped.
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Keep nothing of what is found in the repository.
    #[arg(long, conflicts_with = "by_appliance")]
    pub(crate) keep_nothing: bool,
    /// Have the running appliance do it, by the configured name.
    #[arg(long)]
    pub(crate) by_appliance: bool,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Found {
    /// By the last check.
    Sound,
    /// By the last check.
    Damaged,
    /// By none.
    Unchecked,
}

impl Found {
    /// As the API has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Damaged => "damaged",
            Self::Unchecked => "unchecked",
        }
    }
}
