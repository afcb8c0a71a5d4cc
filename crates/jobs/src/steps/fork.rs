//! Disks that begin as those of a running VM are.
//!
//! # Crash order
//!
//! 1. What a try before left is thrown away, unless all of the disks are there: then all of this is done.
//!    *Cut: some of that is left, and thrown away by the next try.*
//! 2. The other job's driver freezes its disks at one moment, and reads the small files. *Cut: nothing is this job's yet.*
//! 3. The small files are kept. *Cut: kept for disks that are not there, and replaced.*
//! 4. A disk is put over each layer. *Cut: some are there: all over again, of a later moment.* Kept after the disks, the
//!    files could be of another moment than they are.
//!
//! To take it back, the disks are discarded and then the small files forgotten. What is frozen stays for as long as a disk
//! lies over it, this job's or the other's, whichever ends first.

use std::sync::Arc;

use rekindle_disk::{DiskError, DiskId, Disks, Layer};

use super::{Copied, Found, Work};
use crate::journal::unavailable;
use crate::live::disk_id;
use crate::{JobError, JobId, failure};

/// How often a moment is taken again because its layers were merged with others before a disk lay over them.
const TRIES: usize = 4;

impl Work<'_> {
    /// Makes the disks over what `source` has now.
    pub(super) async fn fork(&mut self, source: &JobId) -> Result<Found, JobError> {
        let ids = self.record.disks.iter().map(|disk| disk_id(&disk.id));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        if !self.has_all(&ids) {
            let mut tries = 1;
            while !self.fork_once(source, &ids).await? {
                if tries == TRIES {
                    let why = "what was frozen of the job was merged before it was used: ask again";
                    return Err(JobError::conflict("source_changed", why));
                }
                tries += 1;
            }
        }
        // Opened anew: with the small files that were kept.
        self.live.forget_point();
        let disks = self.live.disks(self.env, self.record).await?;
        let mut sizes = Vec::with_capacity(disks.len());
        for disk in disks {
            let size = disk.size().next_multiple_of(512);
            let grown = disk.set_size(size).await;
            grown.map_err(|e| failure::disk("round the disk's size", e))?;
            sizes.push(size);
        }
        let point = self.live.point(self.env, self.record).await?;
        let copied = Copied { sizes, nvram: point.manifest.nvram.is_some() };
        Ok(Found { copied: Some(Box::new(copied)), ..Found::default() })
    }

    fn has_all(&self, ids: &[DiskId]) -> bool {
        let known = self.env.disks.list();
        ids.iter().all(|id| known.contains(id))
    }

    /// False if what was frozen is no layer of its own any more.
    async fn fork_once(&self, source: &JobId, ids: &[DiskId]) -> Result<bool, JobError> {
        let (disks, old) = (self.env.disks.clone(), ids.to_vec());
        failure::blocking(move || discard_all(&disks, &old)).await?;
        let still = self.env.inboxes.still(source).await?;
        let (origins, job, origin) =
            (self.env.origins.clone(), self.record.id.clone(), still.origin()?);
        let (disks, ids) = (self.env.disks.clone(), ids.to_vec());
        let keys: Vec<String> = self.record.disks.iter().map(|disk| disk.key.clone()).collect();
        failure::blocking(move || {
            let layers = keys.iter().map(|key| still.layer(key).ok_or_else(changed));
            let layers = layers.collect::<Result<Vec<_>, _>>()?;
            origins.put(&job, &origin).map_err(unavailable)?;
            fork_all(&disks, &ids, &layers)
        })
        .await
    }
}

fn changed() -> JobError {
    JobError::conflict("source_changed", "the job has other disks than its recovery point")
}

fn fork_all(disks: &Disks, ids: &[DiskId], layers: &[Arc<Layer>]) -> Result<bool, JobError> {
    for (id, layer) in ids.iter().zip(layers) {
        match disks.fork(id, layer) {
            Ok(()) => {}
            Err(DiskError::Gone) => return Ok(false),
            Err(error) => return Err(failure::disk("put a disk over what is frozen", error)),
        }
    }
    Ok(true)
}

fn discard_all(disks: &Disks, ids: &[DiskId]) -> Result<(), JobError> {
    let discard = |id| disks.discard(id).map_err(|e| failure::disk("discard the overlay", e));
    ids.iter().try_for_each(discard)
}
