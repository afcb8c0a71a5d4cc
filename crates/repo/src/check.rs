//! Reads stored points again and verifies them.
//!
//! A check of the *structure* reads manifests, maps and the indices of packs, and finds every block in a pack that is
//! there and long enough. One of the *data* also reads every block and compares it with its hash. What is found is kept
//! in the repository, so that each point has a [`Badge`].
//!
//! # Crash
//!
//! A check of the data writes down how far it is each minute and when it is stopped; the next one of the same scope goes
//! on from there. Blocks that were read are then only looked up in the maps again.
//!
//! # Others at work
//!
//! Points that are condemned are passed over, and what is found wrong with a point or pack that a prune has
//! deleted meanwhile is nothing wrong. Ingests are not held up: what is found is written without the lock.

mod blocks;
mod book;
mod findings;
mod run;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use book::Badge;
pub(crate) use book::Book;

use crate::{PointId, RepoError, Repository};
use run::Run;

/// What to check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckScope {
    /// Every point, and every pack whether a point needs it or not.
    #[default]
    All,
    /// One point and what it needs.
    Point(PointId),
}

/// How deep to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckDepth {
    /// Manifests, maps and the indices of packs.
    Structure,
    /// Every block, too.
    #[default]
    Data,
}

impl CheckDepth {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Data => "data",
        }
    }
}

/// How to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// What.
    pub scope: CheckScope,
    /// How deep.
    pub depth: CheckDepth,
    /// The most bytes of blocks that are read a second.
    pub max_bytes_per_second: Option<u64>,
    /// Whether what is found is kept in the repository.
    pub keep: bool,
    /// Whether a check that was left unfinished is gone on with.
    pub resume: bool,
}

/// How far a check is.
#[derive(Debug, Default)]
pub struct CheckProgress {
    total: AtomicU64,
    done: AtomicU64,
}

impl CheckProgress {
    /// Bytes of disks in all.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes of disks that are dealt with.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckReport {
    /// How deep it went.
    pub depth: CheckDepth,
    /// Points that were checked.
    pub points: u64,
    /// Points that are damaged.
    pub damaged_points: u64,
    /// Blocks that were read and verified.
    pub blocks: u64,
    /// Bytes that were read for them.
    pub stored_bytes: u64,
    /// Packs in a cold tier, whose blocks cannot be read before they are thawed. Points that need one have their structure
    /// checked only.
    pub cold_packs: u64,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first thousand of them.
    pub problems: Vec<Problem>,
    /// When it was first begun, if it went on from where one was left.
    pub resumed_from: Option<Timestamp>,
    /// Why what was found is not kept although it should be.
    pub not_kept: Option<String>,
}

/// Something stored that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The point that it was found through, if through one. Others may need the same object.
    pub point: Option<PointId>,
    /// The pack, in hexadecimal, if it is a block or the index of one.
    pub pack: Option<String>,
    /// What it is.
    pub detail: String,
}

impl CheckReport {
    /// Whether everything is as it was written.
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }
}

/// `Refused` for a repository that cannot be checked: one of images.
pub fn checkable(repository: &Repository) -> Result<(), RepoError> {
    repository.refuse_images("be checked: it has no hashes of its content")
}

/// Reads again what `options` say and verifies every byte of it. Blocks; uses one thread per core, and on S3 more. Damage
/// is in the report; an error means that the check itself could not go on.
pub fn check(
    repository: &Repository,
    options: &CheckOptions,
    progress: &CheckProgress,
    cancel: &AtomicBool,
) -> Result<CheckReport, RepoError> {
    checkable(repository)?;
    Run::new(repository, options, progress, cancel)?.all()
}
