use std::collections::BTreeSet;

use serde::Serialize;

use super::Tier;
use super::needs::packs_of;
use crate::id::PackId;
use crate::store::{Store, Thawed, pack_object};
use crate::{PointManifest, RepoError, Repository};

/// What a move did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MoveReport {
    /// Packs that are in another tier now.
    pub moved: u64,
    /// Bytes of them.
    pub moved_bytes: u64,
    /// Packs that were there already.
    pub there: u64,
    /// Packs that stay where they are because other points need them there.
    pub shared: u64,
}

/// Brings the packs of a point to `tier`, a warm or cold one of the same bucket. Packs that other points share stay at
/// hand for these. What is frozen must be thawed before it can be warm. Blocks on I/O; cut short, it is done again.
pub fn move_point(
    repository: &Repository,
    point: &PointManifest,
    tier: Tier,
) -> Result<MoveReport, RepoError> {
    repository.refuse_images("move recovery points between tiers")?;
    let Store::S3(bucket) = repository.store() else {
        return Err(RepoError::refused("a directory has one tier: hot"));
    };
    if tier == Tier::Hot {
        return Err(RepoError::refused("a bucket has no hot tier: warm, glacier or deep_archive"));
    }
    let needed = packs_of(repository, point)?;
    let shared =
        if tier.is_cold() { needed_by_others(repository, point)? } else { BTreeSet::new() };
    let mut report = MoveReport::default();
    for state in bucket.pack_states_blocking(needed)? {
        if state.tier == tier {
            report.there += 1;
        } else if shared.contains(&state.pack) {
            report.shared += 1;
        } else if state.tier.is_cold() && !matches!(state.thawed, Thawed::Until(_)) {
            return Err(RepoError::Cold { what: pack_object(state.pack) });
        } else {
            bucket.change_tier_blocking(&pack_object(state.pack), state.len, tier)?;
            report.moved += 1;
            report.moved_bytes += state.len;
        }
    }
    Ok(report)
}

fn needed_by_others(
    repository: &Repository,
    point: &PointManifest,
) -> Result<BTreeSet<PackId>, RepoError> {
    let listing = repository.points_blocking()?;
    if let Some(damaged) = listing.damaged.first() {
        let why = format!("what {} needs is unknown: {}", damaged.object, damaged.reason);
        return Err(RepoError::refused(why));
    }
    let mut packs = BTreeSet::new();
    for other in listing.points.iter().filter(|other| other.id != point.id) {
        packs.extend(packs_of(repository, other)?);
    }
    Ok(packs)
}
