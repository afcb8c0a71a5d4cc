//! Files in memory with a power switch. What was written but not synced when the power goes is
//! lost, torn or kept, write by write, as a seed decides.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{Purpose, Space};
use crate::records::{JournalRecord, LayerRecord, OverlayRecord};

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
    /// Bytes that data files may hold together.
    pub room: Option<u64>,
}

/// Files and records in memory that share one power switch.
#[derive(Clone, Debug, Default)]
pub struct FaultyStorage(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    faults: Faults,
    steps: u64,
    journal_syncs: u64,
    files: BTreeMap<PathBuf, Node>,
    records: MemoryRecords,
    /// What a commit that the cut interrupted would have left.
    torn_commit: Option<MemoryRecords>,
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

    /// Breaks something else from now on. Steps count on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
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
        Self(Arc::new(Mutex::new(World { files, records, ..World::default() })))
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
        match step {
            Ok(()) => world.records = records,
            Err(_) => world.torn_commit = Some(records),
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
            let node =
                Node { purpose, now: vec![], durable: vec![], pending: vec![], named: false };
            world.files.insert(path.to_owned(), node);
        }
        Ok(FaultyFile { storage: self.clone(), path: path.to_owned() })
    }

    pub(super) fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.lock();
        world.step()?;
        world.files.retain(|path, _| !path.starts_with(dir));
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
    /// Bytes that count against the room: pages of data files that are not holes.
    fn data(&self) -> u64 {
        if self.purpose == Purpose::Journal {
            return 0;
        }
        self.now.chunks(4096).filter(|page| page.iter().any(|b| *b != 0)).count() as u64 * 4096
    }
}

/// A file of a [`FaultyStorage`].
#[derive(Debug)]
pub(crate) struct FaultyFile {
    storage: FaultyStorage,
    path: PathBuf,
}

impl FaultyFile {
    /// Runs `call` on the file; a file that was removed stays readable as nothing.
    fn change(&self, change: Change) -> io::Result<()> {
        let mut world = self.storage.lock();
        let step = world.step();
        let (interrupted, room) = (world.interrupted(), world.faults.room);
        let others: u64 = match room {
            Some(_) => {
                world.files.iter().filter(|(p, _)| **p != self.path).map(|(_, n)| n.data()).sum()
            }
            None => 0,
        };
        let Some(node) = world.files.get_mut(&self.path) else { return step };
        match step {
            Ok(()) => {
                let mut after = node.now.clone();
                change.apply(&mut after);
                let after = Node { now: after, ..node.clone() };
                if room
                    .is_some_and(|room| others + after.data() > room && after.data() > node.data())
                {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                node.now = after.now;
                node.pending.push(change);
            }
            // The write that the cut interrupts may have begun.
            Err(_) if interrupted => node.pending.push(change),
            Err(_) => {}
        }
        step
    }

    pub(super) fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let world = self.storage.lock();
        if world.faults.cut_at.is_some_and(|cut| world.steps > cut) {
            return Err(dark());
        }
        let Some(node) = world.files.get(&self.path) else { return Ok(0) };
        let rest = node.now.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    pub(super) fn read_cached(&self, buf: &mut [u8], at: u64) -> bool {
        matches!(self.read_at(buf, at), Ok(len) if len == buf.len())
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_both(bytes, &[], at)
    }

    pub(super) fn write_both(&self, head: &[u8], body: &[u8], at: u64) -> io::Result<()> {
        self.change(Change::Write(at as usize, [head, body].concat()))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let mut world = self.storage.lock();
        world.step()?;
        let faults = world.faults.clone();
        let number = world.journal_syncs;
        let Some(node) = world.files.get_mut(&self.path) else { return Ok(()) };
        let journal = node.purpose == Purpose::Journal;
        let grown = node.durable.len() != node.now.len();
        let ignored = if journal { faults.ignore_journal_sync } else { faults.ignore_data_sync };
        if ignored && !grown {
            return Ok(());
        }
        let failed = match journal {
            true => faults.fail_journal_sync == Some(number),
            false => faults.fail_data_sync,
        };
        if failed {
            // As Linux does: the dirty pages are dropped and the next sync would succeed.
            node.pending.clear();
            node.now.clone_from(&node.durable);
        } else {
            node.pending.clear();
            node.durable.clone_from(&node.now);
        }
        world.journal_syncs += u64::from(journal);
        if failed {
            return Err(io::Error::other("sync failed"));
        }
        Ok(())
    }

    pub(super) fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.change(Change::Zero(range.start as usize..range.end as usize))
    }

    pub(super) fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let mut world = self.storage.lock();
        world.step()?;
        let Some(room) = world.faults.room else { return Ok(()) };
        let used: u64 = world.files.values().map(Node::data).sum();
        let more = range.end.div_ceil(4096) * 4096 - range.start / 4096 * 4096;
        if used + more > room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        let world = self.storage.lock();
        Ok(world.files.get(&self.path).map_or(0, |node| node.now.len() as u64))
    }

    pub(super) fn allocated(&self) -> io::Result<u64> {
        let world = self.storage.lock();
        Ok(world.files.get(&self.path).map_or(0, Node::data))
    }

    pub(super) fn is_direct(&self) -> bool {
        true
    }
}
