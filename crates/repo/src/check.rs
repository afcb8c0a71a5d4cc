//! Reads stored points again and verifies them.

mod run;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::{PointId, RepoError, Repository};
use run::Run;

/// What to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckScope {
    /// Every point, and every pack whether a point needs it or not.
    All,
    /// One point and what it needs.
    Point(PointId),
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
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Points that were checked.
    pub points: u64,
    /// Blocks that were read and verified.
    pub blocks: u64,
    /// Bytes that were read for them.
    pub stored_bytes: u64,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first thousand of them.
    pub problems: Vec<Problem>,
}

/// Something stored that is not what was written.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The point that it was found through, if through one. Others may need the same object.
    pub point: Option<PointId>,
    /// What it is.
    pub detail: String,
}

impl CheckReport {
    /// Whether everything is as it was written.
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }
}

/// Reads again what `scope` says and verifies every byte of it. Blocks; uses one thread per core. Damage is in the
/// report; an error means that the check itself could not go on.
pub fn check(
    repository: &Repository,
    scope: &CheckScope,
    progress: &CheckProgress,
    cancel: &AtomicBool,
) -> Result<CheckReport, RepoError> {
    repository.refuse_images("be checked: it has no hashes of its content")?;
    Run::new(repository, progress, cancel).all(scope)
}
