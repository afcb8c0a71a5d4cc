//! Reads ahead for those who read a disk in order.

use std::ops::Range;

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use rekindle_block::BlockIdx;
use rekindle_cache::Priority;
use tokio::task::AbortHandle;

use crate::Base;
use crate::streams::{Marks, STREAMS, Streams};

/// Bytes of a window that are wanted together: as many as a repository reads at once.
const RUN_BYTES: u64 = rekindle_repo::RUN_BYTES;
/// Of these, how many are under way at once; a stream has two windows under way at most. The cache
/// bounds what all disks have under way.
const RUNS_AT_ONCE: usize = 2;

/// The read-ahead of one disk. What it began ends when it is dropped, or when its stream stops.
pub(crate) struct Ahead {
    marks: Marks,
    state: Mutex<State>,
}

struct State {
    streams: Streams,
    windows: [Vec<Window>; STREAMS],
}

/// A window under way.
struct Window(AbortHandle);

impl Drop for Window {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ahead {
    pub(crate) fn new(base: &Base) -> Self {
        let streams = Streams::new(base.block_size());
        let state = State { streams, windows: Default::default() };
        Self { marks: Marks::default(), state: Mutex::new(state) }
    }

    /// Takes note of a read that found all it asked for at hand. A few loads, unless its stream
    /// wants to know.
    #[inline]
    pub(crate) fn passed(&self, base: &Base, range: &Range<u64>) {
        let blocks = base.block_size().touched(range.clone());
        if self.marks.hit(&blocks) {
            self.follow(base, blocks);
        }
    }

    /// Takes note of a read that has to wait.
    pub(crate) fn waits(&self, base: &Base, range: &Range<u64>) {
        self.follow(base, base.block_size().touched(range.clone()));
    }

    fn follow(&self, base: &Base, blocks: Range<BlockIdx>) {
        // Only a recovery point has something to fetch; without a runtime nobody serves guests.
        let (Base::Point { .. }, Ok(runtime)) =
            (base.bottom(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let mut state = self.state.lock();
        let touched = state.streams.touch(blocks, base.block_size().count(base.size()));
        self.marks.follow(&state.streams);
        for slot in touched.stopped {
            state.windows[slot].clear();
        }
        if let Some((slot, ahead)) = touched.ahead {
            let windows = &mut state.windows[slot];
            windows.retain(|window| !window.0.is_finished());
            windows.push(Window(runtime.spawn(fetch(base.clone(), ahead)).abort_handle()));
        }
    }
}

/// Brings `blocks` into the cache. An error is not told: the guest's own read will meet it, if it
/// ever comes there.
async fn fetch(base: Base, blocks: Range<BlockIdx>) {
    let each = (RUN_BYTES / base.block_size().bytes()).max(1);
    let warm = |first: u64| {
        let (base, run) = (&base, BlockIdx(first)..BlockIdx((first + each).min(blocks.end.0)));
        async move { base.warm_run(run, Priority::Ahead).await }
    };
    let firsts = (blocks.start.0..blocks.end.0).step_by(each as usize);
    let mut fetched = stream::iter(firsts).map(warm).buffer_unordered(RUNS_AT_ONCE);
    while let Some(fetched) = fetched.next().await {
        if let Err(error) = fetched {
            tracing::debug!(%error, "read-ahead ends");
            return;
        }
    }
}
