//! Jobs on real repositories, disks, caches and exports in a directory of their own.

mod attach;
mod batches;
mod boot;
mod budget;
mod crashes;
mod ends;
mod fork;
mod gates;
mod hosts;
mod in_place;
mod keep;
mod kinds;
mod limits;
mod low_pause;
mod migration;
mod rate;
mod restored;
mod rewriting;
mod upkeep;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where a journal is to stop for ever, as a kill does: before or after its n-th write.
#[derive(Clone, Default)]
pub(crate) struct CrashPoint(Arc<Crash>);

#[derive(Default)]
struct Crash {
    writes: AtomicUsize,
    at: Mutex<Option<(usize, bool)>>,
    reached: Notify,
}

impl CrashPoint {
    pub(crate) async fn before_write(&self) {
        let write = self.0.writes.load(Ordering::SeqCst);
        self.stop_at(write, false).await;
    }

    pub(crate) async fn after_write(&self) {
        let write = self.0.writes.fetch_add(1, Ordering::SeqCst);
        self.stop_at(write, true).await;
    }

    async fn stop_at(&self, write: usize, after: bool) {
        // Or later: the write that was under way when this was armed had its beginning behind it.
        if self.0.at.lock().is_some_and(|at| write >= at.0 && after == at.1) {
            self.0.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Stops at the n-th write from now.
    fn arm(&self, write: usize, after: bool) {
        let now = self.0.writes.load(Ordering::SeqCst);
        *self.0.at.lock() = Some((now + write, after));
    }

    async fn reached(&self) {
        self.0.reached.notified().await;
    }
}
