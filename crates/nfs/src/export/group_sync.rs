//! One sync for all who wait at a time: whoever comes first syncs for everybody that came meanwhile.
//!
//! Directories are synced, not the files put into them: a new file gets its attributes under a name in the
//! staging folder and is then renamed into place, and ext4, xfs and btrfs commit these in the order they were
//! made, so that the sync of the rename covers what came before it.

use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

#[derive(Default)]
pub(crate) struct GroupSync {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: Vec<(u64, Vec<OwnedFd>)>,
    leading: bool,
    /// Outcomes that were not yet picked up.
    done: HashMap<u64, Result<(), io::ErrorKind>>,
}

impl GroupSync {
    /// Returns when all these files are on stable storage. Blocks.
    pub(crate) fn sync(&self, files: Vec<OwnedFd>) -> io::Result<()> {
        let mut state = self.state.lock();
        let ticket = state.next;
        state.next += 1;
        state.waiting.push((ticket, files));
        loop {
            if let Some(outcome) = state.done.remove(&ticket) {
                return outcome.map_err(io::Error::from);
            }
            if state.leading {
                self.changed.wait(&mut state);
                continue;
            }
            state.leading = true;
            let batch = std::mem::take(&mut state.waiting);
            drop(state);
            let outcomes = sync_all(batch);
            state = self.state.lock();
            state.leading = false;
            state.done.extend(outcomes);
            self.changed.notify_all();
        }
    }
}

/// Syncs each inode once. The order is that of arrival.
fn sync_all(batch: Vec<(u64, Vec<OwnedFd>)>) -> Vec<(u64, Result<(), io::ErrorKind>)> {
    let mut synced: HashMap<u64, Result<(), io::ErrorKind>> = HashMap::new();
    let mut outcomes = Vec::with_capacity(batch.len());
    for (ticket, files) in batch {
        let mut outcome = Ok(());
        for file in &files {
            let one = match rustix::fs::fstat(file) {
                Ok(stat) => *synced.entry(stat.st_ino).or_insert_with(|| {
                    rustix::fs::fsync(file).map_err(|e| io::Error::from(e).kind())
                }),
                Err(e) => Err(io::Error::from(e).kind()),
            };
            outcome = outcome.and(one);
        }
        outcomes.push((ticket, outcome));
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::GroupSync;
    use std::sync::Arc;

    #[test]
    fn everyone_who_waits_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let sync = Arc::new(GroupSync::default());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (sync, dir) = (sync.clone(), std::fs::File::open(dir.path()).unwrap());
                std::thread::spawn(move || {
                    for _ in 0..20 {
                        sync.sync(vec![dir.try_clone().unwrap().into()]).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let state = sync.state.lock();
        assert!(state.done.is_empty() && state.waiting.is_empty() && !state.leading);
    }
}
