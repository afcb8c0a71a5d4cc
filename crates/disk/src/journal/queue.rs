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
    reply: Option<oneshot::Sender<Result<(), DiskError>>>,
    /// Held until the write is applied, which may be after its answer.
    _entered: Entered,
    _permit: OwnedSemaphorePermit,
}

impl Waiter {
    pub(crate) fn new(
        reply: oneshot::Sender<Result<(), DiskError>>,
        entered: Entered,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { reply: Some(reply), _entered: entered, _permit: permit }
    }

    /// Answers, once. A writer that has gone is nobody to tell.
    pub(crate) fn answer(&mut self, result: Result<(), DiskError>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
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
    pub(crate) fn push(&self, mut request: Request) {
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

    /// Waits until there is a request: `true`. Another may take it first. `false` once closed and empty.
    pub(crate) fn wait(&self) -> bool {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.requests.is_empty() {
                false => return true,
                true if waiting.closed.is_some() => return false,
                true => self.arrived.wait(&mut waiting),
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
