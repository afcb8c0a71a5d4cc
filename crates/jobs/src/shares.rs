use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_nfs::ClientNet;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::JobId;

/// The jobs that use one thing, and who may mount it for each.
pub(crate) type Users = BTreeMap<JobId, Vec<ClientNet>>;

/// Things that several jobs share: the first makes them, the last removes them. Entries that nobody
/// uses are dropped, so there are never more than jobs.
pub(crate) struct Shares<K>(Mutex<HashMap<K, Arc<AsyncMutex<Users>>>>);

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// The users of `key`, locked while the thing itself is made, changed or removed: a job that
    /// joins waits for one that leaves, however long the host takes.
    pub(crate) async fn of(&self, key: &K) -> OwnedMutexGuard<Users> {
        let users = {
            let mut all = self.0.lock();
            all.retain(|_, users| {
                Arc::strong_count(users) > 1 || users.try_lock().is_ok_and(|u| !u.is_empty())
            });
            all.entry(key.clone()).or_default().clone()
        };
        users.lock_owned().await
    }
}

/// Everybody who may mount a thing that these jobs use.
pub(crate) fn all_clients(users: &Users) -> Vec<ClientNet> {
    let mut all: Vec<ClientNet> = Vec::new();
    for client in users.values().flatten() {
        if !all.contains(client) {
            all.push(*client);
        }
    }
    all
}
