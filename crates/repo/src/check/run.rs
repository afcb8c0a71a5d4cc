use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::book::{Book, Unfinished};
use super::findings::Findings;
use super::{CheckDepth, CheckOptions, CheckProgress, CheckReport, CheckScope};
use crate::id::PackId;
use crate::map::BlockRef;
use crate::map::walk::MapWalk;
use crate::pace::Pace;
use crate::pack::MIN_END_BYTES;
use crate::pack::read::{check_head, read_index};
use crate::store::{Store, StoredPack};
use crate::{DiskManifest, PointId, PointManifest, RepoError, Repository};

/// How often it is written down how far a check is.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// One check.
pub(super) struct Run<'a> {
    pub(super) repository: &'a Repository,
    pub(super) store: Store,
    options: &'a CheckOptions,
    progress: &'a CheckProgress,
    pub(super) cancel: &'a AtomicBool,
    pub(super) pace: Pace,
    /// The packs that there were at the beginning.
    packs: HashMap<PackId, StoredPack>,
    pub(super) findings: Mutex<Findings>,
    begun_at: Timestamp,
    /// Points all of whose blocks were read.
    done: BTreeSet<PointId>,
    /// A point, a disk of it and a leaf of its map: what comes before was read.
    at: Option<(PointId, usize, u64)>,
    /// Blocks that were read up to there, and their bytes.
    read: (u64, u64),
    saved: Instant,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        options: &'a CheckOptions,
        progress: &'a CheckProgress,
        cancel: &'a AtomicBool,
    ) -> Result<Self, RepoError> {
        // What a hot copy has says nothing of the bucket.
        let store = repository.store().as_it_is();
        let packs = store.stored_packs_blocking()?.into_iter();
        let run = Self {
            repository,
            store,
            options,
            progress,
            cancel,
            pace: Pace::new(options.max_bytes_per_second),
            packs: packs.map(|one| (one.pack, one)).collect(),
            findings: Mutex::default(),
            begun_at: Timestamp::now(),
            done: BTreeSet::new(),
            at: None,
            read: (0, 0),
            saved: Instant::now(),
        };
        run.findings.lock().report.depth = options.depth;
        Ok(run)
    }

    pub(super) fn all(mut self) -> Result<CheckReport, RepoError> {
        if self.options.resume && self.options.depth == CheckDepth::Data {
            self.go_on()?;
        }
        let result = self.points().and_then(|()| self.packs());
        match result {
            Ok(()) => self.finish(),
            Err(error) => {
                self.try_save();
                Err(error)
            }
        }
    }

    /// Takes up what was left unfinished.
    fn go_on(&mut self) -> Result<(), RepoError> {
        let mut book = Book::read(&self.store, self.repository.seal())?;
        let scope = &self.options.scope;
        if let Some(unfinished) = book.take_unfinished(scope, self.begun_at) {
            self.begun_at = unfinished.begun_at;
            (self.done, self.at) = (unfinished.done, unfinished.at);
            let mut report = unfinished.report;
            report.resumed_from = Some(self.begun_at);
            self.read = (report.blocks, report.stored_bytes);
            let half_done = self.at.as_ref().map(|(point, ..)| point);
            self.findings.lock().resume(report, &unfinished.bad, half_done);
        }
        Ok(())
    }

    fn points(&mut self) -> Result<(), RepoError> {
        let points = self.wanted()?;
        let total = points.iter().map(PointManifest::size_bytes).sum();
        self.progress.total.store(total, Ordering::Relaxed);
        for point in &points {
            match self.done.contains(&point.id) {
                true => self.pass_over(point)?,
                false => self.point(point)?,
            }
        }
        Ok(())
    }

    fn point(&mut self, point: &PointManifest) -> Result<(), RepoError> {
        self.findings.lock().begin(Some(&point.id));
        let left = self.at.clone().filter(|(id, ..)| *id == point.id);
        for (number, disk) in point.disks.iter().enumerate() {
            let from = match left {
                Some((_, at, _)) if number < at => u64::MAX,
                Some((_, at, leaf)) if number == at => leaf,
                _ => 0,
            };
            self.disk((&point.id, number), disk, from)?;
            self.progress.done.fetch_add(disk.size_bytes, Ordering::Relaxed);
        }
        self.findings.lock().end(self.options.depth, Timestamp::now());
        self.done.insert(point.id.clone());
        self.at = None;
        Ok(())
    }

    /// Remembers the blocks of a point that an earlier run has read, and told what is wrong with it.
    fn pass_over(&self, point: &PointManifest) -> Result<(), RepoError> {
        let (store, seal) = (&self.store, self.repository.seal());
        let walk = |disk: &DiskManifest| {
            let map = MapWalk::open(store, seal, self.repository.block_size(), disk)?;
            for directory in map.directories() {
                for leaf in map.leaves(directory)? {
                    if self.cancel.load(Ordering::Relaxed) {
                        return Err(RepoError::Cancelled);
                    }
                    let blocks = map.blocks(leaf)?;
                    let mut findings = self.findings.lock();
                    blocks.iter().for_each(|(_, block)| findings.was_read(block));
                }
            }
            Ok(())
        };
        for disk in &point.disks {
            match walk(disk) {
                Ok(()) | Err(RepoError::Corrupt { .. } | RepoError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            self.progress.done.fetch_add(disk.size_bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The points that stay, of those that are asked for.
    fn wanted(&self) -> Result<Vec<PointManifest>, RepoError> {
        let going = self.repository.condemned_blocking()?;
        let listing = self.repository.points_blocking()?;
        let mut points = listing.points;
        match &self.options.scope {
            CheckScope::All => {
                points.retain(|point| !going.contains_key(&point.id));
                // Another run has listed these already.
                if self.findings.lock().report.resumed_from.is_none() {
                    for damaged in &listing.damaged {
                        let detail = format!("{}: {}", damaged.object, damaged.reason);
                        self.findings.lock().problem(None, detail);
                    }
                }
            }
            CheckScope::Point(id) => {
                points.retain(|point| point.id == *id);
                if points.is_empty() {
                    let what = format!("a readable recovery point {id}");
                    return Err(RepoError::NotFound { what });
                }
            }
        }
        Ok(points)
    }

    /// Checks a disk of a point. Blocks of leaves before `from` were read by an earlier run.
    fn disk(
        &mut self,
        (point, number): (&PointId, usize),
        disk: &DiskManifest,
        from: u64,
    ) -> Result<(), RepoError> {
        let Self { repository, .. } = *self;
        let (store, seal) = (self.store.clone(), repository.seal());
        let store = &store;
        let map = MapWalk::open(store, seal, repository.block_size(), disk);
        let Some(map) = self.findings.lock().note(None, map)? else { return Ok(()) };
        for directory in map.directories() {
            let leaves = map.leaves(directory);
            let leaves = self.findings.lock().note(None, leaves)?;
            for leaf in leaves.into_iter().flatten() {
                if self.cancel.load(Ordering::Relaxed) {
                    return Err(RepoError::Cancelled);
                }
                let blocks = map.blocks(leaf);
                let blocks = self.findings.lock().note(None, blocks)?.unwrap_or_default();
                let blocks: Vec<_> = blocks.into_iter().map(|(_, block)| block).collect();
                let blocks = self.stored(blocks);
                if leaf.0 < from {
                    let mut findings = self.findings.lock();
                    blocks.iter().for_each(|block| findings.was_read_for_this(block));
                    continue;
                }
                if self.options.depth == CheckDepth::Data {
                    self.blocks(&blocks)?;
                }
                self.at = Some((point.clone(), number, leaf.0 + 1));
                self.read = self.findings.get_mut().read();
                if self.saved.elapsed() >= SAVE_EVERY {
                    self.try_save();
                }
            }
        }
        Ok(())
    }

    /// Those blocks that lie in a pack.
    fn stored(&self, mut blocks: Vec<BlockRef>) -> Vec<BlockRef> {
        let mut findings = self.findings.lock();
        blocks.retain(|block| match self.packs.get(&block.pack) {
            None => {
                findings.lacks(block.pack, "is referred to but missing");
                false
            }
            Some(pack) if block.stored_range().end + MIN_END_BYTES > pack.len => {
                findings.lacks(block.pack, "ends too early");
                false
            }
            Some(_) => true,
        });
        blocks
    }

    /// Packs whole: also what only older or half-written points needed.
    fn packs(&self) -> Result<(), RepoError> {
        if self.options.scope != CheckScope::All {
            return Ok(());
        }
        let (store, seal) = (&self.store, self.repository.seal());
        let going = crate::prune::condemned::packs(store, seal)?;
        self.findings.lock().begin(None);
        for pack in self.packs.keys().filter(|pack| !going.contains(pack)) {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(RepoError::Cancelled);
            }
            let index = check_head(store, *pack).and_then(|()| read_index(store, seal, *pack));
            match index {
                Err(RepoError::Cold { .. }) => self.findings.lock().is_cold(*pack),
                index => {
                    let blocks = self.findings.lock().note(Some(*pack), index)?;
                    if self.options.depth == CheckDepth::Data {
                        self.blocks(&blocks.unwrap_or_default())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Points and packs that a prune has deleted meanwhile are not damaged.
    fn finish(self) -> Result<CheckReport, RepoError> {
        let points = self.existing()?;
        let store = &self.store;
        let packs: HashSet<_> = store.list_packs_blocking()?.into_iter().collect();
        let mut findings = self.findings.into_inner();
        findings.forget_all_but(&points, &packs, |pack| self.packs.contains_key(&pack));
        if self.options.keep {
            let mut write = || {
                let seal = self.repository.seal();
                let mut book = Book::read(store, seal)?;
                book.take_unfinished(&self.options.scope, self.begun_at);
                findings.badges.drain().for_each(|(point, badge)| book.put(point, badge));
                book.write((store, seal), &points, Timestamp::now())
            };
            let written = write();
            findings.report.not_kept = written.err().map(|error| error.to_string());
        }
        Ok(findings.report)
    }

    /// Writes down how far it is. What cannot be written, as to a store that may only be read, is read again by the next.
    fn try_save(&mut self) {
        if let Err(unsaved) = self.save() {
            tracing::debug!("how far a check came is not kept: {unsaved}");
        }
    }

    /// Writes down how far it is, with the badges of the points that are done.
    fn save(&mut self) -> Result<(), RepoError> {
        self.saved = Instant::now();
        if !self.options.keep || self.options.depth != CheckDepth::Data {
            return Ok(());
        }
        let (store, seal) = (&self.store, self.repository.seal());
        let mut book = Book::read(store, seal)?;
        book.take_unfinished(&self.options.scope, self.begun_at);
        let findings = self.findings.lock();
        findings.badges.iter().for_each(|(point, badge)| book.put(point.clone(), badge.clone()));
        book.put_unfinished(Unfinished {
            begun_at: self.begun_at,
            scope: self.options.scope.clone(),
            done: self.done.clone(),
            at: self.at.clone(),
            bad: findings.bad(),
            report: CheckReport {
                blocks: self.read.0,
                stored_bytes: self.read.1,
                ..findings.report.clone()
            },
        });
        drop(findings);
        book.write((store, seal), &self.existing()?, Timestamp::now())
    }

    fn existing(&self) -> Result<BTreeSet<PointId>, RepoError> {
        let places = self.store.list_points_blocking()?;
        Ok(places.into_iter().filter_map(|place| place.ids).map(|(_, point)| point).collect())
    }
}
