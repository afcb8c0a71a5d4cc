use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::DiskError;

/// Counts a disk's writes in flight, and can hold new ones back.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
    shut: AtomicBool,
}

#[derive(Default)]
struct State {
    in_flight: u64,
    holds: u64,
}

/// One write in flight. It ends when dropped: after it was applied, or failed, or was given up.
pub(crate) struct Entered(Arc<Gate>);

/// While this lives, new writes of the disk wait; those before it are done.
#[must_use = "writes go on when the hold is dropped"]
pub struct WriteHold(Arc<Gate>);

impl Gate {
    /// Begins a write; waits while a hold lives.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Entered, DiskError> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                if self.is_shut() {
                    return Err(DiskError::Gone);
                }
                if state.holds == 0 {
                    state.in_flight += 1;
                    return Ok(Entered(self.clone()));
                }
            }
            changed.await;
        }
    }

    /// Holds new writes back and waits for those in flight.
    pub(crate) async fn hold(self: &Arc<Self>) -> WriteHold {
        self.state.lock().holds += 1;
        let hold = WriteHold(self.clone());
        loop {
            let changed = self.changed.notified();
            if self.state.lock().in_flight == 0 {
                return hold;
            }
            changed.await;
        }
    }

    /// From now on every write fails with `Gone`, also those that wait.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 && state.holds > 0 {
            drop(state);
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for WriteHold {
    fn drop(&mut self) {
        self.0.state.lock().holds -= 1;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_hold_waits_for_what_is_in_flight_and_stops_what_comes() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter().await.unwrap();
        let mut hold = Box::pin(gate.hold());
        assert!(hold.as_mut().now_or_never().is_none());
        let mut second = Box::pin(gate.enter());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let hold = hold.await;
        assert!(second.as_mut().now_or_never().is_none());
        drop(hold);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn a_hold_that_is_given_up_holds_nothing() {
        let gate = Arc::new(Gate::default());
        let _first = gate.enter().await.unwrap();
        assert!(gate.hold().now_or_never().is_none());
        assert!(gate.enter().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_shut_gate_ends_what_waits() {
        let gate = Arc::new(Gate::default());
        let _hold = gate.hold().await;
        let mut waiting = Box::pin(gate.enter());
        assert!(waiting.as_mut().now_or_never().is_none());
        gate.shut();
        assert!(matches!(waiting.await, Err(DiskError::Gone)));
    }
}
