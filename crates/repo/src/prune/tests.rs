mod damage;
mod life;
mod others;

use std::path::{Path, PathBuf};

use rekindle_block::BlockIdx;
use tempfile::TempDir;

use super::run::Run;
use super::*;
use crate::{
    CheckOptions, CheckProgress, CreateOptions, IngestOptions, IngestProgress, IngestReport,
    MapEntry, Passkey, PointManifest, check, ingest,
};

const GRACE: SignedDuration = SignedDuration::from_hours(24);
static NEVER: AtomicBool = AtomicBool::new(false);

struct World {
    dir: TempDir,
    repository: Repository,
    start: Timestamp,
}

/// What disk `disk` holds: blocks 0 to 3 are its own, 4 to 7 those of every disk.
fn image(disk: u8) -> Vec<u8> {
    (0..8_u8).flat_map(|n| [if n < 4 { 16 * disk + n + 1 } else { n }; 4096]).collect()
}

impl World {
    fn new(sealed: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let options = CreateOptions {
            block_size: rekindle_block::BlockSize::new(4096).unwrap(),
            passkey: sealed.then(|| Passkey::new("a passkey of a test").unwrap()),
            ..CreateOptions::default()
        };
        let repository = Repository::create(&dir.path().join("repo"), &options).unwrap();
        Self { dir, repository, start: Timestamp::now() }
    }

    /// A point of `vm` with disk `disk`, taken `day` days after the first of 2025.
    fn take_in(&self, vm: &str, disk: u8, day: i64) -> IngestReport {
        let path = self.dir.path().join("disk.img");
        std::fs::write(&path, image(disk)).unwrap();
        let first: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
        let options = IngestOptions {
            name: Some(vm.into()),
            created_at: Some(first + SignedDuration::from_hours(24 * day)),
            ..IngestOptions::default()
        };
        ingest(&self.repository, &path, &options, &IngestProgress::default(), &NEVER).unwrap()
    }

    /// Keeps the newest of each VM. `hours` is the time since the world began.
    fn options(&self, hours: i64) -> PruneOptions {
        PruneOptions {
            retention: Retention { last: 1, ..Retention::default() },
            drop: BTreeSet::new(),
            spare: BTreeSet::new(),
            grace: GRACE,
            now: self.start + SignedDuration::from_hours(hours),
            dry_run: false,
        }
    }

    fn prune(&self, hours: i64) -> PruneReport {
        self.try_prune(&self.options(hours)).unwrap()
    }

    fn try_prune(&self, options: &PruneOptions) -> Result<PruneReport, RepoError> {
        self.prune_beside(options, &[])
    }

    /// While recoveries use `points`.
    fn prune_beside(
        &self,
        options: &PruneOptions,
        points: &[&PointManifest],
    ) -> Result<PruneReport, RepoError> {
        let in_use = || points.iter().map(|point| point.id.clone()).collect();
        prune(&self.repository, options, &in_use, &PruneProgress::default(), &NEVER)
    }

    fn path(&self) -> &Path {
        self.repository.location().path().unwrap()
    }

    fn shown(&self) -> Vec<PointId> {
        let listing = wait(self.repository.points()).unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        listing.points.into_iter().map(|point| point.id).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        files(self.path())
    }

    fn is_sound(&self) -> bool {
        let progress = CheckProgress::default();
        check(&self.repository, &CheckOptions::default(), &progress, &NEVER).unwrap().is_sound()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn read(repository: &Repository, point: &PointManifest) -> Result<Vec<u8>, RepoError> {
    wait(async {
        let map = repository.open_disk(point, 0).await?;
        let mut bytes = Vec::new();
        for idx in 0..8 {
            match map.entry(BlockIdx(idx)).await? {
                MapEntry::Stored(block) => bytes.extend(map.read_block(&block).await?.bytes()),
                MapEntry::Zero => bytes.resize(bytes.len() + 4096, 0),
            }
        }
        Ok(bytes)
    })
}

/// Points, maps and packs.
fn kinds(counts: &PruneCounts) -> (u64, u64, u64) {
    assert_eq!(counts.bytes > 0, counts.packs > 0);
    (counts.points, counts.maps, counts.packs)
}

/// A prune that dies after so many changes. Whether it came to its end.
fn prune_and_die(world: &World, options: &PruneOptions, changes: usize, used: &[PointId]) -> bool {
    let in_use = || used.iter().cloned().collect();
    let progress = PruneProgress::default();
    let mut run = Run::new(&world.repository, options, &in_use, (&progress, &NEVER)).unwrap();
    run.changes_left = changes;
    run.all().is_ok()
}
