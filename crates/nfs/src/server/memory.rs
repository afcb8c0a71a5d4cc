//! Memory for calls that come: a budget of all connections. One client address has three quarters of it at most, so that
//! what it begins and does not send leaves others theirs.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Permits are KiB.
pub(super) struct CallMemory {
    all: Arc<Semaphore>,
    share: usize,
    clients: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// What one client may take.
#[derive(Clone)]
pub(super) struct ClientMemory {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Memory that was taken, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl CallMemory {
    pub(super) fn new(kib: usize) -> Self {
        let (all, share) = (Arc::new(Semaphore::new(kib)), kib / 4 * 3);
        Self { all, share, clients: Mutex::default() }
    }

    /// The memory of a client, shared by its connections.
    pub(super) fn of_client(&self, ip: IpAddr) -> ClientMemory {
        let mut clients = self.clients.lock();
        let known = clients.get(&ip).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            clients.retain(|_, semaphore| semaphore.strong_count() > 0);
            let own = Arc::new(Semaphore::new(self.share));
            clients.insert(ip, Arc::downgrade(&own));
            own
        });
        ClientMemory { own, all: self.all.clone() }
    }
}

impl ClientMemory {
    pub(super) fn try_take(&self, kib: u32) -> Option<Taken> {
        let own = self.own.clone().try_acquire_many_owned(kib).ok()?;
        let all = self.all.clone().try_acquire_many_owned(kib).ok()?;
        Some(Taken { _own: own, _all: all })
    }

    /// Waits for the client's own share first: what waits there keeps nothing from others.
    pub(super) async fn take(self, kib: u32) -> Result<Taken, AcquireError> {
        let own = self.own.acquire_many_owned(kib).await?;
        let all = self.all.acquire_many_owned(kib).await?;
        Ok(Taken { _own: own, _all: all })
    }
}

#[cfg(test)]
mod tests {
    use super::CallMemory;
    use std::net::Ipv4Addr;

    #[test]
    fn one_client_leaves_others_a_quarter() {
        let memory = CallMemory::new(100);
        let client = |n| memory.of_client(Ipv4Addr::new(10, 0, 0, n).into());
        let (greedy, again, other) = (client(1), client(1), client(2));
        let held = greedy.try_take(75).unwrap();
        assert!(again.try_take(1).is_none(), "another connection of the same client");
        let rest = other.try_take(25).unwrap();
        assert!(other.try_take(1).is_none(), "there is no more");
        drop((held, rest));
        assert!(again.try_take(75).is_some());
        drop((greedy, again, other));
        client(3);
        assert_eq!(memory.clients.lock().len(), 1, "clients that have gone are forgotten");
    }
}
