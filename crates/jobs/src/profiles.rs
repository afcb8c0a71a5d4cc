//! The boot profiles that are kept, by disk of a VM.

use jiff::Timestamp;
use parking_lot::Mutex;
use rekindle_block::BlockHash;
use rekindle_repo::{DiskMap, MapEntry, VmId};
use rekindle_state::{Database, Keyspace, StateError};

use crate::profile::{Profile, Sample, Seen};

/// Profiles that are kept; the one unused longest makes room. At 400 KB each 100 MB.
const PROFILES_MAX: usize = 256;
/// Profiles of others that are looked at for a disk that has none, the latest first.
const SIBLINGS_MAX: usize = 64;

/// Profiles by `<VM's id>/<disk's controller and slot>`, and samples of them by the same.
pub(crate) struct Profiles {
    db: Database,
    profiles: Keyspace<Profile>,
    samples: Keyspace<Sample>,
    /// Held by whoever merges a run.
    changing: Mutex<()>,
}

/// A disk of a VM, whatever point it is of.
pub(crate) fn key(vm: &VmId, disk: &str) -> String {
    format!("{}/{disk}", vm.as_str())
}

impl Profiles {
    pub(crate) fn open(db: &Database) -> Result<Self, StateError> {
        Ok(Self {
            db: db.clone(),
            profiles: db.keyspace("boot-profiles")?,
            samples: db.keyspace("boot-samples")?,
            changing: Mutex::new(()),
        })
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Profile>, StateError> {
        self.profiles.get(key.as_bytes())
    }

    /// The other disks' samples, those used last first.
    pub(crate) fn siblings(&self, key: &str) -> Result<Vec<(String, Sample)>, StateError> {
        let mut samples: Vec<(String, Sample)> = self
            .samples
            .scan(b"")?
            .into_iter()
            .filter_map(|(name, sample)| Some((String::from_utf8(name).ok()?, sample)))
            .filter(|(name, _)| name != key)
            .collect();
        samples.sort_by_key(|(_, sample)| std::cmp::Reverse(sample.used_at));
        samples.truncate(SIBLINGS_MAX);
        Ok(samples)
    }

    /// Merges a run into the disk's profile. A profile that cannot be read any more begins anew.
    pub(crate) fn merge(&self, key: &str, run: &[Seen]) -> Result<(), StateError> {
        let _changing = self.changing.lock();
        let mut profile = match self.profiles.get(key.as_bytes()) {
            Err(StateError::Corrupt(_)) => Profile::default(),
            found => found?.unwrap_or_default(),
        };
        profile.merge(run);
        profile.used_at = Timestamp::now().as_second();
        let mut batch = self.db.batch();
        batch.put(&self.profiles, key.as_bytes(), &profile)?;
        batch.put(&self.samples, key.as_bytes(), &profile.sample())?;
        for old in self.surplus(key)? {
            batch.delete(&self.profiles, old.as_bytes())?;
            batch.delete(&self.samples, old.as_bytes())?;
        }
        batch.commit()
    }

    /// Those that must go when `key` is kept.
    fn surplus(&self, key: &str) -> Result<Vec<String>, StateError> {
        let mut others: Vec<(i64, String)> = Vec::new();
        for (name, sample) in self.samples.scan(b"")? {
            match String::from_utf8(name) {
                Ok(name) if name != key => others.push((sample.used_at, name)),
                Ok(_) | Err(_) => {}
            }
        }
        others.sort_unstable();
        let surplus = (others.len() + 1).saturating_sub(PROFILES_MAX);
        Ok(others.into_iter().take(surplus).map(|(_, name)| name).collect())
    }
}

/// The profile of the disk most like the one that `map` shows; the first that is like it by half, so
/// that a disk far away is not asked for the pages of its map once for each profile there is.
pub(crate) async fn of_sibling(siblings: &[(String, Sample)], map: &DiskMap) -> Option<String> {
    let mut best: Option<(usize, &String)> = None;
    for (name, sample) in siblings {
        let mut hashes = Vec::new();
        for block in sample.blocks() {
            hashes.push(stored(map, block).await);
        }
        if let Some(likeness) = sample.likeness(&hashes)
            && best.is_none_or(|(most, _)| likeness > most)
        {
            best = Some((likeness, name));
            if likeness * 2 >= hashes.len() {
                break;
            }
        }
    }
    best.map(|(_, name)| name.clone())
}

/// What is stored at `block`; `None` also when the map cannot be read, which others will tell.
pub(crate) async fn stored(map: &DiskMap, block: rekindle_block::BlockIdx) -> Option<BlockHash> {
    let entry = match map.try_entry(block) {
        Some(entry) => entry,
        None => map.entry(block).await.ok()?,
    };
    match entry {
        MapEntry::Zero => None,
        MapEntry::Stored(stored) => Some(stored.hash()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rekindle_block::BlockIdx;

    use super::*;

    fn run(block: u64) -> [Seen; 1] {
        let hash = BlockHash::of(&block.to_le_bytes());
        [Seen { block: BlockIdx(block), hash, after: Duration::ZERO }]
    }

    /// Bounds.
    #[test]
    fn so_many_profiles_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::open(&Database::open(&dir.path().join("db")).unwrap()).unwrap();
        for n in 0..PROFILES_MAX as u64 + 3 {
            profiles.merge(&format!("vm-{n:04}/scsi0:0"), &run(n)).unwrap();
        }
        assert_eq!(profiles.samples.scan(b"").unwrap().len(), PROFILES_MAX);
        assert_eq!(profiles.profiles.scan(b"").unwrap().len(), PROFILES_MAX);
        let last = format!("vm-{:04}/scsi0:0", PROFILES_MAX + 2);
        assert_eq!(profiles.get(&last).unwrap().unwrap().blocks().count(), 1);
        let siblings = profiles.siblings(&last).unwrap();
        assert!(siblings.len() == SIBLINGS_MAX && siblings.iter().all(|(name, _)| *name != last));
    }
}
