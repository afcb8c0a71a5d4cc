//! The one journal of all disks: what makes a write durable.
//!
//! ```text
//! write ─► queue ─► plan ─► segment ─► sync ─► apply ─► answer        committers, in turn
//!                                               │
//!                      data files, owners  ◄────┘
//!                           │ sync, keep
//!                      checkpoint ─► segment is free                  one thread
//! ```
//!
//! # Crash order
//!
//! A power cut may fall between any two steps, and between the sectors of one. `tests/power_cut.rs`
//! cuts after each.
//!
//! A write, with all others that wait:
//!
//! 1. Bytes for grains that the base owns go to the data file.
//!    *Cut: the grain is still the base's; nobody sees them.*
//! 2. The batch (header, entries, payload) goes to the next place in its segment. Its number is one
//!    more than the last, and its header bears the life's key.
//!    *Cut: the batch is whole, or a crc, number or key is wrong; replay ends before it. Nobody was
//!    answered.*
//! 3. `fdatasync` of the segment.
//!    *Cut: replay makes steps 5 and 6 again.*
//! 4. Its turn comes: every batch before it has been through step 6. The writers are answered, unless zeros give space
//!    back that the next write may need: then after step 6. Readers of these bytes wait
//!    for step 6, and so do a hold and a checkpoint. *Cut: as after step 3.*
//! 5. Bytes for grains that are the overlay's already go to the data file. Before step 3 they could tear what was
//!    acknowledged.
//! 6. The grains are marked in memory. *From here on readers see the write.*
//!
//! A checkpoint, when a segment is full, when writes pause, and at the end:
//!
//! 1. Note the last applied batch B. Before that, while segments are free, the data files were written back part by part,
//!    so that what is written beside this checkpoint does not wait long behind step 2.
//! 2. `fdatasync` of every data file that was written. *Cut: replay from the old start.*
//! 3. The changed marks go to `state`, synced. They may be newer than B: what made them is in the
//!    journal behind B, and is replayed. *Before step 2 they would name bytes that are not there.*
//! 4. The journal's start, B + 1, goes to `state`, synced. *Cut before: replay from the old start
//!    writes the same bytes again.*
//! 5. Full segments that end at B or before are free. *Before step 4 their batches would be missed.*
//!
//! A segment is left for the next only when all its batches are durable: a gap between segments is
//! damage, not a crash. A header also tells up to which batch all were durable when it was written,
//! so that damage in the middle is told from a torn end (both are `Corrupt`, never skipped).
//!
//! # Failure
//!
//! When a write, write-back or sync of the journal, or of a data file behind it, fails, the journal stops for
//! good: after a failed `fdatasync` the kernel may call pages clean that are not on disk, so a second
//! try that succeeds proves nothing. Every write then fails with `Stopped`; the next open replays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

pub(crate) mod batch;
mod buffer;
pub(crate) mod checkpoint;
mod pending;
mod plan;
mod queue;
pub(crate) mod replay;
pub(crate) mod ring;
mod turn;

use crate::DiskError;
use crate::overlay::Overlay;
use crate::records::{Life, Position};
use pending::Pending;
pub(crate) use plan::Limits;
use plan::Plan;
use queue::Queue;
pub(crate) use queue::{Request, Waiter};
use ring::Ring;
use turn::Turn;

/// What the journal holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalStats {
    /// Batches written and synced: syncs of the journal.
    pub batches: u64,
    /// Writes in them.
    pub writes: u64,
    /// Bytes in them, headers and padding counted.
    pub bytes: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Writes that wait for a batch.
    pub waiting: u64,
    /// Segments that a burst finds free.
    pub free_segments: u64,
    /// Whether writes have stopped until restart.
    pub stopped: bool,
}

/// The journal while it runs.
pub(crate) struct Journal {
    queue: Queue,
    turn: Turn,
    ring: Ring,
    life: Life,
    limits: Limits,
    /// Held while a batch is put together: batches are numbered in the order of the queue.
    tail: Mutex<Tail>,
    counts: Counts,
}

/// Where the next batch goes.
struct Tail {
    next: Position,
    pending: Pending,
}

#[derive(Default)]
struct Counts {
    batches: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    checkpoints: AtomicU64,
}

impl Journal {
    /// A journal whose first batch goes to `next`, as a part of `life`.
    pub(crate) fn new(ring: Ring, life: Life, next: Position) -> Self {
        Self {
            queue: Queue::new(),
            turn: Turn::new(next),
            limits: Limits::of_segment(ring.segment_bytes),
            ring,
            life,
            tail: Mutex::new(Tail { next, pending: Pending::default() }),
            counts: Counts::default(),
        }
    }

    /// The largest write that is one request, and so whole or not at all after a crash.
    pub(crate) fn write_max(&self) -> usize {
        self.limits.write
    }

    /// How many committers gain: while one waits for its sync another fills the next batch, and a third makes the one before
    /// visible. When the page cache is in between, two syncs of one file could each report the other's failure,
    /// so there is one.
    pub(crate) fn committers(&self) -> usize {
        if self.ring.is_direct() { 3 } else { 1 }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn stopped(&self) -> Option<DiskError> {
        self.turn.stopped()
    }

    /// Takes no more writes: `DiskError::Gone`. Committers finish what waits and end.
    pub(crate) fn close(&self) {
        self.queue.close(DiskError::Gone);
    }

    /// Ends the checkpointer. Only after the committers: they may wait for it.
    pub(crate) fn end(&self) {
        self.ring.close();
    }

    /// Stops for good.
    pub(crate) fn stop(&self, cause: &DiskError) {
        self.turn.stop(cause);
        self.queue.close(self.turn.stopped().unwrap_or(DiskError::Gone));
        self.ring.close();
    }

    pub(crate) fn stats(&self) -> JournalStats {
        JournalStats {
            batches: self.counts.batches.load(Ordering::Relaxed),
            writes: self.counts.writes.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            checkpoints: self.counts.checkpoints.load(Ordering::Relaxed),
            waiting: self.queue.len() as u64,
            free_segments: self.ring.free() as u64,
            stopped: self.turn.stopped().is_some(),
        }
    }

    /// A committer's life: batch after batch until the journal closes.
    pub(crate) fn commit_all(self: Arc<Self>) {
        let _guard = StopOnPanic(&self);
        let mut plan = Plan::new(self.limits);
        while let Some(place) = self.gather(&mut plan) {
            let result = place.and_then(|place| self.commit(&mut plan, place));
            plan.answer(&result);
            plan.end();
        }
    }

    /// Puts the next batch together from all requests that wait, and finds its place. `None` when the
    /// journal is closed and empty.
    fn gather(&self, plan: &mut Plan) -> Option<Result<Position, DiskError>> {
        // Waited for without the tail: a lone write wakes one committer and leaves the others asleep.
        if !self.queue.wait() {
            return None;
        }
        let mut tail = self.tail.lock();
        tail.pending.forget(self.turn.applied());
        plan.begin(tail.next.seq);
        while !plan.is_full()
            && let Some(request) = self.queue.next()
        {
            plan.add(&mut tail.pending, request);
        }
        plan.write_unseen(&mut tail.pending);
        if plan.is_empty() {
            // Another took them, or each was answered with why it cannot be.
            return Some(Ok(tail.next));
        }
        let place = self.place(&mut tail, plan.len());
        plan.seal(self.life.key, self.turn.applied());
        Some(place)
    }

    /// Where the next batch of `len` bytes goes; the one after it goes behind.
    fn place(&self, tail: &mut Tail, len: u64) -> Result<Position, DiskError> {
        if let Some(stopped) = self.turn.stopped() {
            return Err(stopped);
        }
        if tail.next.at + len > self.ring.segment_bytes {
            self.turn.wait_for(tail.next.seq)?;
            let segment = self.ring.next(tail.next.seq);
            let closed = || self.turn.stopped().unwrap_or(DiskError::Gone);
            tail.next = Position { segment: segment.ok_or_else(closed)?, at: 0, ..tail.next };
        }
        let place = tail.next;
        tail.next = Position { seq: place.seq + 1, at: place.at + len, ..place };
        Ok(place)
    }

    /// Steps 2 to 6 of a write.
    fn commit(&self, plan: &mut Plan, place: Position) -> Result<(), DiskError> {
        if plan.is_empty() {
            return Ok(());
        }
        let written = self.write(plan, place);
        if let Err(cause) = &written {
            self.stop(cause);
        }
        self.turn.begin(place.seq)?;
        let hidden = Hidden::of(plan);
        if !plan.gives_space_back() {
            plan.answer(&Ok(()));
        }
        if let Err(cause) = apply(plan) {
            self.stop(&cause);
            return Err(self.turn.stopped().unwrap_or(cause));
        }
        hidden.show();
        self.turn.pass_to(Position { seq: place.seq + 1, at: place.at + plan.len(), ..place });
        self.counts.batches.fetch_add(1, Ordering::Relaxed);
        self.counts.writes.fetch_add(plan.taken.len() as u64, Ordering::Relaxed);
        self.counts.bytes.fetch_add(plan.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Steps 2 and 3 of a write.
    fn write(&self, plan: &Plan, place: Position) -> Result<(), DiskError> {
        let file = &self.ring.files[place.segment as usize];
        let written = file.write_both(plan.header(), plan.payload(), place.at);
        written.map_err(|e| DiskError::io("write overlay journal", e))?;
        file.sync().map_err(|e| DiskError::io("sync overlay journal", e))
    }
}

/// Steps 5 and 6 of a write.
fn apply(plan: &Plan) -> Result<(), DiskError> {
    plan.changes().try_for_each(|(overlay, change)| overlay.apply(&change))
}

/// What a batch changes, hidden from readers. Dropped without [`Hidden::show`] its overlays are lost: they lack what was
/// answered.
struct Hidden(Vec<Arc<Overlay>>);

impl Hidden {
    fn of(plan: &Plan) -> Self {
        let mut overlays: Vec<Arc<Overlay>> = Vec::new();
        for (overlay, change) in plan.changes() {
            overlay.hide(change.range);
            if !overlays.iter().any(|known| Arc::ptr_eq(known, overlay)) {
                overlays.push(overlay.clone());
            }
        }
        Self(overlays)
    }

    fn show(mut self) {
        for overlay in self.0.drain(..) {
            overlay.show();
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let source = Arc::new(std::io::Error::other("a write of its batch could not be applied"));
        for overlay in self.0.drain(..) {
            overlay.lose(DiskError::Unavailable {
                verb: "apply overlay journal",
                source: source.clone(),
            });
            overlay.show();
        }
    }
}

/// A thread that panics leaves the journal in a state that nobody knows: it stops.
struct StopOnPanic<'a>(&'a Journal);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = Arc::new(std::io::Error::other("an overlay thread panicked"));
            self.0.stop(&DiskError::Unavailable { verb: "run overlay journal", source });
        }
    }
}
