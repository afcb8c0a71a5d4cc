//! The one owner of the segments: writes, prunes, and reads what an earlier process left.

mod ghosts;
mod head;
mod limits;
mod prune;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use rekindle_block::{Block, BlockHash};
use tokio::sync::oneshot;

use super::index::{NEVER, Place};
use super::left::{self, Left};
use super::seal::RingKey;
use super::segment::Segment;
use super::{Order, Shared, Space};
use crate::CacheConfig;
use ghosts::Ghosts;
use head::Head;
use limits::Limits;

/// How often the file system's free space is looked at, besides at every new segment.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Segment files, each with a descriptor open. At 512 MiB each they hold what the index can.
const SEGMENTS_MAX: usize = 1024;
/// Most bytes of used blocks that go round again at one new segment; never more than half of it, so
/// that what is new gets the other half. They are held in memory meanwhile.
const SURVIVORS_MAX: u64 = 32 << 20;

/// Which of two circles a segment is of. This is S3-FIFO by whole segments: what a guest missed passes a small circle, and
/// goes to the large one if it is used there or is missed again soon after it left. A long read of what nobody reads twice
/// so costs the others little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Circle {
    /// What guests missed: a tenth of the ring once that is full, and never less than a segment.
    Small,
    /// What was used, or is going to be: movers and boot profiles bring it for somebody.
    Large,
}

/// The ring's share of the small circle, one in so many.
const SMALL_SHARE: u64 = 10;

pub(super) struct Writer {
    dir: PathBuf,
    key: Option<RingKey>,
    shared: Arc<Shared>,
    limits: Limits,
    /// Of both circles, oldest first; the heads are not among them.
    segments: VecDeque<Owned>,
    small: Option<Head>,
    large: Option<Head>,
    ghosts: Ghosts,
    next_id: u64,
    looked: Instant,
    lock: File,
}

/// A segment that is not written any more.
struct Owned {
    id: u64,
    bytes: u64,
    circle: Circle,
    /// `None` until what an earlier process left in it was read.
    read: Option<Contents>,
}

struct Contents {
    segment: Arc<Segment>,
    names: Vec<BlockHash>,
}

/// Where what goes round again goes.
enum Room {
    /// To what is left of the head alone.
    Left,
    /// To a new segment as well, one at most.
    Made,
}

/// Whether to go on.
enum After {
    Continue,
    /// With whom to tell, if somebody asked for it.
    End(Option<oneshot::Sender<()>>),
}

impl Writer {
    /// Lists what is in the directory, which is quick; reading it is left to `run`.
    pub(super) fn new(
        config: &CacheConfig,
        space: Space,
        shared: Arc<Shared>,
        lock: File,
    ) -> io::Result<Self> {
        let left = left::list(&config.root_dir, SEGMENTS_MAX)?;
        let next_id = left.last().map_or(1, |last| last.id.saturating_add(1));
        let circle = Circle::Large;
        let segments =
            left.iter().map(|&Left { id, bytes }| Owned { id, bytes, circle, read: None });
        let writer = Self {
            dir: config.root_dir.clone(),
            key: config.key.clone(),
            limits: Limits::new(config, space),
            shared,
            segments: segments.collect(),
            small: None,
            large: None,
            ghosts: Ghosts::default(),
            next_id,
            looked: Instant::now(),
            lock,
        };
        writer.publish();
        Ok(writer)
    }

    /// Obeys until closed or dropped. Between orders it reads what is left to read.
    pub(super) fn run(mut self, orders: Receiver<Order>) {
        self.keep_min_free();
        loop {
            let order = if self.read_newest_unread() {
                orders.try_recv().map_err(|e| e == TryRecvError::Disconnected)
            } else {
                let waited = orders.recv_timeout(LOOK_EVERY);
                waited.map_err(|e| e == RecvTimeoutError::Disconnected)
            };
            let after = match order {
                Ok(order) => self.obey(order),
                Err(true) => After::End(None),
                Err(false) => After::Continue,
            };
            if let After::End(closed) = after {
                return self.end(orders, closed);
            }
            if self.looked.elapsed() >= LOOK_EVERY {
                self.keep_min_free();
            }
        }
    }

    fn obey(&mut self, order: Order) -> After {
        // An answer nobody waits for any more is no error.
        match order {
            Order::Write { block, epoch, _room } => {
                if !self.write(&block, epoch) {
                    self.shared.counts.dropped.add(1);
                }
                self.shared.queued.lock().remove(&block.hash());
            }
            Order::GiveBack { bytes, given } => {
                let _ = given.send(self.give_back(bytes));
            }
            Order::Settle { settled } => {
                while self.read_newest_unread() {}
                self.keep_min_free();
                let _ = settled.send(());
            }
            Order::Close { closed } => return After::End(Some(closed)),
        }
        After::Continue
    }

    /// All of it before the answer: who asked may open the directory at once, and is told of no block that is not kept.
    fn end(mut self, orders: Receiver<Order>, closed: Option<oneshot::Sender<()>>) {
        self.seal_heads();
        drop(orders);
        self.shared.queued.lock().clear();
        let _ = self.lock.unlock();
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }

    /// Writes a block that the ring lacks; false if there is no room for it.
    fn write(&mut self, block: &Block, epoch: u32) -> bool {
        if self.shared.index.has(&block.hash()) {
            return true;
        }
        let circle = match epoch == NEVER || self.ghosts.take(&block.hash()) {
            true => Circle::Large,
            false => Circle::Small,
        };
        if self.fits(circle, block) {
            return self.append(circle, block, epoch);
        }
        let Some(survivors) = self.next_head(circle, block) else { return false };
        let written = self.append(circle, block, epoch);
        self.reinsert(survivors, Room::Made);
        self.publish();
        written
    }

    fn head(&mut self, circle: Circle) -> &mut Option<Head> {
        match circle {
            Circle::Small => &mut self.small,
            Circle::Large => &mut self.large,
        }
    }

    fn fits(&mut self, circle: Circle, block: &Block) -> bool {
        self.head(circle).as_ref().is_some_and(|head| head.fits(block))
    }

    fn append(&mut self, circle: Circle, block: &Block, epoch: u32) -> bool {
        let Some(head) = self.head(circle) else { return false };
        let Some(place) = head.append(block) else { return false };
        // Only now may readers find it: the bytes are in the page cache.
        self.shared.index.add(block.hash(), place, epoch)
    }

    /// Begins a segment of the circle that `block` fits in, at the cost of the oldest ones. Returns those of their
    /// blocks that are to go round again; `None` if there is no room.
    fn next_head(&mut self, circle: Circle, block: &Block) -> Option<Vec<Block>> {
        // The directory may have been deleted under us: that loses speed and nothing else.
        let _ = std::fs::create_dir_all(&self.dir);
        let own = self.bytes();
        let least = Head::bytes_for(block);
        let wanted = self.limits.segment_bytes(&self.dir, own).max(least);
        // One block may not push out most of a ring.
        if wanted > self.limits.capacity(&self.dir, own) / 2 {
            return None;
        }
        self.seal_head(circle);
        let survivors = self.prune(wanted, SURVIVORS_MAX.min(wanted / 2));
        let bytes = self.limits.spare(&self.dir, self.bytes()).min(wanted);
        (bytes >= least && self.begin_head(circle, bytes)).then_some(survivors)
    }

    fn begin_head(&mut self, circle: Circle, bytes: u64) -> bool {
        let created = Segment::create(&self.dir, self.next_id, bytes, self.key.as_ref());
        self.next_id += 1;
        match created {
            Ok(segment) => *self.head(circle) = Some(Head::new(segment, bytes)),
            Err(error) => {
                tracing::debug!(%error, "no new ring segment");
                return false;
            }
        }
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn seal_heads(&mut self) {
        self.seal_head(Circle::Small);
        self.seal_head(Circle::Large);
    }

    fn seal_head(&mut self, circle: Circle) {
        let Some(head) = self.head(circle).take() else { return };
        let id = head.id();
        let bytes = head.seal();
        let (segment, names) = head.into_contents();
        let read = Some(Contents { segment, names });
        self.segments.push_back(Owned { id, bytes, circle, read });
    }

    /// Reads the newest segment that an earlier process left; false when all are read.
    fn read_newest_unread(&mut self) -> bool {
        let Some(at) = self.segments.iter().rposition(|owned| owned.read.is_none()) else {
            return false;
        };
        let id = self.segments[at].id;
        let opened = Segment::open(&self.dir, id, self.key.as_ref());
        let found = opened.and_then(|segment| Ok((left::records(&segment)?, segment)));
        match found {
            Ok((records, segment)) if !records.is_empty() => {
                let segment = Arc::new(segment);
                let mut names = Vec::with_capacity(records.len());
                for (hash, span) in records {
                    let place = Place { segment: segment.clone(), span };
                    if self.shared.index.add(hash, place, NEVER) {
                        names.push(hash);
                    }
                }
                self.segments[at].read = Some(Contents { segment, names });
            }
            // Not one record in it, or not to be read: it only takes space.
            Ok(_) | Err(_) => {
                self.segments.remove(at);
                let _ = std::fs::remove_file(super::segment::path_of(&self.dir, id));
            }
        }
        self.keep_min_free();
        true
    }

    /// Bytes of all segment files.
    fn bytes(&self) -> u64 {
        let heads = self.heads().map(Head::bytes).sum::<u64>();
        self.segments.iter().map(|owned| owned.bytes).sum::<u64>() + heads
    }

    fn heads(&self) -> impl Iterator<Item = &Head> {
        self.small.iter().chain(&self.large)
    }

    fn publish(&self) {
        let counts = &self.shared.counts;
        let bytes = self.bytes();
        counts.ring_bytes.set(bytes);
        counts.ring_segments.set((self.segments.len() + self.heads().count()) as u64);
        let unread = self.segments.iter().filter(|owned| owned.read.is_none()).count();
        counts.ring_unscanned.set(unread as u64);
        counts.ring_capacity_now.set(self.limits.capacity(&self.dir, bytes));
        counts.free_bytes.set(self.limits.free(&self.dir));
    }
}
