//! Threads that serve connections.
//!
//! Each thread has a runtime of its own and its share of the connections: a call that comes wakes this one thread and
//! no other. On the process's runtime a wake-up makes one worker wake the next, to look for more work; measured, a
//! durable WRITE took half as many context switches again.
//!
//! What a call starts besides (a fetch, a blocking read) goes to the process's runtime: see
//! `Connection::poll_serve`.

use crate::NfsError;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// More threads than this gain nothing: a core serves tens of thousands of calls a second.
const MOST: usize = 16;
/// Turns that connections have before it is looked for what came meanwhile, for others that sleep and from other threads:
/// few, since a connection with much to do has a turn again at once.
const TURNS: u32 = 2;
/// A connection that was the only one of its lane to call for so long is taken to be alone in it.
const ALONE: Duration = Duration::from_millis(10);
/// A lane where somebody called within that time is one where somebody will.
const OF_LATE: Duration = Duration::from_millis(100);

pub(super) struct Lanes {
    lanes: Vec<Lane>,
    stop: CancellationToken,
}

struct Lane {
    handle: Handle,
    /// A clone of it for each connection.
    callers: Arc<Callers>,
    thread: JoinHandle<()>,
}

/// Who calls in a lane.
struct Callers {
    begun: Instant,
    places: AtomicU64,
    /// The place that called last.
    last: AtomicU64,
    /// Microseconds from `begun` to the first of the calls that are all of that place.
    since: AtomicU64,
    /// Microseconds from `begun` to the last call.
    latest: AtomicU64,
}

/// A place in a lane, taken until it is dropped.
pub(super) struct Place {
    handle: Handle,
    number: u64,
    callers: Arc<Callers>,
}

impl Place {
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A call came here, at `now`.
    pub(super) fn called(&self, now: Instant) {
        // Written by the lane's thread alone: nothing is ordered by it.
        let now = self.callers.micros(now);
        self.callers.latest.store(now, Ordering::Relaxed);
        if self.callers.last.swap(self.number, Ordering::Relaxed) != self.number {
            self.callers.since.store(now, Ordering::Relaxed);
        }
    }

    /// Whether no other connection is in the lane.
    pub(super) fn is_alone(&self) -> bool {
        // The lane's own and this one.
        Arc::strong_count(&self.callers) <= 2
    }

    /// Whether no other connection of the lane has called of late.
    pub(super) fn calls_alone(&self, now: Instant) -> bool {
        let since = self.callers.since.load(Ordering::Relaxed);
        self.callers.last.load(Ordering::Relaxed) == self.number
            && self.callers.micros(now).saturating_sub(since) >= ALONE.as_micros() as u64
    }
}

impl Callers {
    fn new() -> Self {
        let (last, since) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let latest = AtomicU64::new(0);
        Self { begun: Instant::now(), places: AtomicU64::new(0), last, since, latest }
    }

    /// Whether anybody has called within a moment.
    fn called_of_late(&self, now: Instant) -> bool {
        let latest = self.latest.load(Ordering::Relaxed);
        let since = self.micros(now).saturating_sub(latest);
        latest > 0 && since < OF_LATE.as_micros() as u64
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_micros() as u64
    }
}

impl Lanes {
    /// Starts a thread for each core.
    pub(super) fn start() -> Result<Self, NfsError> {
        let stop = CancellationToken::new();
        let count = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST));
        let lanes = (0..count).map(|_| Lane::start(stop.clone())).collect::<io::Result<_>>();
        Ok(Self { lanes: lanes.map_err(NfsError::io("start threads for connections"))?, stop })
    }

    /// A place where the fewest connections are, of such lanes in one where nobody has called of late.
    pub(super) fn place(&self) -> Option<Place> {
        let now = Instant::now();
        let lane = self.lanes.iter().min_by_key(|lane| {
            (Arc::strong_count(&lane.callers), lane.callers.called_of_late(now))
        })?;
        Some(lane.place())
    }

    /// Ends the threads. Connections that are left are closed.
    pub(super) async fn end(self) {
        self.stop.cancel();
        let join = move || {
            for lane in self.lanes {
                if lane.thread.join().is_err() {
                    tracing::error!("a thread that served connections panicked");
                }
            }
        };
        // Only a panic in `join` could be lost.
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

impl Lane {
    fn start(stop: CancellationToken) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(TURNS)
            .global_queue_interval(TURNS)
            .build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("nfs".into());
        let thread = thread.spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { handle, callers: Arc::new(Callers::new()), thread })
    }

    fn place(&self) -> Place {
        let number = self.callers.places.fetch_add(1, Ordering::Relaxed);
        Place { handle: self.handle.clone(), number, callers: self.callers.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALONE, Lane, Lanes, OF_LATE};
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use tokio_util::sync::CancellationToken;

    #[test]
    fn who_alone_calls_is_alone_until_another_one_does() {
        let stop = CancellationToken::new();
        let lane = Lane::start(stop.clone()).unwrap();
        let (place, other) = (lane.place(), lane.place());
        let begun = Instant::now();
        let at = |times| begun + ALONE * times;
        assert!(!place.calls_alone(at(1)), "it has not called");
        place.called(begun);
        assert!(!place.calls_alone(begun + ALONE - Duration::from_millis(1)));
        place.called(begun + ALONE / 2);
        assert!(place.calls_alone(at(1)), "the other one is there, and says nothing");
        other.called(at(1));
        assert!(!place.calls_alone(at(3)));
        place.called(at(3));
        assert!(!place.calls_alone(at(3)) && !other.calls_alone(at(4)));
        assert!(place.calls_alone(at(4)));
        stop.cancel();
        lane.thread.join().unwrap();
    }

    #[test]
    fn a_newcomer_is_placed_where_nobody_calls() {
        let stop = CancellationToken::new();
        let lanes = (0..2).map(|_| Lane::start(stop.clone()).unwrap()).collect();
        let lanes = Lanes { lanes, stop };
        let places = [lanes.place().unwrap(), lanes.place().unwrap()];
        for (calls, other) in [(0, 1), (1, 0)] {
            // As if from now on, so that a slow machine does not let it pass.
            places[calls].called(Instant::now() + OF_LATE * 1000);
            places[other].callers.latest.store(0, std::sync::atomic::Ordering::Relaxed);
            let newcomer = lanes.place().unwrap();
            assert!(Arc::ptr_eq(&newcomer.callers, &places[other].callers));
        }
        lanes.stop.cancel();
        for lane in lanes.lanes {
            lane.thread.join().unwrap();
        }
    }
}
