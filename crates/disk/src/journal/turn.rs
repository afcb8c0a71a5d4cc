use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::records::Position;
use crate::{Cause, DiskError};

/// Who may apply its batch now: batches take effect in the order of their numbers, each after all
/// before it are durable and applied.
pub(crate) struct Turn {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Where the batch after the last applied one goes.
    next: Position,
    /// The batch that goes there is being applied; its writers may have been answered.
    begun: bool,
    stopped: Option<Cause>,
}

impl Turn {
    pub(crate) fn new(next: Position) -> Self {
        Self {
            state: Mutex::new(State { next, begun: false, stopped: None }),
            changed: Condvar::new(),
        }
    }

    /// Waits until all batches before `seq` are applied. Fails once the journal has stopped: what
    /// was not applied by then never will be.
    pub(crate) fn wait_for(&self, seq: u64) -> Result<(), DiskError> {
        self.until(|state| state.next.seq == seq).map(drop)
    }

    /// Begins the turn of the batch `seq`, when all before it are applied. Fails as [`Turn::wait_for`].
    pub(crate) fn begin(&self, seq: u64) -> Result<(), DiskError> {
        self.until(|state| state.next.seq == seq).map(|mut state| state.begun = true)
    }

    /// Waits until all that was answered is applied. Fails as [`Turn::wait_for`].
    pub(crate) fn settle(&self) -> Result<(), DiskError> {
        let now = self.next().seq;
        self.until(|state| !state.begun || state.next.seq > now).map(drop)
    }

    fn until(&self, done: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.state.lock();
        loop {
            if let Some(cause) = &state.stopped {
                return Err(DiskError::Stopped(cause.clone()));
            }
            if done(&state) {
                return Ok(state);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Ends the turn of the batch before `next`.
    pub(crate) fn pass_to(&self, next: Position) {
        {
            let mut state = self.state.lock();
            (state.next, state.begun) = (next, false);
        }
        self.changed.notify_all();
    }

    /// Where the batch after the last applied one goes.
    pub(crate) fn next(&self) -> Position {
        self.state.lock().next
    }

    /// The number of the last applied batch.
    pub(crate) fn applied(&self) -> u64 {
        self.next().seq - 1
    }

    /// Stops the journal for good. The first cause stays.
    pub(crate) fn stop(&self, cause: &DiskError) {
        let mut state = self.state.lock();
        if state.stopped.is_none() {
            tracing::error!(%cause, source = ?cause, "overlay writes stop until restart");
            state.stopped = Some(Arc::new(cause.clone()));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The error that every write gets, once stopped.
    pub(crate) fn stopped(&self) -> Option<DiskError> {
        self.state.lock().stopped.clone().map(DiskError::Stopped)
    }
}
