use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

/// Smallest unit in which changes are remembered.
const UNIT_MIN: u64 = 256 << 10;
/// Units in a tracker: 32 KiB of memory, whatever the disk's size.
const UNITS: u64 = 1 << 18;

/// Remembers which parts of a disk were written since the last [`ChangeTracker::take`]. Dropped, it
/// costs nothing more.
///
/// A write is remembered after its bytes can be read and before it is acknowledged. So what `take`
/// returns and is then read has every write that was acknowledged before the `take`.
pub struct ChangeTracker(Arc<Marks>);

struct Marks {
    unit: u64,
    words: Box<[AtomicU64]>,
    size: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// The trackers of one disk.
#[derive(Default)]
pub(crate) struct Trackers {
    any: AtomicBool,
    marks: RwLock<Vec<Weak<Marks>>>,
}

impl Trackers {
    /// A tracker of a disk whose bytes are told by `size`.
    pub(crate) fn track(&self, size: impl Fn() -> u64 + Send + Sync + 'static) -> ChangeTracker {
        let unit = size().div_ceil(UNITS).max(UNIT_MIN).next_power_of_two();
        let words = (0..UNITS / 64).map(|_| AtomicU64::new(0)).collect();
        let marks = Arc::new(Marks { unit, words, size: Box::new(size) });
        let mut all = self.marks.write();
        all.retain(|weak| weak.strong_count() > 0);
        all.push(Arc::downgrade(&marks));
        self.any.store(true, Ordering::SeqCst);
        ChangeTracker(marks)
    }

    /// Remembers that `range` was written.
    pub(crate) fn mark(&self, range: &Range<u64>) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        for marks in self.marks.read().iter().filter_map(Weak::upgrade) {
            marks.mark(range);
        }
    }
}

impl Marks {
    fn mark(&self, range: &Range<u64>) {
        let last = (range.end.max(1) - 1) / self.unit;
        for unit in range.start / self.unit..=last {
            // A disk that grew past the last unit is remembered in it.
            let unit = unit.min(UNITS - 1);
            self.words[(unit / 64) as usize].fetch_or(1 << (unit % 64), Ordering::SeqCst);
        }
    }

    fn range(&self, unit: u64, size: u64) -> Range<u64> {
        let end = if unit == UNITS - 1 { size } else { (unit + 1) * self.unit };
        (unit * self.unit).min(size)..end.min(size)
    }
}

impl ChangeTracker {
    /// What was written since the last call: ranges in order that do not touch, somewhat larger
    /// than what was written. At most 131 072 of them.
    pub fn take(&self) -> Vec<Range<u64>> {
        let size = (self.0.size)();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (word, base) in self.0.words.iter().zip((0..).step_by(64)) {
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let range = self.0.range(base + u64::from(bits.trailing_zeros()), size);
                bits &= bits - 1;
                match ranges.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => ranges.push(range),
                }
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_is_taken_once() {
        let trackers = Trackers::default();
        trackers.mark(&(0..1));
        let tracker = trackers.track(|| 10 << 20);
        assert!(tracker.take().is_empty());
        trackers.mark(&(5..6));
        trackers.mark(&(UNIT_MIN - 1..UNIT_MIN + 1));
        trackers.mark(&((10 << 20) - 1..10 << 20));
        assert_eq!(tracker.take(), [0..2 * UNIT_MIN, (10 << 20) - UNIT_MIN..10 << 20]);
        assert!(tracker.take().is_empty());
    }

    #[test]
    fn a_disk_that_grows_is_still_covered() {
        let size = Arc::new(AtomicU64::new(4096));
        let trackers = Trackers::default();
        let told = size.clone();
        let tracker = trackers.track(move || told.load(Ordering::SeqCst));
        let far = UNIT_MIN * UNITS * 2;
        size.store(far, Ordering::SeqCst);
        trackers.mark(&(far - 1..far));
        assert_eq!(tracker.take().first(), Some(&(UNIT_MIN * (UNITS - 1)..far)));
    }
}
