use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rekindle_block::BlockIdx;
use tokio::time::Instant;

/// First touches that one recording holds: 2 GiB of 256 KiB blocks, in about 400 KiB of memory.
pub const TOUCHES_MAX: usize = 8192;
/// Blocks touched of late that a reader need not look up: 8 KiB of memory.
const RECENT: usize = 1024;

/// The first time that a guest touched a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Which block of the recovery point.
    pub block: BlockIdx,
    /// How long after the recording began.
    pub after: Duration,
}

/// A recording of the order in which a guest first touches the blocks of its disk. It ends when it
/// is dropped, and is full at [`TOUCHES_MAX`].
pub struct Recording(Arc<Touches>);

impl Recording {
    /// What was touched so far, in order.
    pub fn touches(&self) -> Vec<Touch> {
        self.0.found.lock().order.clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

struct Touches {
    began: Instant,
    ended: AtomicBool,
    /// Block number plus one, by its last bits.
    recent: [AtomicU64; RECENT],
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    known: HashSet<u64>,
    order: Vec<Touch>,
}

/// The recording of one disk, if there is one.
#[derive(Default)]
pub(crate) struct Recorder {
    on: AtomicBool,
    touches: RwLock<Option<Arc<Touches>>>,
}

impl Recorder {
    /// Begins a recording; one that was there gets no more.
    pub(crate) fn begin(&self) -> Recording {
        let touches = Arc::new(Touches {
            began: Instant::now(),
            ended: AtomicBool::new(false),
            recent: std::array::from_fn(|_| AtomicU64::new(0)),
            found: Mutex::default(),
        });
        *self.touches.write() = Some(touches.clone());
        self.on.store(true, Ordering::Relaxed);
        Recording(touches)
    }

    /// Takes note of a guest's touch. One load when nothing is recorded.
    #[inline]
    pub(crate) fn touch(&self, blocks: impl FnOnce() -> Range<BlockIdx>) {
        if self.on.load(Ordering::Relaxed) {
            self.note(blocks());
        }
    }

    /// See [`crate::Disk::touched`].
    pub(crate) fn touched(&self, known: usize) -> Vec<BlockIdx> {
        let touches = self.touches.read();
        let Some(touches) = &*touches else { return Vec::new() };
        let found = touches.found.lock();
        found.order.iter().skip(known).map(|touch| touch.block).collect()
    }

    #[cold]
    fn note(&self, blocks: Range<BlockIdx>) {
        let goes_on = match &*self.touches.read() {
            Some(touches) => touches.note(blocks),
            None => false,
        };
        if !goes_on {
            let mut touches = self.touches.write();
            // Another may have begun meanwhile.
            if touches.as_ref().is_none_or(|touches| touches.is_over()) {
                self.on.store(false, Ordering::Relaxed);
                *touches = None;
            }
        }
    }
}

impl Touches {
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.found.lock().order.len() >= TOUCHES_MAX
    }

    /// Says whether there is more to be noted.
    fn note(&self, blocks: Range<BlockIdx>) -> bool {
        if self.ended.load(Ordering::Relaxed) {
            return false;
        }
        for block in blocks.start.0..blocks.end.0 {
            let recent = &self.recent[block as usize % RECENT];
            if recent.swap(block + 1, Ordering::Relaxed) == block + 1 {
                continue;
            }
            let mut found = self.found.lock();
            if found.order.len() >= TOUCHES_MAX {
                return false;
            }
            if found.known.insert(block) {
                found.order.push(Touch { block: BlockIdx(block), after: self.began.elapsed() });
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(range: Range<u64>) -> impl FnOnce() -> Range<BlockIdx> {
        move || BlockIdx(range.start)..BlockIdx(range.end)
    }

    #[test]
    fn first_touches_are_kept_in_order() {
        let recorder = Recorder::default();
        recorder.touch(|| unreachable!("nothing is recorded"));
        let recording = recorder.begin();
        for range in [5..7, 0..1, 6..8, 5 + RECENT as u64..6 + RECENT as u64, 5..6] {
            recorder.touch(blocks(range));
        }
        let order: Vec<u64> = recording.touches().iter().map(|touch| touch.block.0).collect();
        assert_eq!(order, [5, 6, 0, 7, 5 + RECENT as u64]);
        assert_eq!(recorder.touched(3), [BlockIdx(7), BlockIdx(5 + RECENT as u64)]);
        drop(recording);
        recorder.touch(blocks(1..2));
        assert!(!recorder.on.load(Ordering::Relaxed) && recorder.touches.read().is_none());
        recorder.touch(|| unreachable!("it has ended"));
    }

    /// Bounds.
    #[test]
    fn a_recording_is_full_some_time() {
        let recorder = Recorder::default();
        let recording = recorder.begin();
        recorder.touch(blocks(0..2 * TOUCHES_MAX as u64));
        assert_eq!(recording.touches().len(), TOUCHES_MAX);
        recorder.touch(|| unreachable!("it is full"));
        let again = recorder.begin();
        recorder.touch(blocks(3..4));
        assert_eq!(again.touches()[0].block, BlockIdx(3));
    }
}
