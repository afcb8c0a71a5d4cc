//! Calls that wait, and how many they are.

use super::memory::Taken;
use crate::service::{Late, Waiting};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// How many calls of all connections wait.
#[derive(Debug, Default)]
pub(super) struct WaitingCount(AtomicUsize);

impl WaitingCount {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A call that waits. While it lives it is counted and keeps the memory its bytes were admitted with.
pub(super) struct Pending {
    call: Waiting,
    _memory: Option<Taken>,
    count: Arc<WaitingCount>,
}

impl Pending {
    pub(super) fn new(call: Waiting, memory: Option<Taken>, count: Arc<WaitingCount>) -> Self {
        count.0.fetch_add(1, Ordering::Relaxed);
        Self { call, _memory: memory, count }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Future for Pending {
    type Output = Late;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Late> {
        self.call.as_mut().poll(cx)
    }
}
