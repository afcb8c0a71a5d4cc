use std::sync::Arc;
use std::time::Instant;

use rekindle_disk::{Base, ChangeTracker, Disk, DiskId, WriteHold};
use rekindle_repo::{DiskMap, Kept, PointId, PointManifest};

use crate::boot::Boot;
use crate::env::Env;
use crate::failure;
use crate::journal::{Record, unavailable};
use crate::{JobError, Outcome, Step};

/// What a job holds in memory while it runs. All of it can be had again from the record.
#[derive(Default)]
pub(crate) struct Live {
    point: Option<Arc<Point>>,
    disks: Vec<Arc<Disk>>,
    /// The boot profile's replay and recording.
    pub(crate) boot: Option<Boot>,
    /// Whether the mover has read the VM into the cache.
    pub(crate) warmed: bool,
    /// How long what is thawed stays, if that was found out since the start.
    pub(crate) thawed: Option<Kept>,
    /// Writes are held while these live.
    pub(crate) holds: Vec<WriteHold>,
    pub(crate) held_since: Option<Instant>,
    /// What changed since the copy was last brought up to date, per disk; empty after a restart.
    pub(crate) trackers: Vec<ChangeTracker>,
    /// Blocks whose copy differed from the disk when it was verified, per disk. They must have
    /// been written since.
    pub(crate) suspects: Vec<Vec<rekindle_block::BlockIdx>>,
}

/// A recovery point with its disks' maps.
pub(crate) struct Point {
    pub(crate) manifest: PointManifest,
    pub(crate) maps: Vec<DiskMap>,
}

impl Live {
    /// The recovery point, opened. Of a job that goes on from another one's VM it has the small files that this had.
    pub(crate) async fn point(
        &mut self,
        env: &Env,
        record: &Record,
    ) -> Result<Arc<Point>, JobError> {
        if let Some(point) = &self.point {
            return Ok(point.clone());
        }
        let repository = env.repository(&record.repository)?;
        let id: PointId = record
            .point
            .parse()
            .map_err(|_| JobError::NotFound { what: "point", name: record.point.clone() })?;
        let opened = repository.point(&id).await;
        let mut manifest = opened.map_err(|e| failure::repo("open the recovery point", e))?;
        if record.request.from_job.is_some() {
            let (origins, job) = (env.origins.clone(), record.id.clone());
            let origin = failure::blocking(move || origins.get(&job).map_err(unavailable)).await?;
            if let Some(origin) = origin {
                (manifest.vmx, manifest.nvram) = (origin.vmx, origin.nvram);
            }
        }
        let mut maps = Vec::with_capacity(record.disks.len());
        for disk in &record.disks {
            let map = repository.open_disk(&manifest, disk.index).await;
            maps.push(map.map_err(|e| failure::repo("open the disk's map", e))?);
        }
        let point = Arc::new(Point { manifest, maps });
        self.point = Some(point.clone());
        Ok(point)
    }

    /// It is opened again when it is asked for.
    pub(crate) fn forget_point(&mut self) {
        self.point = None;
    }

    /// The recovery point, if it is opened already.
    pub(crate) fn opened(&self) -> Option<&Arc<Point>> {
        self.point.as_ref()
    }

    /// The disks, attached to their overlays, in the order of the record.
    pub(crate) async fn disks(
        &mut self,
        env: &Env,
        record: &Record,
    ) -> Result<Vec<Arc<Disk>>, JobError> {
        if self.disks.len() == record.disks.len() {
            return Ok(self.disks.clone());
        }
        let point = self.point(env, record).await?;
        let mut disks = Vec::with_capacity(record.disks.len());
        for (disk, map) in record.disks.iter().zip(&point.maps) {
            let (all, id) = (env.disks.clone(), disk_id(&disk.id)?);
            let base = Base::Point { map: map.clone(), cache: env.cache.clone() };
            let attached = failure::blocking(move || {
                all.attach(&id, base).map_err(|e| failure::disk("attach the disk", e))
            });
            disks.push(attached.await?);
        }
        env.overlays.set(&record.id, &disks);
        self.disks = disks.clone();
        Ok(disks)
    }

    /// Lets go of the disks and of all that came with them.
    pub(crate) fn drop_disks(&mut self) {
        self.boot = None;
        self.trackers.clear();
        self.holds.clear();
        self.disks.clear();
    }

    /// Brings back what a restart took away: the export, the disks in it, and the hold on writes of
    /// a migration that had begun its last pass. Called before NFS listens.
    ///
    /// A job that has migrated gets no disks back: what a client wrote now would be lost.
    pub(crate) async fn restore(&mut self, env: &Env, record: &Record) -> Result<(), JobError> {
        let migrated = record.outcome == Some(Outcome::Migrated);
        if !record.plan.has_begun(Step::Export) || (migrated && record.place.datastore.is_none()) {
            return Ok(());
        }
        let export = crate::steps::export::add(env, record).await?;
        if migrated || !record.plan.has_done(Step::Overlay) {
            return Ok(());
        }
        let disks = self.disks(env, record).await?;
        if record.plan.has_begun(Step::Freeze) {
            self.hold(&disks).await;
        }
        let ids: Result<Vec<DiskId>, JobError> =
            record.disks.iter().map(|disk| disk_id(&disk.id)).collect();
        let ids = ids?;
        failure::blocking(move || {
            for (id, disk) in ids.iter().zip(disks) {
                // False if the client removed the file: then there is nothing to serve.
                let attached = export.reattach_disk(id, disk);
                attached.map_err(|e| failure::nfs("attach the disk to the export", e))?;
            }
            Ok(())
        })
        .await
    }

    /// Holds the writes of all disks; those in flight are done when it returns.
    pub(crate) async fn hold(&mut self, disks: &[Arc<Disk>]) {
        self.held_since.get_or_insert_with(Instant::now);
        for disk in disks.iter().skip(self.holds.len()) {
            let hold = disk.hold_writes().await;
            self.holds.push(hold);
        }
    }

    /// Lets the guest write again.
    pub(crate) fn release(&mut self) {
        self.holds.clear();
        self.held_since = None;
    }
}

/// An overlay's name from the journal.
pub(crate) fn disk_id(text: &str) -> Result<DiskId, JobError> {
    DiskId::new(text).map_err(|e| failure::disk("read a disk's name", e))
}
