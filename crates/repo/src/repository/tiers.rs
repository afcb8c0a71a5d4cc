use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::id::PackId;
use crate::map::walk::MapWalk;
use crate::store::{Store, blocking};
use crate::{Badge, DiskManifest, MapId, PointId, PointManifest, RepoError, Repository, Tier};

/// For how long one listing reads maps. The next goes on where it ended.
const READ_FOR: Duration = Duration::from_secs(5);
/// For how long a list of the cold packs is good: it is one request for each 1000 packs.
const LISTED_FOR: Duration = Duration::from_secs(10);
/// Packs of maps that are remembered: 16 MB. Beyond, all are forgotten and read again.
const MAX_REMEMBERED: usize = 2_000_000;

/// Which packs each map needs, as far as that was read. Maps never change.
#[derive(Default)]
pub(super) struct Needs(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    maps: HashMap<MapId, Arc<[PackId]>>,
    packs: usize,
    cold: Option<(Instant, Arc<HashMap<PackId, Tier>>)>,
}

impl Needs {
    fn get(&self, map: &MapId) -> Option<Arc<[PackId]>> {
        self.0.lock().maps.get(map).cloned()
    }

    fn put(&self, map: &MapId, packs: Arc<[PackId]>) {
        let mut known = self.0.lock();
        if known.packs + packs.len() > MAX_REMEMBERED {
            known.maps.clear();
            known.packs = 0;
        }
        known.packs += packs.len();
        known.maps.insert(map.clone(), packs);
    }
}

impl Repository {
    /// What checks found of the points, as far as they were checked.
    pub async fn badges(&self) -> Result<BTreeMap<PointId, Badge>, RepoError> {
        if self.has_images() {
            return Ok(BTreeMap::new());
        }
        let (store, seal) = (self.store().clone(), self.seal().clone());
        blocking(move || Ok(crate::check::Book::read(&store, &seal)?.into_badges())).await
    }

    /// The tier of each point: that of the coldest pack that it needs. Where some packs are cold, maps have to be read; a
    /// point whose maps were not read in a few seconds is absent, and there the next time.
    pub async fn tiers(
        &self,
        points: &[PointManifest],
    ) -> Result<BTreeMap<PointId, Tier>, RepoError> {
        let all = |tier| points.iter().map(|point| (point.id.clone(), tier)).collect();
        if let Store::Local(_) = self.store() {
            return Ok(all(Tier::Hot));
        }
        if self.has_images() {
            return Ok(all(Tier::Warm));
        }
        let (repository, points) = (self.clone(), points.to_vec());
        blocking(move || {
            let cold = repository.cold_packs()?;
            let until = Instant::now() + READ_FOR;
            let mut tiers = BTreeMap::new();
            for point in &points {
                if let Some(tier) = repository.coldest(point, &cold, until) {
                    tiers.insert(point.id.clone(), tier);
                }
            }
            Ok(tiers)
        })
        .await
    }

    /// The packs in cold tiers, listed again when it is a while ago.
    fn cold_packs(&self) -> Result<Arc<HashMap<PackId, Tier>>, RepoError> {
        if let Some((at, cold)) = &self.needs().0.lock().cold
            && at.elapsed() < LISTED_FOR
        {
            return Ok(cold.clone());
        }
        let packs = self.store().stored_packs_blocking()?.into_iter();
        let cold = packs.filter(|pack| pack.tier.is_cold()).map(|pack| (pack.pack, pack.tier));
        let cold = Arc::new(cold.collect::<HashMap<_, _>>());
        self.needs().0.lock().cold = Some((Instant::now(), cold.clone()));
        Ok(cold)
    }

    /// `None` if that is not known in time, or a map is damaged.
    fn coldest(
        &self,
        point: &PointManifest,
        cold: &HashMap<PackId, Tier>,
        until: Instant,
    ) -> Option<Tier> {
        let mut tier = Tier::Warm;
        for disk in point.disks.iter().filter(|_| !cold.is_empty()) {
            let packs = match self.needs().get(&disk.map) {
                Some(packs) => packs,
                None if Instant::now() >= until => return None,
                None => {
                    let packs = self.packs_of_disk(disk).ok()?;
                    self.needs().put(&disk.map, packs.clone());
                    packs
                }
            };
            let of_disk = packs.iter().filter_map(|pack| cold.get(pack)).max();
            tier = tier.max(of_disk.copied().unwrap_or(Tier::Warm));
        }
        Some(tier)
    }

    fn packs_of_disk(&self, disk: &DiskManifest) -> Result<Arc<[PackId]>, RepoError> {
        let map = MapWalk::open(self.store(), self.seal(), self.block_size(), disk)?;
        let mut packs = HashSet::new();
        for directory in map.directories() {
            for leaf in map.leaves(directory)? {
                packs.extend(map.blocks(leaf)?.iter().map(|(_, block)| block.pack));
            }
        }
        Ok(packs.into_iter().collect())
    }
}
