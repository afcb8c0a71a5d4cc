//! Takes away points that a retention lets go, and what no point needs.
//!
//! Nothing is deleted when it is found to be needed by nobody: it is *condemned* first, in an object that says from
//! when on it may go, and taken away by a prune after that time, which looks again. A grace time is in between, which
//! must be longer than twice the longest ingest.
//!
//! A prune reads the lists of what is condemned, then what is stored, then the points, then the maps of those that stay;
//! decides ([`plan`]); and then does, in this order:
//!
//! 1. Points that are in use, or to be spared, are taken off the lists that name them, with what they need: the rest of
//!    such a list is written as a new one, then the old one goes.
//! 2. What was condemned, whose time has come and that none of the other points needs is deleted: manifests, then
//!    maps, then packs, then the lists. Each kind is durably gone before the next.
//! 3. Points that the retention lets go, and maps and packs that none of the others needs, are condemned. From here on
//!    listings pass these points over, and ingests these packs.
//!
//! # Crash
//!
//! Between any two steps: a list that was not written condemns nothing; of two that say the same each does no harm; one
//! that is due is worked off by the next prune, from its first name on, which finds some of them gone. A manifest goes
//! before what it needs, so no point is ever there in part; and a list goes last, so nothing is forgotten. What a killed
//! ingest left is needed by no point and goes the same way.
//!
//! # Others at work
//!
//! - An ingest that began before may refer to a condemned pack. It looks at the lists before it writes its manifest, and
//!   gives up if half of a list's grace is over; so what it publishes is there before the second look. Then it looks
//!   whether all is there: a list that it never saw may have been worked off.
//! - An ingest that began after refers to no condemned pack.
//! - A recovery under way has its point named by `in_use`: that point stays, and what it needs, and is taken off a list
//!   that another appliance wrote. Of a recovery on another appliance nothing is known here: that one has the grace
//!   time to prune, too, and so to take back what it uses.
//! - Two prunes at once work off the same lists and condemn the same things twice, which does no harm.
//!
//! # Bounds
//!
//! 140 MB for leaves that were read, 16 bytes for each pack and 48 for each map there is.

pub(crate) mod condemned;
mod plan;
mod reach;
mod report;
mod retention;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use jiff::{SignedDuration, Timestamp};

pub use report::{PruneCounts, PruneProgress, PruneReport};
pub use retention::{KeptBy, Retention, Verdict};

use crate::{PointId, RepoError, Repository};
use run::Run;

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Which points stay.
    pub retention: Retention,
    /// Points that go whatever the retention says, also such as cannot be read.
    pub drop: BTreeSet<PointId>,
    /// Condemned points that are taken back, and are not condemned again this time.
    pub spare: BTreeSet<PointId>,
    /// How long what is condemned stays: more than twice the longest ingest. Zero: it goes at once, which is safe only
    /// where nobody else uses the repository.
    pub grace: SignedDuration,
    /// The time it is.
    pub now: Timestamp,
    /// Changes nothing and says what would be done.
    pub dry_run: bool,
}

/// `Refused` for a repository that is never pruned: one of images, which others made.
pub fn prunable(repository: &Repository) -> Result<(), RepoError> {
    repository.refuse_images("be pruned: what is in it is not ours")
}

/// Prunes a repository. `in_use` names the points that recoveries use; it is asked again before points are deleted.
/// Blocks on I/O.
///
/// `Refused` if a point that should stay cannot be read, or a list: nobody knows then what is needed. `Unavailable` if
/// somebody else is writing to a directory.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    in_use: &(dyn Fn() -> BTreeSet<PointId> + Sync),
    progress: &PruneProgress,
    cancel: &AtomicBool,
) -> Result<PruneReport, RepoError> {
    prunable(repository)?;
    let pass = || Run::new(repository, options, in_use, (progress, cancel))?.all();
    let mut report = pass()?;
    if options.grace.is_zero() && !options.dry_run {
        let second = pass()?;
        report.removed.add(&second.removed);
        report.condemned = second.condemned;
        report.next_at = second.next_at;
    }
    Ok(report)
}
