//! How fast guests wrote in earlier runs, by VM.

use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use rekindle_repo::VmId;
use rekindle_state::{Database, Keyspace, StateError};
use serde::{Deserialize, Serialize};

/// VMs that are remembered; the one unused longest makes room. Some 100 bytes each.
const VMS_MAX: usize = 1024;
/// A shorter run counts as one of so long: what a guest writes at its start it does not go on to.
const RUN_MIN: Duration = Duration::from_secs(300);

/// What one VM's guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rate {
    bytes_per_second: u64,
    /// Seconds since 1970 of the last run.
    used_at: i64,
}

/// The rates that are kept.
pub(crate) struct Writes {
    db: Database,
    rates: Keyspace<Rate>,
    /// Held by whoever notes a run.
    changing: Mutex<()>,
}

impl Writes {
    pub(crate) fn open(db: &Database) -> Result<Self, StateError> {
        let rates = db.keyspace("vm-write-rates")?;
        Ok(Self { db: db.clone(), rates, changing: Mutex::new(()) })
    }

    /// Bytes per second by which the VM's overlays grew; `None` if it was never seen.
    pub(crate) fn rate(&self, vm: &VmId) -> Result<Option<u64>, StateError> {
        match self.rates.get(vm.as_str().as_bytes()) {
            // Measured anew at the next run.
            Err(StateError::Corrupt(_)) => Ok(None),
            found => Ok(found?.map(|rate| rate.bytes_per_second)),
        }
    }

    /// Takes note of a run whose guest wrote `bytes`. A run that wrote more counts at once, one that
    /// wrote less by half.
    pub(crate) fn note(&self, vm: &VmId, bytes: u64, ran: Duration) -> Result<(), StateError> {
        let _changing = self.changing.lock();
        let new = bytes / ran.max(RUN_MIN).as_secs();
        let known = self.rate(vm)?.unwrap_or(new);
        let rate = Rate {
            bytes_per_second: new.max(known.midpoint(new)),
            used_at: Timestamp::now().as_second(),
        };
        let mut batch = self.db.batch();
        batch.put(&self.rates, vm.as_str().as_bytes(), &rate)?;
        for old in self.surplus(vm)? {
            batch.delete(&self.rates, &old)?;
        }
        batch.commit()
    }

    /// Those that must go when `vm` is kept.
    fn surplus(&self, vm: &VmId) -> Result<Vec<Vec<u8>>, StateError> {
        let all = self.rates.scan(b"")?.into_iter();
        let others = all.filter(|(name, _)| name.as_slice() != vm.as_str().as_bytes());
        let mut others: Vec<(i64, Vec<u8>)> =
            others.map(|(name, rate)| (rate.used_at, name)).collect();
        others.sort_unstable();
        let surplus = (others.len() + 1).saturating_sub(VMS_MAX);
        Ok(others.into_iter().take(surplus).map(|(_, name)| name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_at_once_and_fall_slowly() {
        let dir = tempfile::tempdir().unwrap();
        let writes = Writes::open(&Database::open(&dir.path().join("db")).unwrap()).unwrap();
        let vm: VmId = "vm-1".parse().unwrap();
        assert_eq!(writes.rate(&vm).unwrap(), None);
        let hour = Duration::from_secs(3600);
        for (bytes, ran, rate) in [
            (3600 * 100, hour, 100),
            (3600 * 500, hour, 500),
            (3600 * 100, hour, 300),
            (0, hour, 150),
            (300 * 200, Duration::from_secs(3), 200),
        ] {
            writes.note(&vm, bytes, ran).unwrap();
            assert_eq!(writes.rate(&vm).unwrap(), Some(rate));
        }
    }

    /// Bounds.
    #[test]
    fn so_many_vms_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let writes = Writes::open(&Database::open(&dir.path().join("db")).unwrap()).unwrap();
        for n in 0..VMS_MAX + 3 {
            let vm: VmId = format!("vm-{n:04}").parse().unwrap();
            writes.note(&vm, 1, RUN_MIN).unwrap();
        }
        assert_eq!(writes.rates.scan(b"").unwrap().len(), VMS_MAX);
    }
}
