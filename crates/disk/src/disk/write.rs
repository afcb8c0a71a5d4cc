use std::ops::Range;

use bytes::Bytes;
use rekindle_cache::Priority;
use tokio::sync::oneshot;

use super::{Disk, Top};
use crate::DiskError;
use crate::grain::{GRAIN, Owner};
use crate::journal::{Request, Waiter};
use crate::segments::{Segments, concat};

/// What the cache is asked to give back when the overlay finds no space.
const MAKE_ROOM: u64 = 64 << 20;
/// How often it is asked for one write.
const MAKE_ROOM_TIMES: usize = 4;

impl Disk {
    /// Writes `data` at `offset`. When this returns `Ok`, a power cut cannot lose it, and every read
    /// that begins from now on sees it. When it returns an error, a later read or restart may find
    /// the old bytes or the new ones.
    ///
    /// After a crash a write of up to [`Disk::write_max`] bytes is there as a whole or not at all; a
    /// longer one may be there in part. `Full` when the file system has no space and the cache has
    /// none to give: nothing was changed.
    ///
    /// Dropped before it returns, the write may still happen.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), DiskError> {
        let range = offset..offset.saturating_add(data.len() as u64);
        self.check(&self.top(), &range)?;
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(self.write_max()));
            let len = part.len() as u64;
            self.write_making_room(at, part).await?;
            at += len;
        }
        Ok(())
    }

    /// The largest write that is whole or not at all after a crash, in bytes.
    pub fn write_max(&self) -> usize {
        self.journal.write_max()
    }

    async fn write_making_room(&self, offset: u64, data: Bytes) -> Result<(), DiskError> {
        for _ in 0..MAKE_ROOM_TIMES {
            match self.write_once(offset, data.clone()).await {
                Err(DiskError::Full) if self.base.make_room(MAKE_ROOM).await => {}
                done => return done,
            }
        }
        self.write_once(offset, data).await
    }

    async fn write_once(&self, offset: u64, data: Bytes) -> Result<(), DiskError> {
        let entered = self.gate.enter().await?;
        // It stays on top until the write has been applied: who changes it holds writes.
        let top = self.top();
        let size = top.overlay.size();
        let range = offset..offset + data.len() as u64;
        let (first, last) = (range.start / GRAIN, (range.end - 1) / GRAIN);
        // Fetched before there is a permit: a slow repository must not hold up other disks.
        let head = self.fill(&top, first, &range, size).await?;
        let tail = if last == first { None } else { self.fill(&top, last, &range, size).await? };
        let permit = self.journal.queue().room_for(data.len()).await?;
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter::new(reply, entered, permit);
        let overlay = top.overlay.clone();
        self.journal.queue().push(Request { overlay, offset, data, size, head, tail, waiter });
        // Without an answer the committer has panicked, and nothing is known of the write.
        answer.await.unwrap_or_else(|_| Err(self.journal.stopped().unwrap_or(DiskError::Gone)))
    }

    /// What the base has in `grain`, if `range` covers it in part and the base still owns it.
    ///
    /// No lock is needed: the base never changes, and the committer, which sees all writes in one
    /// order, lays the write over the fill only if the grain is still the base's then.
    async fn fill(
        &self,
        top: &Top,
        grain: u64,
        range: &Range<u64>,
        size: u64,
    ) -> Result<Option<Bytes>, DiskError> {
        let whole = grain * GRAIN..((grain + 1) * GRAIN).min(size);
        let covered = range.start <= whole.start && range.end >= whole.end;
        if covered || top.overlay.owner(grain) != Owner::Base {
            return Ok(None);
        }
        self.recorder.touch(|| self.base.block_size().touched(whole.clone()));
        let mut segments = Segments::new();
        if !top.under.try_read(whole.clone(), &mut segments) {
            segments = top.under.read_part(whole, Priority::Guest).await?;
        }
        Ok(Some(concat(&segments)))
    }
}
