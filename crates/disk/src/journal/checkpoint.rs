use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::Journal;
use super::ring::Wake;
use crate::DiskError;
use crate::overlay::Overlay;
use crate::records::{JournalRecord, Records};

/// When no batch was written for this long, a checkpoint is made: after a pause a restart replays
/// nothing. Under load only full segments make one, so that pages that are written often are synced
/// seldom.
const IDLE: Duration = Duration::from_secs(5);
/// With fewer free segments than this a checkpoint does not go gently any more: writers will soon wait for it.
const SPARE_SEGMENTS: usize = 2;
/// How often what was written meanwhile is written back too, each time in less time than before.
const PASSES: usize = 8;
/// What is left for the sync to write.
const FEW_BYTES: u64 = 4 << 20;

/// Moves what the journal holds to where it stays, so that segments are free again. The order is
/// the second list in `journal.rs`.
pub(crate) struct Checkpointer {
    journal: Arc<Journal>,
    records: Arc<Records>,
    /// What is recorded now. Held for a whole checkpoint: there is one at a time.
    recorded: Mutex<JournalRecord>,
    overlays: Box<dyn Fn() -> Vec<Arc<Overlay>> + Send + Sync>,
}

impl Checkpointer {
    pub(crate) fn new(
        journal: Arc<Journal>,
        records: Arc<Records>,
        recorded: JournalRecord,
        overlays: impl Fn() -> Vec<Arc<Overlay>> + Send + Sync + 'static,
    ) -> Self {
        Self { journal, records, recorded: Mutex::new(recorded), overlays: Box::new(overlays) }
    }

    /// The checkpointer's life.
    pub(crate) fn run(&self) {
        let _guard = super::StopOnPanic(&self.journal);
        let mut seen = self.journal.turn.applied();
        loop {
            let wake = self.journal.ring.wait(IDLE);
            let applied = self.journal.turn.applied();
            match wake {
                Wake::Closed => return,
                Wake::Idle if applied != seen => seen = applied,
                // A failure has stopped the journal, which closes the ring.
                Wake::Idle | Wake::Work => drop(self.checkpoint_gently()),
            }
        }
    }

    /// Writes back a little at a time what the checkpoint would sync at once: batches of the journal that are written
    /// meanwhile would wait behind all of it.
    fn checkpoint_gently(&self) -> Result<(), DiskError> {
        self.write_back()?;
        self.checkpoint()
    }

    fn write_back(&self) -> Result<(), DiskError> {
        let hurry = || self.journal.ring.free() < SPARE_SEGMENTS;
        for _ in 0..PASSES {
            let overlays = (self.overlays)();
            let bytes: u64 = overlays.iter().map(|overlay| overlay.unwritten_bytes()).sum();
            if hurry() || bytes <= FEW_BYTES {
                break;
            }
            for overlay in overlays {
                for part in overlay.take_unwritten() {
                    if hurry() {
                        return Ok(());
                    }
                    // No checkpoint meanwhile: its sync would succeed after a failure that only this is told of.
                    let _alone = self.recorded.lock();
                    self.or_stop(overlay.write_back(part))?;
                }
            }
        }
        Ok(())
    }

    /// Makes one checkpoint. A failure stops the journal: what a failed sync lost is in it still,
    /// and the next open replays it.
    pub(crate) fn checkpoint(&self) -> Result<(), DiskError> {
        self.or_stop(self.try_checkpoint())
    }

    fn or_stop(&self, done: Result<(), DiskError>) -> Result<(), DiskError> {
        done.inspect_err(|cause| self.journal.stop(cause))
    }

    fn try_checkpoint(&self) -> Result<(), DiskError> {
        let mut recorded = self.recorded.lock();
        self.journal.turn.settle()?;
        let next = self.journal.turn.next();
        if next == recorded.start {
            return Ok(());
        }
        settle(&(self.overlays)(), &self.records)?;
        let lives = recorded.lives.iter().filter(|life| life.end.is_none_or(|end| end > next.seq));
        let record = JournalRecord { start: next, lives: lives.copied().collect(), ..*recorded };
        self.records.put_journal(&record)?;
        *recorded = record;
        self.journal.ring.free_until(next.seq);
        self.journal.counts.checkpoints.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Steps 2 and 3 of a checkpoint: bytes first, then who owns them.
pub(crate) fn settle(overlays: &[Arc<Overlay>], records: &Records) -> Result<(), DiskError> {
    let dirty: Vec<_> = overlays.iter().filter(|overlay| overlay.is_dirty()).collect();
    for overlay in &dirty {
        overlay.sync_data()?;
    }
    for overlay in &dirty {
        overlay.keep_owners(records)?;
    }
    Ok(())
}
