//! The steps of the mover: into the cache, or to a directory.
//!
//! A migration to a directory copies and verifies while the guest runs, and then holds its writes:
//! nothing that the guest was told is written can be missing from the copy, and should the last
//! pass fail, the guest simply goes on. It sees a pause, never an error.

use std::path::Path;
use std::sync::Arc;

use rekindle_disk::Disk;
use rekindle_repo::PointManifest;

use super::{Found, Work, files};
use crate::mover::{self, Mover, Resume, Source};
use crate::staging::Staging;
use crate::{ImageFormat, JobError, Step, failure};

impl Work<'_> {
    pub(super) async fn warm(&mut self) -> Result<Found, JobError> {
        if !self.live.warmed {
            let point = self.live.point(self.env, self.record).await?;
            let disks = self.live.disks(self.env, self.record).await?;
            mover::warm(self.env, &disks, &point.maps, &self.status.meter).await?;
            self.live.warmed = true;
        }
        Ok(Found::default())
    }

    fn staging(&self) -> Result<Staging, JobError> {
        let (directory, _) = self.record.directory().ok_or_else(|| {
            JobError::refused("destination_missing", "no directory to migrate to")
        })?;
        Ok(Staging::new(directory, &self.record.id))
    }

    /// The disks with their maps and the files they are copied to.
    async fn sources(&mut self) -> Result<(Vec<Source>, Vec<Arc<Disk>>), JobError> {
        let point = self.live.point(self.env, self.record).await?;
        let disks = self.live.disks(self.env, self.record).await?;
        let staging = self.staging()?;
        let (records, kinds) = (self.record.disks.clone(), self.kinds(&point.manifest));
        let (opened, cache) = (disks.clone(), self.env.cache.clone());
        let sources = failure::blocking(move || {
            let each = records.iter().zip(&opened).zip(&point.maps);
            each.map(|((record, disk), map)| {
                Ok(Source {
                    disk: disk.clone(),
                    map: map.clone(),
                    cache: cache.clone(),
                    image: Arc::new(files::image(&staging, record, &kinds, disk.size())?),
                })
            })
            .collect()
        });
        Ok((sources.await?, disks))
    }

    /// What the disks are where they are copied to.
    fn kinds(&self, point: &PointManifest) -> files::Kinds {
        let format = self.record.directory().map_or(ImageFormat::Flat, |(_, format)| format);
        let adapters = point.disks.iter().map(|disk| disk.adapter.clone()).collect();
        files::Kinds { format, adapters }
    }

    fn mover(&self) -> Mover<'_> {
        Mover::new(self.env, &self.status.meter)
    }

    /// Copies all of the VM, from where an earlier try came to before a restart, and then again what changed meanwhile, until little is left.
    pub(super) async fn copy(&mut self) -> Result<Found, JobError> {
        self.check_snapshots().await?;
        let staging = self.staging()?;
        let _room = self.await_room(staging.clone()).await?;
        let copied = failure::blocking(move || staging.make()).await?;
        let (sources, disks) = self.sources().await?;
        // Before anything is read: what is written from now on is in the next pass.
        self.live.trackers = disks.iter().map(|disk| disk.track_changes()).collect();
        let resume = Resume::new(self.staging()?, copied);
        self.mover().copy(&sources, &self.live.trackers, resume).await?;
        Ok(Found::default())
    }

    /// Reads the copy back and compares it with point and overlay.
    pub(super) async fn verify(&mut self) -> Result<Found, JobError> {
        let (sources, _) = self.sources().await?;
        let how = self.record.request.verification();
        let (suspects, compared) = self.mover().verify(&sources, how).await?;
        self.live.suspects = suspects;
        if self.live.trackers.is_empty() {
            // After a restart nobody knows what changed: the last pass takes all that was written.
            self.live.suspects.clear();
        }
        Ok(Found { compared: Some(compared), ..Found::default() })
    }

    pub(super) async fn freeze(&mut self) -> Result<Found, JobError> {
        let disks = self.live.disks(self.env, self.record).await?;
        self.live.hold(&disks).await;
        Ok(Found::default())
    }

    /// Only a migration that was given up lets the guest write again: after one that was not, what
    /// it wrote would be lost.
    pub(super) fn thaw(&mut self) {
        if !self.record.plan.is_unwinding() {
            self.live.release();
        }
    }

    /// The last pass, with the guest's writes held: what changed last, compared as well, and the
    /// small files. Then all of it is made durable.
    pub(super) async fn settle(&mut self) -> Result<Found, JobError> {
        let (sources, disks) = self.sources().await?;
        // A restart may have come between: no write may pass.
        self.live.hold(&disks).await;
        let trackers = std::mem::take(&mut self.live.trackers);
        let suspects = std::mem::take(&mut self.live.suspects);
        self.mover().settle(&sources, &trackers, &suspects).await?;
        let files = self.final_files(&disks).await?;
        let staging = self.staging()?;
        failure::blocking(move || {
            files.iter().try_for_each(|file| staging.write(file))?;
            staging.forget()?;
            staging.sync()
        })
        .await?;
        Ok(Found::default())
    }

    pub(super) async fn publish(&mut self) -> Result<Found, JobError> {
        let staging = self.staging()?;
        let to = staging.directory().display().to_string();
        failure::blocking(move || staging.publish()).await?;
        let held = self.live.held_since.filter(|_| self.record.plan.has_begun(Step::Freeze));
        let pause = held.map(|at| at.elapsed().as_millis());
        Ok(Found {
            migrated_to: Some(to),
            pause_ms: pause.and_then(|ms| u64::try_from(ms).ok()),
            ..Found::default()
        })
    }

    /// Removes what was not published. What was has another name by now, and stays.
    pub(super) async fn remove_copy(&mut self) -> Result<(), JobError> {
        self.live.trackers.clear();
        let staging = self.staging()?;
        failure::blocking(move || staging.remove()).await
    }

    async fn check_snapshots(&self) -> Result<(), JobError> {
        match self.read_exported(&files::vmx_path(self.record)).await? {
            Some(text) => files::check_snapshots(self.record, &text),
            None => Ok(()),
        }
    }

    async fn read_exported(&self, path: &Path) -> Result<Option<Vec<u8>>, JobError> {
        files::read_exported(self.env, self.record, path).await
    }

    /// The configuration and the firmware's variables as the client left them, and descriptors of
    /// the disks as large as they are now.
    async fn final_files(
        &mut self,
        disks: &[Arc<Disk>],
    ) -> Result<Vec<files::SmallFile>, JobError> {
        let point = self.live.point(self.env, self.record).await?;
        let (mut files, _) = files::small_files(&point.manifest, self.record)?;
        let sizes: Vec<u64> = disks.iter().map(|disk| disk.size()).collect();
        let size = |wanted: &crate::journal::DiskRecord| {
            let at = self.record.disks.iter().position(|disk| disk.id == wanted.id);
            at.and_then(|at| sizes.get(at)).copied().unwrap_or(wanted.size)
        };
        let descriptors = files::descriptors(&point.manifest, self.record, size);
        files.retain(|file| descriptors.iter().all(|d| d.name != file.name));
        let kinds = self.kinds(&point.manifest);
        if kinds.format == ImageFormat::Flat {
            files.extend(descriptors);
        }
        for path in [files::vmx_path(self.record), files::nvram_path(self.record)] {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(bytes) = self.read_exported(&path).await? {
                let mode = files.iter().find(|f| f.name == name).map_or(0o600, |f| f.mode);
                files.retain(|file| file.name != name);
                files.push(files::SmallFile { name, bytes, mode });
            }
        }
        files::name_images(&mut files, self.record, kinds.format)?;
        Ok(files)
    }
}
