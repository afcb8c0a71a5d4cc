use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{HotCopy, HotLimits, HotReport, copy_hot, hot_points, list_object, room};
use crate::store::Writer;
use crate::{PointId, PointListing, PointManifest, RepoError, Repository};

/// Copies the newest point of each VM, the newest of all first: where there is no room for all, it is theirs. None of
/// them goes for another. Points that are no more go, and when all are there, so does what no point needs. `told` hears
/// what became of each that was not there. Blocks, like [`copy_hot`].
pub fn copy_newest_hot(
    repository: &Repository,
    listing: PointListing,
    limits: HotLimits,
    cancelled: &dyn Fn() -> bool,
    told: &mut dyn FnMut(&PointId, Result<HotReport, RepoError>),
) -> Result<(), RepoError> {
    let sound = listing.damaged.is_empty();
    let ids: BTreeSet<PointId> = listing.points.iter().map(|point| point.id.clone()).collect();
    let newest = newest(listing.points);
    let keep: BTreeSet<PointId> = newest.iter().map(|point| point.id.clone()).collect();
    let here = hot_points(repository)?;
    let mut all = true;
    for point in newest.iter().filter(|point| !here.contains(&point.id)) {
        let copied = copy_hot(repository, point, limits, &keep, cancelled);
        if matches!(copied, Err(RepoError::Cancelled)) {
            // What was copied is found by the next.
            return Err(RepoError::Cancelled);
        }
        all &= copied.is_ok();
        told(&point.id, copied);
    }
    if all && sound { tidy(repository, &ids) } else { Ok(()) }
}

/// Takes away points that are none of `ids`, and what no point needs.
fn tidy(repository: &Repository, ids: &BTreeSet<PointId>) -> Result<(), RepoError> {
    let copy = HotCopy::of(repository)?;
    let writer = Writer::begin(&copy.store())?;
    let here = hot_points(repository)?;
    let gone: Vec<String> = here.difference(ids).map(list_object).collect();
    writer.remove_all(&gone)?;
    room::sweep(&copy, &writer, &BTreeMap::new()).map(drop)
}

fn newest(points: Vec<PointManifest>) -> Vec<PointManifest> {
    let mut newest: BTreeMap<String, PointManifest> = BTreeMap::new();
    for point in points {
        let vm = point.vm.id.to_string();
        if newest.get(&vm).is_none_or(|other| other.created_at < point.created_at) {
            newest.insert(vm, point);
        }
    }
    let mut newest: Vec<_> = newest.into_values().collect();
    newest.sort_by_key(|point| Reverse(point.created_at));
    newest
}
