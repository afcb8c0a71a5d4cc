//! Counters of an export and of each client's session with it.

use super::Export;
use super::node::Time;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Clients whose sessions are kept per export.
const SESSIONS: usize = 1024;
/// How long a client without a MNT counts as there after its last call.
const ACTIVE: u32 = 60;
/// Clients in the list of mounts per export.
const MOUNTS: usize = 1024;
/// How long a client that mounted and never unmounted is listed.
const MOUNT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Counters of an export.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) calls: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) write_bytes: AtomicU64,
    /// READs that wait for a repository just now.
    pub(crate) held_reads: AtomicU64,
}

/// One client of an export.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) calls: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) write_bytes: AtomicU64,
    pub(crate) last_seen: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Counts one while it lives.
pub(crate) struct Gauge(pub(crate) Arc<Export>);

impl Gauge {
    pub(crate) fn held_read(export: &Arc<Export>) -> Self {
        add(&export.stats.held_reads, 1);
        Self(export.clone())
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.stats.held_reads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Export {
    /// The session of a client, begun by its first call.
    pub(crate) fn session(&self, client: IpAddr) -> Arc<Session> {
        if let Some(session) = self.sessions.read().get(&client) {
            return session.clone();
        }
        let mut sessions = self.sessions.write();
        if sessions.len() >= SESSIONS {
            let last_seen = |s: &Session| s.last_seen.load(Ordering::Relaxed);
            let oldest = sessions.iter().min_by_key(|(_, s)| last_seen(s)).map(|(ip, _)| *ip);
            oldest.and_then(|ip| sessions.remove(&ip));
        }
        sessions.entry(client).or_default().clone()
    }

    pub(crate) fn mounted(&self, client: IpAddr) {
        let mut mounts = self.mounts.lock();
        mounts.retain(|_, since| since.elapsed() < MOUNT_KEPT);
        if mounts.len() < MOUNTS {
            mounts.insert(client, Instant::now());
        }
    }

    pub(crate) fn unmounted(&self, client: IpAddr) {
        self.mounts.lock().remove(&client);
        self.sessions.write().remove(&client);
    }

    /// Clients that mounted and did not unmount (DUMP lists them).
    pub(crate) fn mounts(&self) -> Vec<IpAddr> {
        self.mounts.lock().keys().copied().collect()
    }

    /// Who has the export mounted, by their MNT and UMNT calls and by their activity in the last minute.
    pub fn mounted_by(&self) -> Vec<IpAddr> {
        let now = Time::now().wire().seconds;
        let mut clients = self.mounts();
        for (client, session) in self.sessions.read().iter() {
            let seen = session.last_seen.load(Ordering::Relaxed) as u32;
            if now.saturating_sub(seen) <= ACTIVE && !clients.contains(client) {
                clients.push(*client);
            }
        }
        clients.sort();
        clients
    }
}
