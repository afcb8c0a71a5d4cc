use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::condemned::{self, Condemned, CondemnedPoint};
use super::plan::{Listed, Lists, Plan, Stored};
use super::reach::Reach;
use super::retention::Named;
use super::{PruneOptions, PruneProgress, PruneReport, Verdict};
use crate::store::{Writer, map_object, pack_object, place_of, point_object};
use crate::{PointId, PointListing, PointManifest, RepoError, Repository};

/// One prune.
pub(super) struct Run<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions,
    in_use: &'a (dyn Fn() -> BTreeSet<PointId> + Sync),
    progress: &'a PruneProgress,
    cancel: &'a AtomicBool,
    /// None in a dry run. In a directory nobody else writes while it is held.
    writer: Option<Writer>,
    /// Changes that may still be made: fewer in tests of what a crash leaves.
    pub(super) changes_left: usize,
}

/// Points by what becomes of them.
struct Sorted {
    verdicts: Vec<Verdict>,
    /// The retention keeps them, or nothing lets them go.
    stay: Vec<PointManifest>,
    /// They are condemned now, or have time left.
    linger: Vec<PointManifest>,
    /// Where the manifests of those lie that are condemned now.
    go: Vec<CondemnedPoint>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        options: &'a PruneOptions,
        in_use: &'a (dyn Fn() -> BTreeSet<PointId> + Sync),
        (progress, cancel): (&'a PruneProgress, &'a AtomicBool),
    ) -> Result<Self, RepoError> {
        let writer = match options.dry_run {
            true => None,
            false => {
                // An ingest takes less than half of it.
                let grace = options.grace.try_into().ok();
                Some(Writer::begin_after(repository.store(), grace)?)
            }
        };
        Ok(Self { repository, options, in_use, progress, cancel, writer, changes_left: usize::MAX })
    }

    pub(super) fn all(mut self) -> Result<PruneReport, RepoError> {
        let now = self.options.now;
        let (store, seal) = (self.repository.store(), self.repository.seal());
        let mut lists = condemned::read_all(store, seal)?;
        // Listed before the points are, so that what is written meanwhile is not taken for needless.
        let stored = Stored::list(store)?;
        let listing = self.repository.points_blocking()?;
        let used = (self.in_use)();
        let back = self.take_back(&mut lists, &listing.points, &used)?;
        let lists = Lists::new(lists, now);
        let sorted = self.sort(listing, &lists, &used)?;
        let lingering = if lists.due.is_empty() { &[] } else { &sorted.linger[..] };
        let marked = sorted.stay.iter().chain(lingering);
        self.progress.start(marked.fold(0, |sum, point| sum.saturating_add(point.size_bytes())));
        let mut needed = Reach::default();
        for point in &sorted.stay {
            self.mark(&mut needed, point)?.map_err(|why| unknown_needs(&why))?;
        }
        let mut plan = Plan::default();
        let list = Condemned::empty(now, self.options.grace);
        plan.condemn(list, sorted.go, (&stored, &needed), &lists);
        let mut held_up = None;
        for point in lingering {
            held_up = held_up.or(self.mark(&mut needed, point)?.err());
        }
        if held_up.is_none() {
            plan.sweep(&lists.due, &needed);
        }
        let mut report = plan.count(&lists, &stored, now);
        (report.dry_run, report.held_up) = (self.options.dry_run, held_up);
        (report.verdicts, report.spared.points) = (sorted.verdicts, back);
        self.sweep(&plan)?;
        if let Some(list) = plan.condemn {
            self.condemn(list)?;
        }
        Ok(report)
    }

    /// Step 1. How many points that is.
    fn take_back(
        &mut self,
        lists: &mut [Listed],
        points: &[PointManifest],
        used: &BTreeSet<PointId>,
    ) -> Result<u64, RepoError> {
        let wanted = used | &self.options.spare;
        let named: BTreeSet<PointId> = lists
            .iter()
            .flat_map(|(_, list)| list.points.iter().map(|one| one.point.clone()))
            .collect();
        let back: BTreeSet<PointId> = named.intersection(&wanted).cloned().collect();
        if back.is_empty() {
            return Ok(0);
        }
        let mut needed = Reach::default();
        for point in points.iter().filter(|point| back.contains(&point.id)) {
            needed.add(self.repository, point, self.cancel)?;
        }
        for (object, list) in lists {
            if list.spare(&back, &needed) {
                let old = std::mem::replace(object, list.object()?);
                if list.names() > 0 {
                    self.put(object, list)?;
                }
                self.remove(&[old])?;
            }
        }
        Ok(back.len() as u64)
    }

    /// What becomes of each point. One that cannot be read and is not to go is an error.
    fn sort(
        &self,
        listing: PointListing,
        lists: &Lists,
        used: &BTreeSet<PointId>,
    ) -> Result<Sorted, RepoError> {
        let (due, waiting) = (lists.due_points(), lists.waiting_points());
        let PruneOptions { drop, spare, .. } = self.options;
        let mut go = Vec::new();
        for one in listing.damaged {
            match place_of(one.object.clone()).ids {
                Some((_, id)) if due.contains(&id) || waiting.contains(&id) => {}
                Some((folder, point)) if drop.contains(&point) => {
                    go.push(CondemnedPoint { folder, point });
                }
                _ => return Err(unknown_needs(&format!("{}: {}", one.object, one.reason))),
            }
        }
        let points = listing.points.into_iter().filter(|point| !due.contains(&point.id));
        let (mut linger, judged): (Vec<_>, Vec<_>) =
            points.partition(|point| waiting.contains(&point.id));
        let named = Named { in_use: used, spare, drop };
        let verdicts = self.options.retention.judge(&judged, &named)?;
        let goes = verdicts.iter().filter(|verdict| verdict.kept_by.is_empty());
        let goes: BTreeSet<&PointId> = goes.map(|verdict| &verdict.point).collect();
        let (going, stay): (Vec<_>, Vec<_>) =
            judged.into_iter().partition(|point| goes.contains(&point.id));
        for point in &going {
            let folder = self.repository.seal().folder(&point.vm.id)?;
            go.push(CondemnedPoint { folder, point: point.id.clone() });
        }
        linger.extend(going);
        Ok(Sorted { verdicts, stay, linger, go })
    }

    /// Adds what `point` needs, or tells why nobody knows that.
    fn mark(
        &self,
        needed: &mut Reach,
        point: &PointManifest,
    ) -> Result<Result<(), String>, RepoError> {
        let marked = needed.add(self.repository, point, self.cancel);
        self.progress.add(point.size_bytes());
        match marked {
            Ok(()) => Ok(Ok(())),
            Err(error @ RepoError::Corrupt { .. }) => {
                Ok(Err(format!("recovery point {}: {error}", point.id)))
            }
            Err(error) => Err(error),
        }
    }

    /// Step 2.
    fn sweep(&mut self, plan: &Plan) -> Result<(), RepoError> {
        let used = (self.in_use)();
        if let Some(point) = plan.points.iter().find(|one| used.contains(&one.point)) {
            return Err(RepoError::Unavailable {
                what: "delete what was condemned".into(),
                source: anyhow::anyhow!("a recovery of {} has begun meanwhile", point.point),
            });
        }
        let points = plan.points.iter().map(|one| point_object(&one.folder, &one.point));
        self.remove(&points.collect::<Vec<_>>())?;
        self.remove(&plan.maps.iter().map(map_object).collect::<Vec<_>>())?;
        let packs = plan.packs.iter().map(|pack| pack_object(*pack));
        self.remove(&packs.collect::<Vec<_>>())?;
        self.repository.store().forget_packs(&plan.packs);
        self.remove(&plan.lists)
    }

    /// Step 3, in parts of a bounded size. The points are in the first, but any part alone does no harm: what it
    /// names is looked for again before it goes.
    fn condemn(&mut self, mut list: Condemned) -> Result<(), RepoError> {
        while list.names() > 0 {
            let part = list.split_off();
            self.put(&part.object()?, &part)?;
        }
        Ok(())
    }

    fn put(&mut self, object: &str, list: &Condemned) -> Result<(), RepoError> {
        self.may_change()?;
        let bytes = list.encode(self.repository.seal(), object)?;
        self.writer.as_ref().map_or(Ok(()), |writer| writer.put(object, &bytes))
    }

    /// Deletes objects, of which some may be gone already. When it returns, they are durably.
    fn remove(&mut self, objects: &[String]) -> Result<(), RepoError> {
        for part in objects.chunks(REMOVED_AT_ONCE) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(RepoError::Cancelled);
            }
            self.may_change()?;
            if let Some(writer) = &self.writer {
                writer.remove_all(part)?;
            }
        }
        Ok(())
    }

    fn may_change(&mut self) -> Result<(), RepoError> {
        self.changes_left = self.changes_left.checked_sub(1).ok_or(RepoError::Cancelled)?;
        Ok(())
    }
}

/// Objects that are deleted between two looks at the flag that stops it; in tests a crash falls between any two.
const REMOVED_AT_ONCE: usize = if cfg!(test) { 1 } else { 100 };

fn unknown_needs(why: &str) -> RepoError {
    RepoError::refused(format!(
        "nothing is pruned, as nobody knows what a damaged point needs: check the repository, and drop the point if it is lost ({why})"
    ))
}
