use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use rekindle_block::BlockHash;
use rekindle_image::Image;

use super::changes::ChangedBlocks;
use super::source::refuse;
use crate::RepoError;
use crate::codec::Codec;
use crate::map::{BlockRef, Shape};
use crate::seal::SEAL_BYTES;

/// Bytes of disk that a thread takes at once.
const BATCH_BYTES: u64 = 2 << 20;

/// Hands out an image's data in order, and takes back what became of it in the same order.
///
/// Threads claim batches, deal with them in parallel and deliver them; one thread takes them as if there had
/// been no others. Nobody runs ahead: at most `window` batches are claimed and not yet taken, so memory is
/// bounded by `window` payloads of 2 MiB, which are reused.
pub(super) struct Conveyor<'a> {
    image: &'a Image,
    shape: Shape,
    wanted: &'a ChangedBlocks,
    cancel: &'a AtomicBool,
    window: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The first block that is not claimed.
    at: u64,
    /// Bytes that may hold data, from the image's tables.
    data: Range<u64>,
    claimed: u64,
    taken: u64,
    exhausted: bool,
    ready: BTreeMap<u64, Batch>,
    spare: Vec<Batch>,
    failure: Option<RepoError>,
    stopped: bool,
}

/// Neighbouring blocks and what became of them.
#[derive(Default)]
pub(super) struct Batch {
    number: u64,
    /// The blocks, by number in their disk.
    pub(super) range: Range<u64>,
    pub(super) blocks: Vec<Outcome>,
    /// The stored forms of the new blocks, end to end.
    pub(super) payload: Vec<u8>,
}

/// What a block is.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Zero,
    Known(BlockRef),
    New { hash: BlockHash, plain_len: u32, stored_len: u32, codec: Codec },
}

impl<'a> Conveyor<'a> {
    pub(super) fn new(
        image: &'a Image,
        shape: Shape,
        wanted: &'a ChangedBlocks,
        workers: usize,
        cancel: &'a AtomicBool,
    ) -> Self {
        let window = 2 * workers as u64 + 2;
        Self {
            image,
            shape,
            wanted,
            cancel,
            window,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Blocks in a full batch.
    pub(super) fn batch_blocks(&self) -> u64 {
        (BATCH_BYTES / self.shape.block_size.bytes()).max(1)
    }

    /// The next batch to deal with; `None` when there is none or somebody failed.
    pub(super) fn claim(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        while !state.stopped && !state.exhausted && state.claimed >= state.taken + self.window {
            self.changed.wait(&mut state);
        }
        if state.stopped || state.exhausted {
            return None;
        }
        let next = match self.cancel.load(Ordering::Relaxed) {
            true => Err(RepoError::Cancelled),
            false => self.next_range(&mut state),
        };
        match next {
            Ok(Some(range)) => {
                let mut batch = state.spare.pop().unwrap_or_default();
                batch.number = state.claimed;
                batch.range = range;
                batch.blocks.clear();
                let room = self.shape.block_size.bytes() + SEAL_BYTES as u64;
                batch.payload.resize((self.batch_blocks() * room) as usize, 0);
                state.claimed += 1;
                Some(batch)
            }
            Ok(None) => {
                state.exhausted = true;
                self.changed.notify_all();
                None
            }
            Err(error) => {
                self.stop(&mut state, Some(error));
                None
            }
        }
    }

    /// The blocks to read next: none that did not change or that the image knows to be zero, and up to a batch of neighbours.
    fn next_range(&self, state: &mut State) -> Result<Option<Range<u64>>, RepoError> {
        let block = self.shape.block_size.bytes();
        while let Some(changed) = self.wanted.next(state.at) {
            state.at = changed.start;
            if state.data.end <= state.at * block {
                match self.image.next_data(state.at * block).map_err(refuse)? {
                    Some(data) => state.data = data,
                    None => return Ok(None),
                }
            }
            let first = state.at.max(state.data.start / block);
            if first >= changed.end {
                state.at = first;
                continue;
            }
            let last = (first + self.batch_blocks()).min(changed.end);
            // Formats tell their data grain by grain: what follows at once belongs to the same batch.
            while state.data.end < last * block {
                let from = state.data.end.next_multiple_of(block);
                match self.image.next_data(from).map_err(refuse)? {
                    Some(more) if more.start < from + block => state.data.end = more.end,
                    _ => break,
                }
            }
            state.at = last.min(state.data.end.div_ceil(block)).min(self.shape.blocks());
            return Ok(Some(first..state.at));
        }
        Ok(None)
    }

    /// Gives back a batch that was claimed.
    pub(super) fn deliver(&self, batch: Batch) {
        let mut state = self.state.lock();
        state.ready.insert(batch.number, batch);
        self.changed.notify_all();
    }

    /// The next batch in order; `None` after the last.
    pub(super) fn take(&self) -> Result<Option<Batch>, RepoError> {
        let mut state = self.state.lock();
        loop {
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            let number = state.taken;
            if let Some(batch) = state.ready.remove(&number) {
                state.taken += 1;
                self.changed.notify_all();
                return Ok(Some(batch));
            }
            if state.stopped || (state.exhausted && state.taken == state.claimed) {
                return Ok(None);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Returns a batch's memory.
    pub(super) fn recycle(&self, batch: Batch) {
        self.state.lock().spare.push(batch);
    }

    /// Ends all claims. The first error is what [`Self::take`] says.
    pub(super) fn fail(&self, error: Option<RepoError>) {
        self.stop(&mut self.state.lock(), error);
    }

    fn stop(&self, state: &mut State, error: Option<RepoError>) {
        if !state.stopped {
            state.failure = error;
        }
        state.stopped = true;
        self.changed.notify_all();
    }
}
