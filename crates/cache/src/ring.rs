//! The ring: blocks on disk, written in a circle.

mod footer;
mod index;
mod left;
mod record;
mod seal;
mod segment;
mod space;
mod writer;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use bytes::Bytes;
use parking_lot::Mutex;
use rekindle_block::{Block, BlockHash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::buffer::Buffer;
use crate::ram::{ByName, Ram};
use crate::stats::Counts;
use crate::{CacheConfig, CacheError};

use index::{Index, NEVER, Place};
pub(crate) use record::PAGE;
use record::{SUM, Span, pages_match};
pub use seal::RingKey;
use segment::Now;
pub(crate) use space::Space;
use writer::Writer;

/// 4 KiB pages of records that wait to be written: 64 MiB. A guest's block that finds no room is not
/// written; the mover's waits.
const QUEUE_PAGES: usize = (64 << 20) / PAGE;
/// Sums that fit on the stack of a `read_now`: those of 256 KiB, a default block.
const SUMS_INLINE: usize = 64;
/// Data pages of the largest block.
const PAGES_MAX: usize = 1024;
/// Of each so many bytes that the ring serves from the page cache, one block goes to RAM while that is full: what is read
/// often gets there in time, and checking its name costs little of what is served.
const PROMOTE_EVERY: u64 = 4 << 20;
/// The same while RAM has room: after a restart, or when the mover brought the blocks.
const FILL_EVERY: u64 = 512 << 10;

/// The handle to the ring. Its thread ends when it is closed or dropped.
pub(crate) struct Ring {
    shared: Arc<Shared>,
    /// Bounded by `queue` as to blocks; of the other orders each has its sender waiting.
    orders: Sender<Order>,
    queue: Arc<Semaphore>,
}

/// What readers and the writer share.
struct Shared {
    index: Index,
    /// Blocks given to the writer and not yet in the index. Bounded by `queue`.
    queued: Mutex<HashMap<BlockHash, Block, ByName>>,
    /// The number of segments begun: the clock of [`index::Index::find`]. Begins at 1.
    epoch: AtomicU32,
    /// Bytes served without waiting.
    served: AtomicU64,
    /// Whether a block is on its way to RAM: one at a time.
    promoting: AtomicBool,
    ram: Arc<Ram>,
    counts: Arc<Counts>,
}

/// A block on its way to RAM, however that ends.
struct Promoting(Arc<Shared>);

impl Drop for Promoting {
    fn drop(&mut self) {
        self.0.promoting.store(false, Ordering::Release);
    }
}

/// What the writer is asked to do, in the order asked.
enum Order {
    Write { block: Block, epoch: u32, _room: OwnedSemaphorePermit },
    GiveBack { bytes: u64, given: oneshot::Sender<u64> },
    Settle { settled: oneshot::Sender<()> },
    Close { closed: oneshot::Sender<()> },
}

impl Ring {
    pub(crate) fn open(
        config: &CacheConfig,
        space: Space,
        ram: Arc<Ram>,
        counts: Arc<Counts>,
    ) -> Result<Self, CacheError> {
        let lock = lock(&config.root_dir).map_err(|e| {
            CacheError::Unavailable(format!("lock {}: {e}", config.root_dir.display()))
        })?;
        if config.key.is_some() {
            seal::check(&lock).map_err(|e| {
                let dir = config.root_dir.display();
                CacheError::Refused(format!("{dir}: its file system keeps no extended attributes, which an encrypted ring needs: {e}"))
            })?;
        }
        let shared = Arc::new(Shared {
            index: Index::new(),
            queued: Mutex::default(),
            epoch: AtomicU32::new(1),
            served: AtomicU64::new(0),
            promoting: AtomicBool::new(false),
            ram,
            counts,
        });
        let (orders, received) = std::sync::mpsc::channel();
        let writer = Writer::new(config, space, shared.clone(), lock).map_err(|e| {
            CacheError::Unavailable(format!("list {}: {e}", config.root_dir.display()))
        })?;
        let thread = std::thread::Builder::new().name("cache-ring".into());
        thread
            .spawn(move || writer.run(received))
            .map_err(|e| CacheError::Unavailable(format!("start the ring's thread: {e}")))?;
        Ok(Self { shared, orders, queue: Arc::new(Semaphore::new(QUEUE_PAGES)) })
    }

    /// Bytes `range` of the block, if the ring has it and the page cache has them. Never waits.
    #[inline]
    pub(crate) fn read_now(&self, hash: &BlockHash, range: Range<usize>) -> Option<Bytes> {
        let found = self.shared.read_now(hash, range)?;
        let len = found.len() as u64;
        let before = self.shared.served.fetch_add(len, Ordering::Relaxed);
        let every = if self.shared.ram.has_room() { FILL_EVERY } else { PROMOTE_EVERY };
        if before / every != (before + len) / every {
            self.promote(*hash);
        }
        Some(found)
    }

    /// Has the block brought to RAM, which keeps it if it is read more often than what is there. Not while another is on
    /// its way: readers may be faster than the disk.
    fn promote(&self, hash: BlockHash) {
        // Without a runtime nobody serves guests.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.shared.promoting.swap(true, Ordering::Acquire) {
            return;
        }
        let promoting = Promoting(self.shared.clone());
        runtime.spawn_blocking(move || {
            let shared = &promoting.0;
            let place = shared.index.inspect(&hash).map(|(place, _)| place);
            if let Some(block) = place.and_then(|place| shared.read_block(&hash, &place)) {
                shared.ram.put(&block);
            }
        });
    }

    /// The whole block, if the ring has it. Blocks on the disk. Counts as a use if `used`.
    pub(crate) fn read(&self, hash: &BlockHash, used: bool) -> Option<Block> {
        let place = match used {
            true => self.shared.index.find(hash, self.shared.epoch())?,
            false => self.shared.index.inspect(hash)?.0,
        };
        let block = self.shared.read_block(hash, &place)?;
        self.shared.counts.ring_hits.add(1);
        Some(block)
    }

    pub(crate) fn has(&self, hash: &BlockHash) -> bool {
        self.shared.index.has(hash)
    }

    /// The block, if it waits to be written.
    pub(crate) fn queued(&self, hash: &BlockHash) -> Option<Block> {
        self.shared.queued.lock().get(hash).cloned()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.shared.index.len() as u64
    }

    /// Has a block that a guest read written, if the queue has room and the ring lacks it.
    pub(crate) fn offer(&self, block: &Block) {
        if self.knows(&block.hash()) {
            return;
        }
        match self.queue.clone().try_acquire_many_owned(queue_pages(block)) {
            Ok(room) => self.send(block, self.shared.epoch(), room),
            Err(_) => self.shared.counts.dropped.add(1),
        }
    }

    /// Has a block that no guest has read yet written, if the ring lacks it, once the queue has room.
    pub(crate) async fn offer_in_turn(&self, block: &Block) {
        if self.knows(&block.hash()) {
            return;
        }
        // Fails only for a closed semaphore, and this one never is.
        if let Ok(room) = self.queue.clone().acquire_many_owned(queue_pages(block)).await {
            self.send(block, NEVER, room);
        }
    }

    /// See [`crate::Cache::settle`].
    pub(crate) async fn settle(&self) {
        self.ask(|settled| Order::Settle { settled }).await;
    }

    /// See [`crate::Cache::give_back`].
    pub(crate) async fn give_back(&self, bytes: u64) -> u64 {
        self.ask(|given| Order::GiveBack { bytes, given }).await.unwrap_or(0)
    }

    /// See [`crate::Cache::close`].
    pub(crate) async fn close(&self) {
        self.ask(|closed| Order::Close { closed }).await;
    }

    /// Sends an order and waits for the answer; `None` when the ring is closed.
    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).ok()?;
        answered.await.ok()
    }

    /// Whether the block is in the ring or waits to be written to it.
    pub(crate) fn knows(&self, hash: &BlockHash) -> bool {
        self.shared.index.has(hash) || self.shared.queued.lock().contains_key(hash)
    }

    fn send(&self, block: &Block, epoch: u32, room: OwnedSemaphorePermit) {
        if self.shared.queued.lock().insert(block.hash(), block.clone()).is_some() {
            return; // Somebody else's order writes it.
        }
        let order = Order::Write { block: block.clone(), epoch, _room: room };
        if self.orders.send(order).is_err() {
            self.shared.queued.lock().remove(&block.hash());
        }
    }
}

impl Shared {
    fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    #[inline]
    fn read_now(&self, hash: &BlockHash, range: Range<usize>) -> Option<Bytes> {
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        let mut inline = [0; SUMS_INLINE * SUM];
        let mut spilled = Vec::new();
        let sums = match inline.get_mut(..pages.len() * SUM) {
            Some(sums) => sums,
            None => {
                spilled.resize(pages.len().min(PAGES_MAX) * SUM, 0);
                &mut spilled[..]
            }
        };
        let (place, known) = self.index.find_sums(hash, self.epoch(), pages.start * SUM, sums)?;
        if range.start >= range.end || range.end > place.span.len as usize {
            let empty = range.start == range.end && range.end <= place.span.len as usize;
            return empty.then(Bytes::new);
        }
        if !known {
            self.read_sums_now(hash, &place, pages.start * SUM, sums)?;
        }
        let found = self.judge(hash, &place, read_pages_now(hash, &place, &range, sums))?;
        self.counts.ring_hits.add(1);
        Some(found)
    }

    /// Reads all sums of the block, keeps them for the next reader, and fills `sums`, which begin at
    /// byte `at` of them. They are not checked: a wrong one matches no page.
    fn read_sums_now(
        &self,
        hash: &BlockHash,
        place: &Place,
        at: usize,
        sums: &mut [u8],
    ) -> Option<()> {
        let mut all = vec![0; place.span.sums_len()].into_boxed_slice();
        let read = match place.segment.read_now(place.span.sums_at(), &mut all) {
            Now::Done => Ok(()),
            not_done => Err(not_done),
        };
        self.judge(hash, place, read)?;
        sums.copy_from_slice(all.get(at..at + sums.len())?);
        self.index.keep_sums(hash, place, all);
        Some(())
    }

    /// What a read that may not wait brought; a bad slot is forgotten.
    fn judge<T>(&self, hash: &BlockHash, place: &Place, found: Result<T, Now>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(Now::Later) => None,
            Err(Now::Bad | Now::Done) => {
                self.forget(hash, place);
                None
            }
        }
    }

    /// Reads the block at `place` and checks it against its name, or against its sums where that is the name of a place
    /// in a disk and no hash. A bad one is forgotten.
    fn read_block(&self, hash: &BlockHash, place: &Place) -> Option<Block> {
        let mut bytes = vec![0; place.span.len as usize];
        let read = place.segment.read(place.span.data_at(0), &mut bytes).ok();
        let block = match hash.is_place() {
            false => read.and_then(|()| Block::verify(*hash, bytes.into()).ok()),
            true => read.and_then(|()| {
                let mut sums = vec![0; place.span.sums_len()];
                place.segment.read(place.span.sums_at(), &mut sums).ok()?;
                let matching = pages_match(hash, 0, &bytes, &sums);
                matching.then(|| Block::of_place(*hash, bytes.into())).flatten()
            }),
        };
        if block.is_none() {
            self.forget(hash, place);
        }
        block
    }

    /// Forgets a slot that failed a check; it counts as bad unless it was just pruned.
    fn forget(&self, hash: &BlockHash, place: &Place) {
        let removed = self.index.remove(hash, place);
        if removed && !place.segment.is_retired() {
            self.counts.bad_slots.add(1);
            tracing::debug!(block = %hash, segment = place.segment.id(), "ring slot is bad");
        }
    }
}

/// Reads the pages that hold `range`, whose sums are `sums`, and checks each. [`Now::Done`] as an
/// error: they do not match.
fn read_pages_now(
    hash: &BlockHash,
    place: &Place,
    range: &Range<usize>,
    sums: &[u8],
) -> Result<Bytes, Now> {
    let first = range.start / PAGE;
    let start = first * PAGE;
    let end = range.end.next_multiple_of(PAGE).min(place.span.len as usize);
    let mut data = Buffer::take(end - start);
    match place.segment.read_now(place.span.data_at(first), data.as_mut()) {
        Now::Done => {}
        not_done => return Err(not_done),
    }
    if !pages_match(hash, first, data.as_ref(), sums) {
        return Err(Now::Done);
    }
    Ok(data.freeze().slice(range.start - start..range.end - start))
}

fn queue_pages(block: &Block) -> u32 {
    let len = u32::try_from(block.bytes().len()).unwrap_or(u32::MAX);
    Span { page: 0, len }.pages().min(QUEUE_PAGES as u32)
}

/// Makes `dir` and locks it for this process, as long as the file is open.
fn lock(dir: &Path) -> std::io::Result<File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
    file.try_lock()?;
    Ok(file)
}

#[cfg(test)]
mod min_free;
