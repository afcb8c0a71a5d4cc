//! Writes a recovery point from a VM's files.

mod blocks;
mod changes;
mod conveyor;
mod known;
mod machine;
mod options;
mod packs;
mod parent;
pub(crate) mod source;
mod successor;
mod verification;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jiff::Timestamp;
use parking_lot::RwLock;
use rekindle_image::Image;

pub use changes::{Changes, MAX_CHANGES_BYTES};
pub use machine::{Machine, MachineDisk};
use options::DEFAULT_LEVEL;
pub use options::{COMPRESSION_LEVELS, IngestCounts, IngestOptions, IngestProgress, IngestReport};
pub use successor::{Successor, SuccessorDisk};

use crate::map::Shape;
use crate::map::build::MapBuilder;
use crate::map::seal::MapSeal;
use crate::map::walk::MapWalk;
use crate::prune::condemned;
use crate::store::{Writer, map_object, point_object};
use crate::{DiskManifest, MapId, PointId, PointManifest, RepoError, Repository};
use blocks::Blocks;
use changes::ChangedBlocks;
use known::Known;
use packs::Packs;
use parent::ParentBlocks;
use source::Source;
use verification::Verification;

/// Ingests `source` as a new recovery point: a `.vmx` or `.ovf` with its disks beside it, an `.ova`, or a
/// bare disk image.
///
/// Blocks until it is done; uses one thread per core. `progress` can be watched and `cancel` set from any
/// other thread. Nothing is visible until it returns `Ok`: an ingest that is cancelled or killed can be run
/// again at once, and finds the blocks of the packs it had finished. When the repository is full, what this
/// ingest wrote is taken back.
pub fn ingest(
    repository: &Repository,
    source: &Path,
    options: &IngestOptions,
    progress: &IngestProgress,
    cancel: &AtomicBool,
) -> Result<IngestReport, RepoError> {
    repository.refuse_images("take in recovery points")?;
    options.validate()?;
    take_in(repository, Source::open(source, options)?, options, progress, cancel)
}

/// The same for a VM that is read from its host. Its disks are read one after another, each from its first byte to its
/// last; what has come and is not stored yet is at most 68 MiB.
pub fn ingest_machine(
    repository: &Repository,
    machine: Machine,
    options: &IngestOptions,
    progress: &IngestProgress,
    cancel: &AtomicBool,
) -> Result<IngestReport, RepoError> {
    repository.refuse_images("take in recovery points")?;
    options.validate()?;
    let result =
        take_in(repository, Source::from_machine(machine, options)?, options, progress, cancel);
    match result {
        // Who is asked to stop fails to wait for the host.
        Err(RepoError::Unavailable { .. }) if cancel.load(Ordering::Relaxed) => {
            Err(RepoError::Cancelled)
        }
        result => result,
    }
}

/// The same for a VM that ran on from a recovery point: what was written over its disks is read, and of what is not in
/// it nothing; the rest comes from the point's maps. What `options` say of changes does not count.
pub fn ingest_successor(
    repository: &Repository,
    successor: Successor,
    options: &IngestOptions,
    progress: &IngestProgress,
    cancel: &AtomicBool,
) -> Result<IngestReport, RepoError> {
    repository.refuse_images("take in recovery points")?;
    options.validate()?;
    let (source, changes) = Source::from_successor(successor)?;
    let options = IngestOptions { changes: Some(changes), ..options.clone() };
    take_in(repository, source, &options, progress, cancel)
}

fn take_in(
    repository: &Repository,
    source: Source,
    options: &IngestOptions,
    progress: &IngestProgress,
    cancel: &AtomicBool,
) -> Result<IngestReport, RepoError> {
    progress.start(source.size_bytes());
    let writer = Writer::begin_after(repository.store(), options.abandoned_after)?;
    let known = RwLock::new(Known::load(repository.store(), repository.seal(), cancel)?);
    let mut packs = Packs::new(&writer, repository.seal(), &known);
    let base = options.changes.as_ref().map(|changes| base(repository, changes, &source));
    let base = base.transpose()?;
    let run = Run { repository, writer: &writer, source, base, options, progress, cancel };
    let result = run.write_point(&mut packs);
    if matches!(result, Err(RepoError::Full)) {
        packs.take_back();
    }
    result
}

/// One ingest.
struct Run<'a> {
    repository: &'a Repository,
    writer: &'a Writer,
    source: Source,
    /// The point that unchanged blocks are taken from.
    base: Option<PointManifest>,
    options: &'a IngestOptions,
    progress: &'a IngestProgress,
    cancel: &'a AtomicBool,
}

impl Run<'_> {
    /// Order matters, because a crash may fall between any two steps:
    ///
    /// 1. packs and maps, synced    crash here: nobody refers to them; the next ingest reuses the packs
    /// 2. a look at what a prune has condemned meanwhile
    /// 3. the manifest, synced      crash after: the point is there, and whole
    fn write_point(mut self, packs: &mut Packs<'_>) -> Result<IngestReport, RepoError> {
        let (package, stop) = (self.source.package.take(), AtomicBool::new(false));
        thread::scope(|scope| {
            let verification = Verification::start(scope, package, &stop, self.cancel);
            self.write_verified(packs, verification)
        })
    }

    fn write_verified(
        mut self,
        packs: &mut Packs<'_>,
        mut verification: Verification<'_>,
    ) -> Result<IngestReport, RepoError> {
        let created_at = self.options.created_at.unwrap_or_else(Timestamp::now);
        let mut disks = Vec::new();
        let mut maps = Vec::new();
        for disk in std::mem::take(&mut self.source.disks) {
            let mut manifest = disk.manifest;
            let written = match disk.image.open(manifest.size_bytes) {
                Ok(image) => self.write_disk(&image, &mut manifest, packs, &mut maps),
                Err(error) => Err(error),
            };
            if let Err(error) = written.and_then(|()| verification.check_so_far()) {
                self.remove_maps(&maps);
                return Err(error);
            }
            disks.push(manifest);
        }
        let point = PointManifest {
            id: PointId::new(created_at)?,
            vm: self.source.vm.clone(),
            created_at,
            vmx: self.source.vmx.clone(),
            nvram: self.source.nvram.clone(),
            disks,
            parent: self.parent()?,
            tags: self.options.tags.clone(),
        };
        let seal = self.repository.seal();
        let object = point_object(&seal.folder(&point.vm.id)?, &point.id);
        let published = verification
            .finish()
            .and_then(|()| packs.finish())
            .and_then(|()| point.encode_for(seal, &object))
            .and_then(|bytes| {
                let (store, now) = (self.repository.store(), Timestamp::now());
                condemned::check_publish(store, seal, &packs.used, &maps, now)?;
                Ok(bytes)
            })
            .and_then(|bytes| self.writer.put(&object, &bytes));
        if let Err(error) = published {
            self.remove_maps(&maps);
            return Err(error);
        }
        Ok(self.progress.report(point))
    }

    fn write_disk(
        &self,
        image: &Image,
        manifest: &mut DiskManifest,
        packs: &mut Packs<'_>,
        maps: &mut Vec<MapId>,
    ) -> Result<(), RepoError> {
        let block_size = self.repository.block_size();
        let shape = Shape::new(block_size, image.size())
            .ok_or_else(|| RepoError::refused(format!("a disk of {} bytes", image.size())))?;
        let seal = self.repository.seal();
        let map_seal = MapSeal::new(seal.clone(), manifest.map.clone());
        let sink = self.writer.create(map_object(&manifest.map))?;
        let mut map = MapBuilder::new(shape, map_seal, sink)?;
        let (changed, parent) = self.unchanged(image, &shape, manifest)?;
        let (progress, cancel) = (self.progress, self.cancel);
        let level = self.options.compression_level.unwrap_or(DEFAULT_LEVEL);
        let blocks = Blocks { image, shape, seal, changed, level, progress, cancel };
        manifest.stored_bytes = blocks.write(parent, packs, &mut map)?;
        image.check_unchanged().map_err(source::refuse)?;
        let finished = map.finish()?;
        finished.sink.publish()?;
        maps.push(manifest.map.clone());
        (manifest.map_bytes, manifest.map_hash) = (finished.bytes, finished.hash);
        Ok(())
    }

    /// What of a disk is to be read, and where the rest comes from. A disk that the older point has not is read whole.
    fn unchanged(
        &self,
        image: &Image,
        shape: &Shape,
        manifest: &DiskManifest,
    ) -> Result<(ChangedBlocks, Option<ParentBlocks<'_>>), RepoError> {
        if let (Some(changes), Some(base)) = (&self.options.changes, &self.base)
            && let Some(disk) = parent::disk_of(base, manifest, changes.tells_growth())?
        {
            let changed = changes.of_disk(&manifest.key, image, shape)?;
            let (store, seal) = (self.repository.store(), self.repository.seal());
            let map = MapWalk::open(store, seal, shape.block_size, disk)?;
            return Ok((changed, Some(ParentBlocks::new(map))));
        }
        Ok((ChangedBlocks::all(shape), None))
    }

    /// The point that this one was made from, else the VM's newest so far; ids sort by time.
    fn parent(&self) -> Result<Option<PointId>, RepoError> {
        if let Some(base) = &self.base {
            return Ok(Some(base.id.clone()));
        }
        let folder = self.repository.seal().folder(&self.source.vm.id)?;
        let points = self.repository.store().list_points_blocking()?;
        let ours = points.into_iter().filter_map(|place| place.ids);
        Ok(ours.filter(|(vm, _)| *vm == folder).map(|(_, point)| point).max())
    }

    /// Maps of a point that will not be. Left behind they would only take space.
    fn remove_maps(&self, maps: &[MapId]) {
        for map in maps {
            if let Err(error) = self.writer.remove(&map_object(map)) {
                tracing::warn!(%map, "cannot remove a map that nothing refers to: {error}");
            }
        }
    }
}

/// The point that `changes` count from, which must be of the VM of `source`.
fn base(
    repository: &Repository,
    changes: &Changes,
    source: &Source,
) -> Result<PointManifest, RepoError> {
    let base = repository.point_blocking(&changes.parent)?;
    if let Some(at) = repository.goes_after_blocking(&base.id)? {
        return Err(RepoError::refused(format!(
            "point {} was let go by a prune and is deleted after {at}: ingest from a newer one",
            base.id
        )));
    }
    if base.vm.id != source.vm.id {
        return Err(RepoError::refused(format!(
            "point {} is of the VM {}, and what is ingested is {}",
            base.id, base.vm.id, source.vm.id
        )));
    }
    let keys: Vec<&str> = source.disks.iter().map(|disk| disk.manifest.key.as_str()).collect();
    changes.check_disks(&keys)?;
    Ok(base)
}
