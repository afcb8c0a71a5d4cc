use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rekindle_block::{Block, BlockHash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::flight::{Boarding, Flights, Seat};
use crate::ram::Ram;
use crate::ring::{PAGE, Ring, Space};
use crate::schedule::{Schedule, Ticket};
use crate::stats::Counts;
use crate::{CacheConfig, CacheError, CacheStats};

/// 4 KiB pages of blocks that guests wait for at once: 128 MiB, that is 512 blocks of 256 KiB. It
/// bounds the memory of reads under way, also of those whose reader has gone.
const GUEST_PAGES: usize = (128 << 20) / PAGE;
/// The same for profile and scan, so that they never hold up a guest: 64 MiB.
const BACKGROUND_PAGES: usize = (64 << 20) / PAGE;

/// Who wants a block. The higher stands first: it reads first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A guest waits for it: goes to RAM and ring, counts as used.
    Guest,
    /// A guest reads in order and will want it: goes to the ring, and to RAM while that has room.
    Ahead,
    /// A boot profile asks ahead: the same.
    Profile,
    /// A check passes by: goes to the ring.
    Scan,
    /// The mover passes by: the same.
    Mover,
}

impl Priority {
    /// All ranks, the highest first.
    pub const ALL: [Self; 5] = [Self::Guest, Self::Ahead, Self::Profile, Self::Scan, Self::Mover];

    /// Whether it makes way when guests wait too long.
    pub(crate) fn is_steered(self) -> bool {
        matches!(self, Self::Scan | Self::Mover)
    }
}

/// Blocks at hand, by name. See the crate's page for how.
pub struct Cache {
    ram: Arc<Ram>,
    ring: Ring,
    flights: Flights,
    counts: Arc<Counts>,
    schedule: Arc<Schedule>,
    guests: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

impl Cache {
    /// Opens the cache of `config.root_dir`, making the directory if needed. What an earlier process
    /// left in the ring is read by a thread of its own: this call does not wait for it.
    ///
    /// `Unavailable` when the directory cannot be used or another process has it.
    pub fn open(config: CacheConfig) -> Result<Arc<Self>, CacheError> {
        Self::open_on(config, Space::FileSystem)
    }

    pub(crate) fn open_on(config: CacheConfig, space: Space) -> Result<Arc<Self>, CacheError> {
        config.check()?;
        let ram = Arc::new(Ram::new(config.ram_bytes));
        let counts = Arc::new(Counts::default());
        let ring = Ring::open(&config, space, ram.clone(), counts.clone())?;
        Ok(Arc::new(Self {
            ram,
            ring,
            flights: Flights::default(),
            counts,
            schedule: Schedule::new(),
            guests: Arc::new(Semaphore::new(GUEST_PAGES)),
            background: Arc::new(Semaphore::new(BACKGROUND_PAGES)),
        }))
    }

    /// Bytes `range` of the block, if they are at hand: in RAM, or in the ring with its pages in the
    /// page cache. Never waits. Counts as a use. `None` also when `range` is outside the block.
    #[inline]
    pub fn peek(&self, hash: &BlockHash, range: Range<usize>) -> Option<Bytes> {
        if let Some(block) = self.ram.get(hash) {
            let inside = range.start <= range.end && range.end <= block.bytes().len();
            self.counts.ram_hits.add(1);
            return inside.then(|| block.bytes().slice(range));
        }
        self.ring.read_now(hash, range)
    }

    /// Whether the block is in RAM or in the ring. Does not count as a use, and promises nothing: the
    /// ring's slot may be bad, or go.
    pub fn has(&self, hash: &BlockHash) -> bool {
        self.ram.has(hash) || self.ring.knows(hash)
    }

    /// The block: from RAM, the ring, or one `fetch` shared by all who ask for it meanwhile.
    ///
    /// `plain_len` is the block's length. `fetch` is not polled unless it is the one. An error reaches
    /// everyone who waited, and is forgotten. Dropped, it takes a fetch along that waits for its turn and for no guest.
    pub async fn get<E>(
        self: &Arc<Self>,
        hash: &BlockHash,
        plain_len: u32,
        priority: Priority,
        fetch: impl Future<Output = Result<Block, E>> + Send + 'static,
    ) -> Result<Block, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        if let Some(block) = self.ram.get(hash) {
            self.counts.ram_hits.add(1);
            return Ok(block);
        }
        let began = Instant::now();
        // Held before boarding, so that nobody joins a flight that waits for memory.
        let pages = self.pages(plain_len, priority).await;
        let ticket = Ticket::new(priority, plain_len.into());
        let block = match self.board::<E>(*hash, &ticket).await? {
            Boarded::Landed(block) => {
                if priority == Priority::Guest {
                    self.keep(&block);
                }
                block
            }
            Boarded::Leading(seat) => {
                let caller = Caller { schedule: &self.schedule, ticket: &ticket };
                let flight = self.clone().fly(seat, priority, pages, fetch);
                let landed = finished(tokio::spawn(flight)).await;
                std::mem::forget(caller);
                match landed {
                    Some(landed) => landed?,
                    // Given up, which only a caller that is gone does.
                    None => std::future::pending().await,
                }
            }
        };
        if priority == Priority::Guest {
            self.schedule.guest_waited(began.elapsed());
        } else {
            let soon = matches!(priority, Priority::Ahead | Priority::Profile);
            if soon && self.ram.has_room() {
                self.ram.put(&block);
            }
            // Waits for the ring's queue: the mover goes no faster than the ring can write.
            self.ring.offer_in_turn(&block).await;
        }
        Ok(block)
    }

    /// Reads from a repository what is not to be kept, in its turn among all reads.
    pub async fn pass<T>(
        &self,
        bytes: u32,
        priority: Priority,
        read: impl Future<Output = T>,
    ) -> T {
        let _turn = self.schedule.turn(&Ticket::new(priority, bytes.into())).await;
        self.counts.passed.add(1);
        read.await
    }

    /// Holds all reads of repositories but guests' to so many bytes per second together; 0 for no
    /// limit. What guests read is taken from it.
    pub fn limit(&self, bytes_per_second: u64) {
        self.schedule.limit(bytes_per_second);
    }

    /// Has scans and movers make way for guests that wait longer than `target` in more than one read
    /// of 20, and longer than they would alone.
    pub fn steer_by(&self, target: Duration) {
        self.schedule.steer_by(target);
    }

    /// What the cache holds and has done.
    pub fn stats(&self) -> CacheStats {
        let ((p95, allowed), (reading, waiting)) = (self.schedule.steering(), self.schedule.load());
        CacheStats {
            reads_under_way: reading as u64,
            reads_waiting: waiting as u64,
            guest_wait_p95_micros: u64::try_from(p95.as_micros()).unwrap_or(u64::MAX),
            background_reads_allowed: allowed as u64,
            ram_bytes: self.ram.bytes(),
            ring_blocks: self.ring.blocks(),
            in_flight: self.flights.count() as u64,
            ..self.counts.read()
        }
    }

    /// Waits until the ring has read what an earlier process left, has written what it was given, and
    /// has looked at the file system's free space.
    pub async fn settle(&self) {
        self.ring.settle().await;
    }

    /// Gives back at least `bytes` of the ring's file system, oldest blocks first, as far as the ring
    /// has them; says how many. For an overlay that found its file system full.
    pub async fn give_back(&self, bytes: u64) -> u64 {
        self.ring.give_back(bytes).await
    }

    /// Writes out what is queued and the ring's own notes, and lets go of the directory. The next
    /// open is warm at once. Reads still work afterwards, but nothing is kept in the ring any more.
    pub async fn close(&self) {
        self.ring.close().await;
    }

    async fn pages(&self, plain_len: u32, priority: Priority) -> Option<OwnedSemaphorePermit> {
        let (pages, most) = match priority {
            Priority::Guest => (&self.guests, GUEST_PAGES),
            Priority::Ahead | Priority::Profile | Priority::Scan | Priority::Mover => {
                (&self.background, BACKGROUND_PAGES)
            }
        };
        let wanted = (plain_len as usize).div_ceil(PAGE).clamp(1, most);
        // Fails only for a closed semaphore, and these are never closed.
        pages.clone().acquire_many_owned(u32::try_from(wanted).unwrap_or(1)).await.ok()
    }

    async fn board<E: Send + Sync + 'static>(
        &self,
        hash: BlockHash,
        ticket: &Arc<Ticket>,
    ) -> Result<Boarded, Arc<E>> {
        loop {
            let passenger = match self.flights.board(hash, ticket) {
                Boarding::Lead(seat) => return Ok(Boarded::Leading(seat)),
                Boarding::Join(passenger) => passenger,
            };
            self.counts.joined.add(1);
            if ticket.is_guests() {
                self.schedule.hurry(passenger.ticket());
            }
            match passenger.wait().await {
                Some(Ok(block)) => return Ok(Boarded::Landed(block)),
                Some(Err(error)) => {
                    // An error of another type is not ours to report: try for ourselves.
                    if let Ok(error) = error.downcast::<E>() {
                        return Err(error);
                    }
                }
                None => {}
            }
        }
    }

    /// The one read for everybody. Runs in a task of its own, whoever goes away. `None` if it was given up before its turn.
    async fn fly<E: Send + Sync + 'static>(
        self: Arc<Self>,
        seat: Seat,
        priority: Priority,
        _pages: Option<OwnedSemaphorePermit>,
        fetch: impl Future<Output = Result<Block, E>> + Send + 'static,
    ) -> Option<Result<Block, Arc<E>>> {
        let result = match self.at_hand(seat.hash(), priority).await {
            Some(block) => Ok(block),
            None => {
                let _turn = self.schedule.turn(seat.ticket()).await?;
                self.counts.misses.add(1);
                match priority {
                    Priority::Ahead => self.counts.ahead.add(1),
                    Priority::Profile => self.counts.profile.add(1),
                    Priority::Guest | Priority::Scan | Priority::Mover => {}
                }
                fetch.await.map_err(Arc::new)
            }
        };
        // Kept before landing: who comes after the flight finds the block in the cache.
        if let (Ok(block), Priority::Guest) = (&result, priority) {
            self.keep(block);
        }
        seat.land(match &result {
            Ok(block) => Ok(block.clone()),
            Err(error) => Err(error.clone()),
        });
        Some(result)
    }

    async fn at_hand(self: &Arc<Self>, hash: BlockHash, priority: Priority) -> Option<Block> {
        // RAM again: the flight before this one may have landed since the caller looked.
        if let Some(block) = self.ram.get(&hash) {
            self.counts.ram_hits.add(1);
            return Some(block);
        }
        if let Some(block) = self.ring.queued(&hash) {
            self.counts.ring_hits.add(1);
            return Some(block);
        }
        if !self.ring.has(&hash) {
            return None;
        }
        let cache = self.clone();
        let used = priority == Priority::Guest;
        let read = tokio::task::spawn_blocking(move || cache.ring.read(&hash, used));
        // A read that panicked or was shut down is a miss.
        read.await.ok().flatten()
    }

    fn keep(&self, block: &Block) {
        self.ram.put(block);
        self.ring.offer(block);
    }
}

/// Who waits for a flight that it leads. Dropped, it has gone away.
struct Caller<'a> {
    schedule: &'a Schedule,
    ticket: &'a Arc<Ticket>,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.schedule.give_up(self.ticket);
    }
}

enum Boarded {
    Landed(Block),
    Leading(Seat),
}

/// The result of a task, with its panic if it had one.
async fn finished<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down and has dropped the task: nobody is left to tell.
            Err(_) => std::future::pending().await,
        },
    }
}
