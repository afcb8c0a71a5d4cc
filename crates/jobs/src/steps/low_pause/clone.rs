//! The copy that the host makes, read back and compared.

use std::sync::Arc;
use std::time::Duration;

use rekindle_cache::Priority;
use rekindle_disk::{ChangeTracker, Disk};
use tokio::time::{Instant, sleep};

use super::super::{Found, Work};
use crate::journal::HostMount;
use crate::mover::{Sample, sample};
use crate::progress::Limiter;
use crate::target::{FileReader, Link};
use crate::{Compared, JobError, Phase, Verification, failure};

/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;
/// For how long what an earlier try left is tried to be removed: the host may still be writing it.
const REMOVE_PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two tries.
const REMOVE_PAUSE: Duration = Duration::from_secs(1);

impl Work<'_> {
    /// Begins anew each time: nobody knows how much of a copy that was cut short is there.
    pub(in super::super) async fn clone_disks(&mut self) -> Result<Found, JobError> {
        let _moving = self.await_move().await?;
        let (link, mount, _) = self.link()?;
        let home = self.new_home()?;
        self.clear_home(&home).await?;
        link.make_dir(mount, &home).await?;
        let meter = &self.status.meter;
        let total = self.record.disks.iter().map(|disk| disk.size).sum();
        let _working = meter.begin(Phase::Copy, total);
        let mut before = 0;
        for disk in &self.record.disks {
            let folder = &self.record.place.folder;
            let from = format!("[{}] {folder}/{}", mount.datastore, disk.descriptor);
            let to = format!("{home}/{}", disk.descriptor);
            let size = disk.size;
            let progress =
                move |percent: u8| meter.set(before + size / 100 * u64::from(percent.min(100)));
            link.copy_disk(mount, (&from, &to), progress).await?;
            before += size;
        }
        Ok(Found::default())
    }

    async fn clear_home(&self, home: &str) -> Result<(), JobError> {
        let (link, mount, _) = self.link()?;
        link.end_copies(home).await?;
        let end = Instant::now() + REMOVE_PATIENCE;
        loop {
            match link.remove_dir(mount, home).await {
                Err(JobError::Refused { .. }) if Instant::now() < end => sleep(REMOVE_PAUSE).await,
                removed => return removed,
            }
        }
    }

    /// What has migrated stays.
    pub(in super::super) async fn remove_clone(&mut self) -> Result<(), JobError> {
        if self.has_migrated() {
            return Ok(());
        }
        let (link, mount, _) = self.link()?;
        let home = self.new_home()?;
        link.end_copies(&home).await?;
        link.remove_dir(mount, &home).await
    }

    /// Every byte of the copy is that of our disks, which nobody has written to since; or each of a sample, where the host
    /// gives parts of a file. Of one that does not all is compared, as all must be read.
    pub(in super::super) async fn compare(&mut self) -> Result<Found, JobError> {
        let disks = self.live.disks(self.env, self.record).await?;
        let (link, mount, _) = self.link()?;
        let home = self.new_home()?;
        let total = disks.iter().map(|disk| disk.size()).sum();
        let _working = self.status.meter.begin(Phase::Verify, total);
        let how = self.record.request.verification().seeded()?;
        let (mut bytes, mut sampled) = (0u64, false);
        for (number, (record, disk)) in self.record.disks.iter().zip(&disks).enumerate() {
            let descriptor = format!("{home}/{}", record.descriptor);
            let text = link.read_file(mount, &descriptor).await?;
            let extent = super::chain::flat_extent(&text, disk.size())?;
            let path = format!("{home}/{extent}");
            let part = match sample(disk, number, how).await? {
                Some(sample) => {
                    self.compare_sample((link, mount, &path), disk, (&sample, &record.key)).await?
                }
                None => None,
            };
            sampled |= part.is_some();
            bytes += match part {
                Some(bytes) => bytes,
                None => {
                    let file = link.open_file(mount, &path).await?;
                    self.compare_disk(file, disk, &record.key).await?;
                    disk.size()
                }
            };
        }
        if self.live.trackers.iter().map(ChangeTracker::take).any(|ranges| !ranges.is_empty()) {
            let message = "a disk was written to under its snapshot";
            return Err(JobError::conflict("disk_changed", message));
        }
        let how = if sampled { how } else { Verification::Full };
        Ok(Found { compared: Some(Compared { how, bytes, of_bytes: total }), ..Found::default() })
    }

    /// Bytes that were compared of a sample; `None` if the host gives no parts of a file.
    async fn compare_sample(
        &self,
        (link, mount, path): (&Link, &HostMount, &str),
        disk: &Arc<Disk>,
        (sample, key): (&Sample, &str),
    ) -> Result<Option<u64>, JobError> {
        let limiter = Limiter::new(self.env.job_limit.clone());
        for range in sample.ranges(0..disk.size()) {
            let Some(mut part) = link.open_part(mount, path, range.clone()).await? else {
                return Ok(None);
            };
            if part.of_bytes != disk.size() {
                return Err(differs(key, part.of_bytes.min(disk.size())));
            }
            let mut at = range.start;
            while let Some(bytes) = part.file.next().await? {
                limiter.take(bytes.len() as u64).await;
                if at + bytes.len() as u64 > range.end {
                    return Err(differs(key, range.end));
                }
                compare_piece(disk, at, &bytes)
                    .await?
                    .map_or(Ok(()), |at| Err(differs(key, at)))?;
                at += bytes.len() as u64;
                self.status.meter.add(bytes.len() as u64);
            }
            if at != range.end {
                return Err(differs(key, at));
            }
        }
        Ok(Some(sample.bytes()))
    }

    async fn compare_disk(
        &self,
        mut file: FileReader,
        disk: &Arc<Disk>,
        key: &str,
    ) -> Result<(), JobError> {
        let limiter = Limiter::new(self.env.job_limit.clone());
        let (mut at, mut piece) = (0u64, Vec::with_capacity(PIECE));
        loop {
            let part = file.next().await?;
            let ended = part.is_none();
            piece.extend(part.unwrap_or_default());
            if piece.len() < PIECE && !ended {
                continue;
            }
            limiter.take(piece.len() as u64).await;
            let end = at + piece.len() as u64;
            if end > disk.size() || (ended && end < disk.size()) {
                return Err(differs(key, end.min(disk.size())));
            }
            compare_piece(disk, at, &piece).await?.map_or(Ok(()), |at| Err(differs(key, at)))?;
            self.status.meter.add(piece.len() as u64);
            (at, piece) = (end, Vec::with_capacity(PIECE));
            if ended {
                return Ok(());
            }
        }
    }
}

/// The place of a segment that is not as on the disk.
async fn compare_piece(disk: &Disk, start: u64, found: &[u8]) -> Result<Option<u64>, JobError> {
    let range = start..start + found.len() as u64;
    if range.is_empty() {
        return Ok(None);
    }
    let expected = disk.read(range, Priority::Mover).await;
    let (mut at, mut rest) = (start, found);
    for bytes in expected.map_err(|e| failure::disk("read the disk", e))? {
        let (head, tail) = rest.split_at(bytes.len().min(rest.len()));
        if head != bytes.as_ref() {
            return Ok(Some(at));
        }
        at += bytes.len() as u64;
        rest = tail;
    }
    Ok(None)
}

fn differs(key: &str, at: u64) -> JobError {
    JobError::Corrupt {
        what: "verify the destination".into(),
        source: anyhow::anyhow!("the copy of {key} differs at or after byte {at}"),
    }
}
