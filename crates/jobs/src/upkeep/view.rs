use jiff::Timestamp;
use rekindle_repo::{CheckReport, PruneReport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeepReport;
use crate::ErrorView;

/// Upkeep of one repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UpkeepView {
    /// What is under way.
    pub running: Option<UpkeepRunning>,
    /// How the last prune since the start ended, also one that changed nothing.
    pub prune: Option<UpkeepEnd<PruneReport>>,
    /// How the last check since the start ended.
    pub check: Option<UpkeepEnd<CheckReport>>,
    /// How the last point that was made of what a guest wrote ended, since the start.
    #[serde(default)]
    pub keep: Option<UpkeepEnd<KeepReport>>,
}

/// What upkeep there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpkeepKind {
    /// What is not needed goes.
    Prune,
    /// What is stored is verified.
    Check,
    /// What a guest wrote becomes a recovery point.
    Keep,
}

impl UpkeepKind {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prune => "prune",
            Self::Check => "check",
            Self::Keep => "keep",
        }
    }
}

/// What is under way, and how far it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UpkeepRunning {
    /// What it is.
    pub kind: UpkeepKind,
    /// Since when.
    pub begun_at: Timestamp,
    /// Bytes of disks that are dealt with.
    pub done_bytes: u64,
    /// Bytes of disks in all, once that is known.
    pub total_bytes: u64,
}

/// How it ended: with a report or an error.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UpkeepEnd<R> {
    /// When it began.
    pub begun_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// What it did.
    pub report: Option<R>,
    /// Why it did not come to its end.
    pub error: Option<ErrorView>,
}
