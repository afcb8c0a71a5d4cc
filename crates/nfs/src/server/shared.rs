//! What all connections share.

use super::memory::CallMemory;
use super::penalties::Penalties;
use super::spin::Spinner;
use super::waiting::WaitingCount;
use crate::service::Service;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a connection may queue however many there are.
const LEAST_REPLIES: usize = 64 << 10;
/// What the kernel may keep unsent for a connection: with less a READ stream over a long line stalls, with more it gains
/// nothing.
const LEAST_UNSENT: usize = 128 << 10;
const MOST_UNSENT: usize = 2 << 20;

/// One for the server.
pub(super) struct Shared {
    pub(super) service: Arc<Service>,
    pub(super) call_memory: CallMemory,
    pub(super) waiting: Arc<WaitingCount>,
    pub(super) spinner: Arc<Spinner>,
    pub(super) penalties: Penalties,
    /// Connections.
    pub(super) open: AtomicUsize,
}

/// Counts a connection as open from when it is accepted: of many that come at once, each must see those before it.
pub(super) struct Open(Arc<Shared>);

impl Open {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// How many bytes of replies a connection may queue.
    pub(super) fn reply_bytes(&self) -> usize {
        let limits = &self.service.config.limits;
        let share = limits.all_reply_bytes / self.open.load(Ordering::Relaxed).max(1);
        share.max(LEAST_REPLIES).min(limits.reply_bytes)
    }

    /// How many bytes the kernel may keep unsent for one more connection.
    pub(super) fn unsent_bytes(&self) -> u32 {
        let all = self.service.config.limits.all_unsent_bytes;
        let share = all / (self.open.load(Ordering::Relaxed) + 1);
        share.clamp(LEAST_UNSENT, MOST_UNSENT) as u32
    }
}
