//! Files in memory with a power switch. What was written but not synced when the power goes is
//! lost, torn or kept, write by write, as a seed decides.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::{Purpose, Space};
use crate::records::{JournalRecord, LayerRecord, OverlayRecord};

mod open;

pub(crate) use open::FaultyFile;

/// Bytes that the device writes as a whole.
const SECTOR: usize = 512;

/// What to break. The default breaks nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The power goes at this step: from then on every call fails.
    pub cut_at: Option<u64>,
    /// Syncs of data files do nothing once they have their length, and say that they did.
    pub ignore_data_sync: bool,
    /// Syncs of journal files do nothing once they have their length, and say that they did.
    pub ignore_journal_sync: bool,
    /// The journal's sync with this number (from 0) fails, and loses what it should have kept.
    pub fail_journal_sync: Option<u64>,
    /// Every sync of a data file fails, and loses what it should have kept.
    pub fail_data_sync: bool,
    /// Every write-back of a part of a data file fails, and the file loses what was not synced. Syncs succeed then.
    pub fail_write_back: bool,
    /// How long every write-back of a part takes.
    pub slow_write_back: Duration,
    /// Bytes that data files may hold together.
    pub room: Option<u64>,
    /// Commits of records fail from this one on, counted from 0 when this is set. Whether they are there all the same, the
    /// next open finds out.
    pub fail_commits: Option<(u64, FailedCommit)>,
}

/// What is found later of a commit that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedCommit {
    /// All of it.
    Made,
    /// Nothing.
    Lost,
}

/// Files and records in memory that share one power switch.
#[derive(Clone, Debug, Default)]
pub struct FaultyStorage(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    faults: Faults,
    steps: u64,
    /// Since the faults were set.
    commits: u64,
    journal_syncs: u64,
    files: BTreeMap<PathBuf, Node>,
    /// Files that have no name any more, as whoever has them open reads them.
    unnamed: BTreeMap<u64, Vec<u8>>,
    /// How many files were made.
    made: u64,
    write_backs: WriteBacks,
    records: MemoryRecords,
    /// What a commit that the cut interrupted would have left.
    torn_commit: Option<MemoryRecords>,
}

/// Parts of data files that were written back.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteBacks {
    /// Those that are under way.
    pub under_way: u64,
    /// Syncs of data files that began while one was under way.
    pub met: u64,
}

/// The records of `records.rs`, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryRecords {
    pub(crate) journal: Option<JournalRecord>,
    pub(crate) overlays: BTreeMap<String, OverlayRecord>,
    pub(crate) layers: BTreeMap<u64, LayerRecord>,
    pub(crate) leaves: BTreeMap<(u64, u32), Vec<u8>>,
    pub(crate) next: u64,
}

#[derive(Clone, Debug)]
struct Node {
    inode: u64,
    purpose: Purpose,
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Whether the name survives a cut.
    named: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Zero(Range<usize>),
    Len(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Self::Zero(range) => {
                let end = range.end.min(bytes.len());
                bytes[range.start.min(end)..end].fill(0);
            }
            Self::Len(len) => bytes.resize(*len, 0),
        }
    }

    /// The change with only those sectors that `dice` keeps.
    fn tear(&self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        match self {
            Self::Write(at, data) => {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if dice.coin() {
                        Self::Write(at + i * SECTOR, sector.to_vec()).apply(bytes);
                    }
                }
            }
            other => other.apply(bytes),
        }
    }
}

/// A stream of numbers that its seed decides (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.roll() & 1 == 1
    }
}

fn dark() -> io::Error {
    io::Error::other("the power is out")
}

impl World {
    /// Counts a step. Fails from the cut on.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        if self.faults.cut_at.is_some_and(|cut| self.steps > cut) { Err(dark()) } else { Ok(()) }
    }

    /// Whether the step that just failed is the one that the cut interrupted.
    fn interrupted(&self) -> bool {
        self.faults.cut_at.is_some_and(|cut| self.steps == cut + 1)
    }
}

impl FaultyStorage {
    /// Empty files, and what to break.
    pub fn new(faults: Faults) -> Self {
        let world = World { faults, ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    /// Steps so far: calls that change something.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// What was written back.
    pub fn write_backs(&self) -> WriteBacks {
        self.lock().write_backs
    }

    /// Breaks something else from now on. Steps count on.
    pub fn set_faults(&self, faults: Faults) {
        let mut world = self.lock();
        (world.faults, world.commits) = (faults, 0);
    }

    /// What is found when the power is back: all that was synced, and of the rest what `seed` says.
    pub fn after_cut(&self, seed: u64) -> Self {
        let world = self.lock();
        let mut dice = Dice(seed);
        let mut files = BTreeMap::new();
        for (path, node) in &world.files {
            if !node.named && dice.coin() {
                continue;
            }
            let mut durable = node.durable.clone();
            for change in &node.pending {
                match dice.roll() % 4 {
                    0 => {}
                    1 => change.tear(&mut durable, &mut dice),
                    _ => change.apply(&mut durable),
                }
            }
            let node =
                Node { now: durable.clone(), durable, pending: vec![], named: true, ..*node };
            files.insert(path.clone(), node);
        }
        let torn = world.torn_commit.clone().filter(|_| dice.coin());
        let records = torn.unwrap_or_else(|| world.records.clone());
        let made = world.made;
        Self(Arc::new(Mutex::new(World { files, made, records, ..World::default() })))
    }

    /// Flips one bit of the file `path`, at byte `at`, behind everyone's back.
    pub fn flip(&self, path: &Path, at: usize) {
        let mut world = self.lock();
        if let Some(node) = world.files.get_mut(path) {
            node.now[at] ^= 1;
            node.durable[at] ^= 1;
        }
    }

    /// The files in folders of `dir`.
    pub fn files_below(&self, dir: &Path) -> Vec<PathBuf> {
        let world = self.lock();
        let below = |path: &&PathBuf| path.parent().and_then(Path::parent) == Some(dir);
        world.files.keys().filter(below).cloned().collect()
    }

    pub(crate) fn records(&self) -> MemoryRecords {
        self.lock().records.clone()
    }

    /// Changes the records, as a whole or not at all.
    pub(crate) fn commit(&self, change: impl FnOnce(&mut MemoryRecords)) -> io::Result<()> {
        let mut world = self.lock();
        let step = world.step();
        if step.is_err() && !world.interrupted() {
            return step;
        }
        let mut records = world.records.clone();
        change(&mut records);
        world.commits += 1;
        let number = world.commits - 1;
        let failed = world.faults.fail_commits.filter(|(first, _)| number >= *first);
        match (&step, failed) {
            (Ok(()), None) => world.records = records,
            (Ok(()), Some((_, what))) => {
                if what == FailedCommit::Made {
                    world.records = records;
                }
                return Err(io::Error::other("commit failed"));
            }
            (Err(_), _) => world.torn_commit = Some(records),
        }
        step
    }

    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.lock();
        world.step()?;
        for (path, node) in &mut world.files {
            node.named |= path.starts_with(dir);
        }
        Ok(())
    }

    pub(super) fn open(
        &self,
        path: &Path,
        purpose: Purpose,
        create: bool,
    ) -> io::Result<FaultyFile> {
        let mut world = self.lock();
        if !world.files.contains_key(path) {
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            world.step()?;
            world.made += 1;
            let (inode, now, durable, pending) = (world.made, vec![], vec![], vec![]);
            let node = Node { inode, purpose, now, durable, pending, named: false };
            world.files.insert(path.to_owned(), node);
        }
        let inode = world.files.get(path).map_or(0, |node| node.inode);
        Ok(FaultyFile { storage: self.clone(), path: path.to_owned(), inode })
    }

    pub(super) fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.lock();
        world.step()?;
        let removed = world.files.extract_if(.., |path, _| path.starts_with(dir));
        let removed: Vec<_> = removed.map(|(_, node)| (node.inode, node.now)).collect();
        world.unnamed.extend(removed);
        Ok(())
    }

    pub(super) fn folders(&self, dir: &Path) -> Vec<String> {
        let world = self.lock();
        let parents = world.files.keys().filter_map(|path| path.parent());
        let inside = parents.filter(|parent| parent.parent() == Some(dir));
        let mut names: Vec<_> =
            inside.filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect();
        names.dedup();
        names
    }

    pub(super) fn space(&self) -> Space {
        let world = self.lock();
        let total = world.faults.room.unwrap_or(1 << 40);
        Space { total, free: total.saturating_sub(world.files.values().map(Node::data).sum()) }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock()
    }
}

impl Node {
    /// As Linux does when it cannot write: the dirty pages are dropped and the next sync would succeed.
    fn lose_unsynced(&mut self) {
        self.pending.clear();
        self.now.clone_from(&self.durable);
    }

    /// Bytes that count against the room: pages of data files that are not holes.
    fn data(&self) -> u64 {
        if self.purpose == Purpose::Journal {
            return 0;
        }
        self.now.chunks(4096).filter(|page| page.iter().any(|b| *b != 0)).count() as u64 * 4096
    }
}
