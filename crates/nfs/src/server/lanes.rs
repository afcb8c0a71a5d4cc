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
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// More threads than this gain nothing: a core serves tens of thousands of calls a second.
const MOST: usize = 16;

pub(super) struct Lanes {
    lanes: Vec<Lane>,
    stop: CancellationToken,
}

struct Lane {
    handle: Handle,
    /// A clone of it for each connection.
    connections: Arc<()>,
    thread: JoinHandle<()>,
}

/// A place in a lane, taken until it is dropped.
pub(super) struct Place {
    handle: Handle,
    connections: Arc<()>,
}

impl Place {
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether no other connection is in the lane.
    pub(super) fn is_alone(&self) -> bool {
        // The lane's own and this one.
        Arc::strong_count(&self.connections) <= 2
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

    /// A place where the fewest connections are.
    pub(super) fn place(&self) -> Option<Place> {
        let lane = self.lanes.iter().min_by_key(|lane| Arc::strong_count(&lane.connections))?;
        Some(Place { handle: lane.handle.clone(), connections: lane.connections.clone() })
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("nfs".into());
        let thread = thread.spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { handle, connections: Arc::default(), thread })
    }
}
