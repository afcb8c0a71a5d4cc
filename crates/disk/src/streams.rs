//! Who reads a disk in order, and what is worth reading ahead for them. Decides; does nothing.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rekindle_block::{BlockIdx, BlockSize};

/// Readers that are followed at once; the one that was quiet longest makes room.
pub(crate) const STREAMS: usize = 8;
/// How many blocks a read may be off the place where its stream is: clients send several reads at
/// once, and they arrive in any order.
const SLACK: u64 = 4;
/// Steps to a new block before a reader counts as a stream. Two reads side by side happen by chance.
const PROVEN: u32 = 2;
/// Bytes in the first and in the largest window; each is twice the one before.
const WINDOW_FIRST: u64 = 512 << 10;
const WINDOW_MAX: u64 = 8 << 20;
/// Reads elsewhere after which a stream has stopped.
const QUIET: u64 = 64;
/// No block: nobody waits for the reader to come by.
const NEVER: u64 = u64::MAX;

/// The readers of one disk.
pub(crate) struct Streams {
    slots: [Stream; STREAMS],
    /// Counts reads.
    clock: u64,
    block: BlockSize,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    /// The furthest block that was read.
    last: u64,
    steps: u32,
    /// The block behind the last window.
    asked: u64,
    /// Blocks in the last window; 0 when there was none.
    window: u64,
    /// The clock at the last read; 0 for a slot that is free.
    used: u64,
}

/// What a read changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Blocks to read ahead now, and the slot of their stream.
    pub(crate) ahead: Option<(usize, Range<BlockIdx>)>,
    /// Slots of streams that have stopped: what is read ahead for them is not wanted any more.
    pub(crate) stopped: Vec<usize>,
}

impl Streams {
    pub(crate) fn new(block: BlockSize) -> Self {
        Self { slots: Default::default(), clock: 0, block }
    }

    /// Takes note of a read of `blocks` of a disk that has `count`.
    pub(crate) fn touch(&mut self, blocks: Range<BlockIdx>, count: u64) -> Touched {
        let mut touched = Touched::default();
        if blocks.start >= blocks.end {
            return touched;
        }
        self.clock += 1;
        let slot = match self.slots.iter().position(|stream| stream.goes_on_at(blocks.start.0)) {
            Some(slot) => slot,
            None => self.begin(blocks.start.0, &mut touched),
        };
        self.stop_quiet(&mut touched);
        let most = (WINDOW_MAX / self.block.bytes()).max(1);
        let first = (WINDOW_FIRST / self.block.bytes()).clamp(1, most);
        let stream = &mut self.slots[slot];
        stream.step(blocks.end.0 - 1, self.clock);
        touched.ahead = stream
            .next_window(first, most, count)
            .map(|window| (slot, BlockIdx(window.start)..BlockIdx(window.end)));
        touched
    }

    /// The block at which the stream in `slot` wants to be told of its reader.
    fn mark(&self, slot: usize) -> u64 {
        let stream = &self.slots[slot];
        if stream.window == 0 { NEVER } else { stream.asked.saturating_sub(stream.window / 2 + 1) }
    }

    /// Makes room for a reader at `block`, who is no stream yet.
    fn begin(&mut self, block: u64, touched: &mut Touched) -> usize {
        let quietest = self.slots.iter().enumerate().min_by_key(|(_, stream)| stream.used);
        let slot = quietest.map_or(0, |(slot, _)| slot);
        if self.slots[slot].window > 0 {
            touched.stopped.push(slot);
        }
        self.slots[slot] = Stream { last: block, used: self.clock, ..Stream::default() };
        slot
    }

    fn stop_quiet(&mut self, touched: &mut Touched) {
        for (slot, stream) in self.slots.iter_mut().enumerate() {
            if stream.window > 0 && self.clock - stream.used > QUIET {
                *stream = Stream::default();
                touched.stopped.push(slot);
            }
        }
    }
}

impl Stream {
    fn goes_on_at(&self, block: u64) -> bool {
        // Reads of what was read ahead are told at the mark only: the reader may be anywhere up to there.
        let next = self.asked.max(self.last.saturating_add(1));
        let near = self.last.saturating_sub(SLACK)..=next.saturating_add(SLACK);
        self.used > 0 && near.contains(&block)
    }

    fn step(&mut self, last: u64, clock: u64) {
        self.used = clock;
        if last > self.last {
            self.last = last;
            self.steps = self.steps.saturating_add(1);
        }
    }

    /// The next window, once the reader is near the end of the one before.
    fn next_window(&mut self, first: u64, most: u64, count: u64) -> Option<Range<u64>> {
        let next = self.last.saturating_add(1);
        let proven = self.steps >= PROVEN;
        if !proven || next.saturating_add(self.window / 2) < self.asked {
            return None;
        }
        self.window = (self.window * 2).clamp(first, most);
        let start = self.asked.max(next);
        let end = start.saturating_add(self.window).min(count);
        self.asked = end;
        (start < end).then_some(start..end)
    }
}

/// The marks of all streams, to be looked at by every read: one line of the processor's cache.
pub(crate) struct Marks([AtomicU64; STREAMS]);

impl Default for Marks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(NEVER)))
    }
}

impl Marks {
    /// Whether a stream wants to be told of a read of `blocks`.
    #[inline]
    pub(crate) fn hit(&self, blocks: &Range<BlockIdx>) -> bool {
        let blocks = blocks.start.0..blocks.end.0;
        self.0.iter().any(|mark| blocks.contains(&mark.load(Ordering::Relaxed)))
    }

    pub(crate) fn follow(&self, streams: &Streams) {
        for (slot, mark) in self.0.iter().enumerate() {
            mark.store(streams.mark(slot), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNT: u64 = 100_000;

    fn streams() -> Streams {
        Streams::new(BlockSize::default())
    }

    fn blocks(range: Range<u64>) -> Range<BlockIdx> {
        BlockIdx(range.start)..BlockIdx(range.end)
    }

    /// Reads one block; what it has read ahead.
    fn read(streams: &mut Streams, block: u64) -> Option<Range<u64>> {
        let (_, ahead) = streams.touch(blocks(block..block + 1), COUNT).ahead?;
        Some(ahead.start.0..ahead.end.0)
    }

    #[test]
    fn a_window_grows_with_its_stream_up_to_a_bound() {
        let mut streams = streams();
        let windows: Vec<_> = (0..200).filter_map(|block| read(&mut streams, block)).collect();
        assert_eq!(windows[..4], [3..5, 5..9, 9..17, 17..33]);
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start), "{windows:?}");
        assert!(windows[4..].iter().all(|window| window.end - window.start == 32));
    }

    /// What is at hand is not told of, but where a mark is hit.
    #[test]
    fn a_reader_that_is_told_of_at_the_marks_only_is_followed() {
        let (mut streams, marks) = (streams(), Marks::default());
        let mut asked = 0;
        for block in 0..1000 {
            if block >= asked || marks.hit(&blocks(block..block + 1)) {
                asked = read(&mut streams, block).map_or(asked, |window| window.end);
                marks.follow(&streams);
            }
        }
        assert!(
            asked >= 1000 && streams.slots.iter().filter(|stream| stream.used > 0).count() == 1
        );
    }

    #[test]
    fn reads_by_chance_are_no_stream() {
        let mut streams = streams();
        assert_eq!(read(&mut streams, 10), None);
        assert_eq!(read(&mut streams, 11), None, "side by side once");
        let mut state = 1u64;
        for _ in 0..1000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            assert_eq!(read(&mut streams, (state >> 33) % COUNT), None);
        }
    }

    #[test]
    fn several_streams_and_reads_between_them_are_told_apart() {
        let mut streams = streams();
        for step in 0..40 {
            for stream in 0..6 {
                let ahead = read(&mut streams, stream * 10_000 + step);
                assert_eq!(ahead.is_some(), [2, 3, 6, 12, 24].contains(&step), "{step}: {ahead:?}");
            }
        }
    }

    #[test]
    fn a_stream_in_disorder_is_one() {
        let mut streams = streams();
        let disorder = [1, 0, 3, 2, 5, 4, 7, 6];
        let ahead: Vec<_> = disorder.iter().filter_map(|b| read(&mut streams, *b)).collect();
        assert_eq!(ahead.first(), Some(&(6..8)));
    }

    #[test]
    fn a_stream_that_stops_is_told() {
        let mut streams = streams();
        assert!((0..5).filter_map(|block| read(&mut streams, block)).count() > 0);
        let marked = streams.mark(0);
        assert_ne!(marked, NEVER);
        // One reader elsewhere that stays where it is: no slot is needed for others.
        let stopped: Vec<_> =
            (0..QUIET + 2).map(|_| streams.touch(blocks(500..501), COUNT).stopped).collect();
        let when: Vec<_> = stopped.iter().enumerate().filter(|(_, s)| !s.is_empty()).collect();
        assert_eq!(when, [(QUIET as usize, &vec![0])]);
        assert_eq!(streams.mark(0), NEVER);
        assert!((0..5).filter_map(|block| read(&mut streams, 1000 + block)).count() > 0);
        let evicted = (0..STREAMS as u64)
            .flat_map(|n| streams.touch(blocks(n * 9000..n * 9000 + 1), COUNT).stopped);
        assert_eq!(evicted.count(), 1, "its slot was needed");
    }

    proptest! {
        /// Whatever is read: nothing twice for a stream that goes on, nothing behind the end, never
        /// more than two windows beyond the reader.
        #[test]
        fn ahead_is_bounded(reads in proptest::collection::vec((0u64..3, 0u64..3, 1u64..6), 1..300)) {
            let mut streams = streams();
            let mut at = [0u64, 30_000, COUNT - 100];
            for (stream, skip, len) in reads {
                let at = &mut at[stream as usize];
                let first = (*at + skip).min(COUNT - 1);
                let read = first..(first + len).min(COUNT);
                *at = read.end;
                let touched = streams.touch(blocks(read.clone()), COUNT);
                if let Some((slot, ahead)) = touched.ahead {
                    prop_assert!(slot < STREAMS && ahead.start >= BlockIdx(read.end));
                    prop_assert!(ahead.start < ahead.end && ahead.end.0 <= COUNT);
                    prop_assert!(ahead.end.0 <= read.end + SLACK + 64);
                }
            }
        }
    }
}
