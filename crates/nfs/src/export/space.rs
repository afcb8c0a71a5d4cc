//! What FSSTAT says: looked up now and then, never by the call itself.

use super::Export;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Space for the guests' writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes there are.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
}

/// Where [`Space`] comes from, if not from the export's own file system. `None`: not known now, keep the last.
pub type SpaceProvider = Arc<dyn Fn() -> Option<Space> + Send + Sync>;

/// The answer to FSSTAT (RFC 1813 section 3.3.18).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpaceView {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) files: u64,
    pub(crate) free_files: u64,
}

impl Export {
    pub(crate) fn space(&self) -> SpaceView {
        *self.space.lock()
    }

    /// Looks the space up. Blocks.
    pub(crate) fn refresh_space(&self) {
        let provider = self.shared.space.read().clone();
        let space = match provider {
            Some(provider) => provider(),
            None => self.own_space(),
        };
        let Some(space) = space else { return };
        let taken = self.nodes.read().len() as u64;
        let files = (self.shared.files_per_export as u64).max(taken);
        // A disk counts with its whole size: what a client sees as used is not more than the total.
        let provisioned = self.provisioned();
        let view = SpaceView {
            total: space.total_bytes.max(provisioned.saturating_add(space.free_bytes)),
            free: space.free_bytes,
            files,
            free_files: files - taken,
        };
        *self.space.lock() = view;
    }

    fn own_space(&self) -> Option<Space> {
        let stat = rustix::fs::fstatvfs(&self.root_dir).ok()?;
        Some(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// Sizes of all disks together.
    fn provisioned(&self) -> u64 {
        let ids: Vec<u64> = self.disks.lock().values().copied().collect();
        let sizes = ids.iter().filter_map(|id| self.node(*id)).map(|node| node.size());
        sizes.fold(0, u64::saturating_add)
    }

    /// Ends the export: calls that still come find it stale. Waits for a change that is being made.
    pub(crate) fn close(&self) {
        self.removed.store(true, Ordering::Release);
        drop(self.names.lock());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}
