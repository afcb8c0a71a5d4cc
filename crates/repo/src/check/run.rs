use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::{CheckProgress, CheckReport, CheckScope, Problem};
use crate::id::PackId;
use crate::map::BlockRef;
use crate::map::walk::MapWalk;
use crate::pack::read::{check_head, read_index};
use crate::{DiskManifest, PointId, RepoError, Repository};

/// Problems that are listed; more are only counted.
const MAX_PROBLEMS: usize = 1000;
/// Blocks that are remembered as verified: 7 million of 33 bytes in a table filled to 7/8 are 277 MB. Beyond, all
/// are forgotten and some verified again.
const MAX_SEEN: usize = 7_000_000;
const MAX_THREADS: usize = 16;

/// One check.
pub(super) struct Run<'a> {
    repository: &'a Repository,
    progress: &'a CheckProgress,
    cancel: &'a AtomicBool,
    /// What was verified: this hash, by its first half, at this place.
    seen: Mutex<HashSet<(PackId, u32, [u8; 16])>>,
    report: Mutex<CheckReport>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        progress: &'a CheckProgress,
        cancel: &'a AtomicBool,
    ) -> Self {
        Self { repository, progress, cancel, seen: Mutex::default(), report: Mutex::default() }
    }

    pub(super) fn all(self, scope: &CheckScope) -> Result<CheckReport, RepoError> {
        self.points(scope)?;
        if *scope == CheckScope::All {
            self.packs()?;
        }
        Ok(self.report.into_inner())
    }

    fn points(&self, scope: &CheckScope) -> Result<(), RepoError> {
        let mut listing = self.repository.points_blocking()?;
        match scope {
            CheckScope::All => {
                for damaged in &listing.damaged {
                    self.problem(None, format!("{}: {}", damaged.object, damaged.reason));
                }
            }
            CheckScope::Point(id) => {
                listing.points.retain(|point| point.id == *id);
                if listing.points.is_empty() {
                    let what = format!("a readable recovery point {id}");
                    return Err(RepoError::NotFound { what });
                }
            }
        }
        let total = listing.points.iter().map(|point| point.size_bytes()).sum();
        self.progress.total.store(total, Ordering::Relaxed);
        for point in &listing.points {
            self.report.lock().points += 1;
            for disk in &point.disks {
                self.disk(&point.id, disk)?;
                self.progress.done.fetch_add(disk.size_bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn disk(&self, point: &PointId, disk: &DiskManifest) -> Result<(), RepoError> {
        let Self { repository, .. } = self;
        let (store, seal) = (repository.store(), repository.seal());
        let map = MapWalk::open(store, seal, repository.block_size(), disk);
        let Some(map) = self.note(Some(point), map)? else { return Ok(()) };
        for directory in map.directories() {
            let leaves = self.note(Some(point), map.leaves(directory))?;
            for leaf in leaves.into_iter().flatten() {
                let blocks = self.note(Some(point), map.blocks(leaf))?.unwrap_or_default();
                let blocks: Vec<_> = blocks.into_iter().map(|(_, block)| block).collect();
                self.blocks(Some(point), &blocks)?;
            }
        }
        Ok(())
    }

    /// Packs whole: also what only older or half-written points needed.
    fn packs(&self) -> Result<(), RepoError> {
        let (store, seal) = (self.repository.store(), self.repository.seal());
        for pack in store.list_packs_blocking()? {
            self.note(None, check_head(store, pack))?;
            let blocks = self.note(None, read_index(store, seal, pack))?;
            self.blocks(None, &blocks.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Verifies blocks on all cores.
    fn blocks(&self, point: Option<&PointId>, blocks: &[BlockRef]) -> Result<(), RepoError> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.block(point, block) {
                    next.store(blocks.len(), Ordering::Relaxed);
                    *failure.lock() = Some(error);
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        thread::scope(|scope| {
            for _ in 1..threads.min(blocks.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn block(&self, point: Option<&PointId>, block: &BlockRef) -> Result<(), RepoError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(RepoError::Cancelled);
        }
        let half = block.hash.as_bytes().first_chunk().copied().unwrap_or_default();
        let key = (block.pack, block.offset, half);
        if self.seen.lock().contains(&key) {
            return Ok(());
        }
        let (store, seal) = (self.repository.store(), self.repository.seal());
        let sound = self.note(point, store.read_block_blocking(seal, block))?.is_some();
        if sound {
            let mut report = self.report.lock();
            report.blocks += 1;
            report.stored_bytes += u64::from(block.stored_len);
        }
        // What is damaged is remembered too: it is reported once.
        let mut seen = self.seen.lock();
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        seen.insert(key);
        Ok(())
    }

    /// Turns damage into a problem; anything else stops the check.
    fn note<T>(
        &self,
        point: Option<&PointId>,
        result: Result<T, RepoError>,
    ) -> Result<Option<T>, RepoError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ (RepoError::Corrupt { .. } | RepoError::NotFound { .. })) => {
                self.problem(point, error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn problem(&self, point: Option<&PointId>, detail: String) {
        let mut report = self.report.lock();
        report.problem_count += 1;
        if report.problems.len() < MAX_PROBLEMS {
            report.problems.push(Problem { point: point.cloned(), detail });
        }
    }
}
