use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use super::condemned::{Condemned, CondemnedPoint};
use super::reach::Reach;
use super::report::{PruneCounts, PruneReport};
use crate::id::PackId;
use crate::store::{Store, StoredPack};
use crate::{MapId, PointId, RepoError};

/// All maps and packs there are.
pub(super) struct Stored {
    pub(super) maps: Vec<MapId>,
    pub(super) packs: HashMap<PackId, StoredPack>,
}

impl Stored {
    pub(super) fn list(store: &Store) -> Result<Self, RepoError> {
        let maps = store.list_blocking("maps/")?;
        let maps = maps.iter().filter_map(|object| {
            object.strip_prefix("maps/")?.strip_suffix(".map")?.parse::<MapId>().ok()
        });
        let packs = store.stored_packs_blocking()?.into_iter();
        Ok(Self { maps: maps.collect(), packs: packs.map(|one| (one.pack, one)).collect() })
    }
}

/// A list and its object.
pub(super) type Listed = (String, Condemned);

/// What is condemned, by whether its time has come.
pub(super) struct Lists {
    pub(super) due: Vec<Listed>,
    pub(super) waiting: Vec<Listed>,
}

impl Lists {
    pub(super) fn new(lists: Vec<Listed>, now: Timestamp) -> Self {
        let (due, waiting) = lists.into_iter().partition(|(_, list)| list.is_due(now));
        Self { due, waiting }
    }

    fn named(lists: &[Listed]) -> BTreeSet<PointId> {
        let points = lists.iter().flat_map(|(_, list)| &list.points);
        points.map(|one| one.point.clone()).collect()
    }

    /// Points whose time has come.
    pub(super) fn due_points(&self) -> BTreeSet<PointId> {
        Self::named(&self.due)
    }

    /// Points that have time left; one that is also due is not among them.
    pub(super) fn waiting_points(&self) -> BTreeSet<PointId> {
        &Self::named(&self.waiting) - &self.due_points()
    }
}

/// What is deleted, in this order, and what is condemned. Made without I/O.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) points: BTreeSet<CondemnedPoint>,
    pub(super) maps: Vec<MapId>,
    pub(super) packs: Vec<PackId>,
    /// Lists that are done with.
    pub(super) lists: Vec<String>,
    pub(super) condemn: Option<Condemned>,
}

impl Plan {
    /// Deletes what is due and none needs. `needed` is what all points but those that are due refer to.
    pub(super) fn sweep(&mut self, due: &[Listed], needed: &Reach) {
        self.points = due.iter().flat_map(|(_, list)| list.points.iter().cloned()).collect();
        let maps = due.iter().flat_map(|(_, list)| &list.maps);
        let maps: HashSet<&MapId> = maps.filter(|map| !needed.maps.contains(map)).collect();
        self.maps = maps.into_iter().cloned().collect();
        let packs = due.iter().flat_map(|(_, list)| &list.packs);
        let packs: HashSet<PackId> =
            packs.filter(|pack| !needed.packs.contains(pack)).copied().collect();
        self.packs = packs.into_iter().collect();
        self.lists = due.iter().map(|(object, _)| object.clone()).collect();
    }

    /// Condemns `points`, and of what is `stored` what those that stay do not need and no list names.
    pub(super) fn condemn(
        &mut self,
        mut list: Condemned,
        points: Vec<CondemnedPoint>,
        (stored, needed): (&Stored, &Reach),
        lists: &Lists,
    ) {
        let listed = || lists.due.iter().chain(&lists.waiting).map(|(_, list)| list);
        let maps: HashSet<&MapId> = listed().flat_map(|list| &list.maps).collect();
        let packs: HashSet<&PackId> = listed().flat_map(|list| &list.packs).collect();
        let new = stored.maps.iter().filter(|map| !needed.maps.contains(map));
        list.maps = new.filter(|map| !maps.contains(map)).cloned().collect();
        let new = stored.packs.keys().filter(|pack| !needed.packs.contains(pack));
        list.packs = new.filter(|pack| !packs.contains(pack)).copied().collect();
        list.points = points;
        self.condemn = (list.names() > 0).then_some(list);
    }

    /// Counts all of it.
    pub(super) fn count(&self, lists: &Lists, stored: &Stored, now: Timestamp) -> PruneReport {
        let mut report = PruneReport::default();
        let removed = Condemned {
            points: self.points.iter().cloned().collect(),
            maps: self.maps.clone(),
            packs: self.packs.clone(),
            ..Condemned::empty(now, jiff::SignedDuration::ZERO)
        };
        report.removed = PruneCounts::of(&removed, stored, now);
        if !self.lists.is_empty() {
            let maps: HashSet<&MapId> = self.maps.iter().collect();
            let packs: HashSet<&PackId> = self.packs.iter().collect();
            for (_, list) in &lists.due {
                let mut kept = list.clone();
                kept.points.clear();
                kept.maps.retain(|map| !maps.contains(map));
                kept.packs.retain(|pack| !packs.contains(pack));
                report.spared.add(&PruneCounts::of(&kept, stored, now));
            }
        }
        for (_, list) in &lists.waiting {
            report.waiting.add(&PruneCounts::of(list, stored, list.delete_after));
        }
        let coming = lists.waiting.iter().map(|(_, list)| list).chain(&self.condemn);
        report.next_at = coming.map(|list| list.delete_after).min();
        if let Some(list) = &self.condemn {
            report.condemned = PruneCounts::of(list, stored, list.delete_after);
        }
        report
    }
}
