use std::collections::{BTreeMap, BTreeSet};

use super::{HotCopy, HotLimits, HotPoint, list_object};
use crate::store::{Writer, pack_of};
use crate::{PointId, RepoError, Repository};

/// A part of the file system that stays free: one of so many.
const FREE_PART: u64 = 20;

type Objects = BTreeMap<String, u64>;

/// What wants to be in the hot copy.
pub(super) struct Wish<'a> {
    pub(super) point: &'a PointId,
    pub(super) objects: &'a Objects,
    pub(super) limits: HotLimits,
    pub(super) keep: &'a BTreeSet<PointId>,
}

/// Makes room for a point, and says which others went. If there can be none, none goes.
pub(super) fn make(
    copy: &HotCopy<'_>,
    writer: &Writer,
    wish: Wish<'_>,
) -> Result<Vec<PointId>, RepoError> {
    let here = copy.objects()?;
    let new: u64 =
        wish.objects.iter().filter(|one| here.get(one.0) != Some(one.1)).map(|one| one.1).sum();
    let max = wish.limits.max_bytes.min(fits(copy, &here, new)?);
    let others = copy.points()?.into_iter().filter(|other| other.point != *wish.point);
    let others: Vec<HotPoint> = others.collect();
    // What was copied for a point and cut short waits for it, as long as there is room.
    if sum(here.iter().chain(wish.objects)) <= max {
        return Ok(Vec::new());
    }
    let dropped = plan(&wish, &others, max)?;
    for point in &dropped {
        writer.remove(&list_object(point))?;
    }
    sweep(copy, writer, wish.objects)?;
    Ok(dropped)
}

/// How many bytes the directory may have before too little of its file system is free.
fn fits(copy: &HotCopy<'_>, here: &Objects, new: u64) -> Result<u64, RepoError> {
    let space = nix::sys::statvfs::statvfs(copy.dir.root());
    let space = space.map_err(|e| RepoError::io("look at the free space", e.into()))?;
    let unit = space.fragment_size();
    let free = space.blocks_available().saturating_mul(unit);
    let stays = space.blocks().saturating_mul(unit) / FREE_PART;
    if free >= stays.saturating_add(new) {
        return Ok(u64::MAX);
    }
    Ok((here.values().sum::<u64>() + free).saturating_sub(stays))
}

/// Which points go, the oldest first, until all that is left has at most `max` bytes.
fn plan(wish: &Wish<'_>, others: &[HotPoint], max: u64) -> Result<Vec<PointId>, RepoError> {
    let mut dropped = Vec::new();
    let mut left: Vec<&HotPoint> = others.iter().collect();
    loop {
        let all = left.iter().flat_map(|other| &other.objects).chain(wish.objects);
        if sum(all) <= max {
            return Ok(dropped);
        }
        let oldest = left.iter().position(|other| !wish.keep.contains(&other.point));
        let Some(oldest) = oldest else {
            let wanted = sum(wish.objects.iter());
            let why = format!(
                "there is no room for a hot copy of {wanted} bytes: there may be {max} in all"
            );
            return Err(RepoError::refused(why));
        };
        dropped.push(left.remove(oldest).point.clone());
    }
}

/// The bytes of objects, of which some are named several times.
fn sum<'a>(objects: impl Iterator<Item = (&'a String, &'a u64)>) -> u64 {
    objects.collect::<BTreeMap<_, _>>().into_values().sum()
}

/// Deletes what neither a point names nor `keep`; says how many bytes that were.
pub(super) fn sweep(copy: &HotCopy<'_>, writer: &Writer, keep: &Objects) -> Result<u64, RepoError> {
    let points = copy.points()?;
    let named: BTreeSet<&String> = points.iter().flat_map(|point| point.objects.keys()).collect();
    let mut gone = copy.objects()?;
    gone.retain(|object, _| !named.contains(object) && !keep.contains_key(object));
    writer.remove_all(&gone.keys().cloned().collect::<Vec<_>>())?;
    let packs: Vec<_> = gone.keys().filter_map(|object| pack_of(object)).collect();
    copy.dir.forget_packs(&packs);
    Ok(gone.values().sum())
}

/// Takes a point out of the hot copy, with what no other needs; says how many bytes that freed. That it is not there is
/// success. Blocks on file I/O.
pub fn drop_hot(repository: &Repository, point: &PointId) -> Result<u64, RepoError> {
    let copy = HotCopy::of(repository)?;
    let writer = Writer::begin(&copy.store())?;
    writer.remove_all(&[list_object(point)])?;
    sweep(&copy, &writer, &Objects::new())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn point(name: &str, objects: &[(&str, u64)]) -> HotPoint {
        let objects = objects.iter().map(|(object, len)| ((*object).to_owned(), *len)).collect();
        HotPoint { point: name.parse().unwrap(), copied_at: Timestamp::UNIX_EPOCH, objects }
    }

    /// Which of the others go for a new point that needs a pack of its own and one that is shared with the second.
    fn gone(max: u64, keep: &[&str]) -> Option<String> {
        let others = [
            point("p1", &[("a", 10), ("b", 10)]),
            point("p2", &[("b", 10), ("c", 10)]),
            point("p3", &[("d", 10)]),
        ];
        let wished = point("p4", &[("c", 10), ("e", 10)]);
        let keep = keep.iter().map(|name| name.parse().unwrap()).collect();
        let limits = HotLimits { max_bytes: max, max_bytes_per_second: 0 };
        let wish = Wish { point: &wished.point, objects: &wished.objects, limits, keep: &keep };
        let names =
            |gone: Vec<PointId>| gone.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        plan(&wish, &others, max).ok().map(names)
    }

    #[test]
    fn the_oldest_go_until_there_is_room_and_what_is_shared_counts_once() {
        assert_eq!(gone(50, &[]).unwrap(), "");
        assert_eq!(gone(49, &[]).unwrap(), "p1", "a goes, b is shared");
        assert_eq!(gone(39, &[]).unwrap(), "p1 p2", "b goes, c is wanted");
        assert_eq!(gone(29, &[]).unwrap(), "p1 p2 p3");
        assert_eq!(gone(20, &[]).unwrap(), "p1 p2 p3");
        assert_eq!(gone(19, &[]), None, "it has 20 itself");
        assert_eq!(gone(49, &["p1"]).unwrap(), "p2 p3", "b is shared with what stays");
        assert_eq!(gone(39, &["p1"]), None, "and nothing goes");
    }
}
