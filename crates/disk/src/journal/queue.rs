use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::DiskError;
use crate::gate::Entered;
use crate::overlay::Overlay;

/// Bytes of guest data that may wait for the journal or be in it unacknowledged. With the buffers
/// of the committers this bounds the memory of all writes; past it writers wait.
const QUEUED_BYTES: usize = 64 << 20;
/// Unit of the bound: a permit each, so that small writes count as well.
const PERMIT_BYTES: usize = 4096;

/// A write on its way to the journal.
pub(crate) struct Request {
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    /// The disk's size when the fills were made.
    pub(crate) size: u64,
    /// What the base has in the first grain, if the write covers it in part.
    pub(crate) head: Option<Bytes>,
    /// What the base has in the last grain, if the write covers it in part and it is not the first.
    pub(crate) tail: Option<Bytes>,
    pub(crate) waiter: Waiter,
}

/// Who waits for a write, and what it holds until it is answered.
pub(crate) struct Waiter {
    pub(crate) reply: oneshot::Sender<Result<(), DiskError>>,
    pub(crate) _entered: Entered,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Waiter {
    /// Answers. A writer that has gone is nobody to tell.
    pub(crate) fn answer(self, result: Result<(), DiskError>) {
        let _ = self.reply.send(result);
    }
}

/// Writes in the order in which the journal will take them.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: Option<DiskError>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let room = Arc::new(Semaphore::new(QUEUED_BYTES / PERMIT_BYTES));
        Self { waiting: Mutex::default(), arrived: Condvar::new(), room }
    }

    /// Waits until `len` more bytes may be under way.
    pub(crate) async fn room_for(&self, len: usize) -> Result<OwnedSemaphorePermit, DiskError> {
        let permits = len.div_ceil(PERMIT_BYTES).clamp(1, QUEUED_BYTES / PERMIT_BYTES) as u32;
        self.room.clone().acquire_many_owned(permits).await.map_err(|_| DiskError::Gone)
    }

    /// Appends a request; once closed it is answered at once.
    pub(crate) fn push(&self, request: Request) {
        let mut waiting = self.waiting.lock();
        match &waiting.closed {
            Some(error) => {
                let error = error.clone();
                drop(waiting);
                request.waiter.answer(Err(error));
            }
            None => {
                waiting.requests.push_back(request);
                drop(waiting);
                self.arrived.notify_one();
            }
        }
    }

    /// Waits for the first request. `None` once closed and empty.
    pub(crate) fn wait(&self) -> Option<Request> {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.requests.pop_front() {
                Some(request) => return Some(request),
                None if waiting.closed.is_some() => return None,
                None => self.arrived.wait(&mut waiting),
            }
        }
    }

    /// The next request, if there is one.
    pub(crate) fn next(&self) -> Option<Request> {
        self.waiting.lock().requests.pop_front()
    }

    /// From now on requests are answered with `error`; those that wait are still taken.
    pub(crate) fn close(&self, error: DiskError) {
        self.waiting.lock().closed.get_or_insert(error);
        self.arrived.notify_all();
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().requests.len()
    }
}
