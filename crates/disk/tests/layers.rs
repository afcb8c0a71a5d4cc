//! Disks that are frozen and forked: each is a byte array of its own from that moment on, through restarts and power cuts.
//!
//! `CUT_SEED=n` replays the run that a failure names.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rekindle_disk::{
    Base, Disk, DiskError, DiskId, Disks, DisksConfig, Faults, FaultyStorage, LAYERS_MAX, Priority,
    concat, pattern_byte,
};

const SIZE: u64 = 9 * 4096 + 1000;
const BASE: u64 = 6 * 4096 + 77;
const SEED: u8 = 5;
const CONFIG: DisksConfig = DisksConfig { journal_bytes: 256 << 10 };
const DISKS_MAX: usize = 4;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn id(name: &str) -> DiskId {
    DiskId::new(name).unwrap()
}

fn base() -> Base {
    Base::Pattern { seed: SEED, size: BASE }
}

fn open(storage: &FaultyStorage) -> Result<Arc<Disks>, DiskError> {
    Disks::open_faulty(storage, Path::new("/overlay"), CONFIG)
}

async fn read_all(disk: &Disk) -> Result<Vec<u8>, DiskError> {
    let range = 0..disk.size();
    if let Some(inline) = disk.try_read(range.clone()) {
        let (inline, waited) = (inline?, disk.read(range.clone(), Priority::Guest).await?);
        assert!(concat(&inline) == concat(&waited), "inline and waited for");
    }
    Ok(concat(&disk.read(range, Priority::Guest).await?).to_vec())
}

/// What was under way when the power went: it is there or it is not.
enum Unsure {
    Write { name: String, at: usize, data: Vec<u8> },
    Fork { name: String, bytes: Vec<u8> },
    Discard { name: String },
    Grow { name: String, size: usize },
}

/// Every disk there must be, with its bytes.
#[derive(Default)]
struct Model {
    disks: BTreeMap<String, Vec<u8>>,
    unsure: Option<Unsure>,
    made: u64,
    /// Frozen moments that somebody reads on, whatever becomes of the disks.
    held: Vec<(Base, Vec<u8>)>,
}

/// How many are held at once.
const HELD_MAX: usize = 3;

impl Model {
    fn pick(&self, dice: &mut Dice) -> String {
        self.disks.keys().nth(dice.below(self.disks.len() as u64) as usize).unwrap().clone()
    }

    /// Takes what was found after a cut, if it can be.
    fn accept(&mut self, found: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        match self.unsure.take() {
            Some(Unsure::Write { name, at, data })
                if found.get(&name).is_some_and(|all| all[at..at + data.len()] == data[..]) =>
            {
                self.disks.get_mut(&name).unwrap()[at..at + data.len()].copy_from_slice(&data);
            }
            Some(Unsure::Fork { name, bytes }) if found.contains_key(&name) => {
                self.disks.insert(name, bytes);
            }
            Some(Unsure::Discard { name }) if !found.contains_key(&name) => {
                self.disks.remove(&name);
            }
            Some(Unsure::Grow { name, size }) if found[&name].len() == size => {
                self.disks.get_mut(&name).unwrap().resize(size, 0);
            }
            _ => {}
        }
        let (wanted, there): (Vec<_>, Vec<_>) =
            (self.disks.keys().collect(), found.keys().collect());
        if wanted != there {
            return Err(format!("disks {there:?}, not {wanted:?}"));
        }
        for (name, wanted) in &self.disks {
            let found = &found[name];
            if found.len() != wanted.len() {
                return Err(format!("{name} has {} bytes, not {}", found.len(), wanted.len()));
            }
            if let Some(at) = (0..found.len()).find(|at| found[*at] != wanted[*at]) {
                let (is, not) = (found[at], wanted[at]);
                return Err(format!(
                    "byte {at} (grain {}) of {name} is {is:#x}, not {not:#x}",
                    at / 4096
                ));
            }
        }
        Ok(())
    }
}

/// The disks that are there, read whole.
async fn look(disks: &Disks) -> Result<BTreeMap<String, Vec<u8>>, DiskError> {
    let mut found = BTreeMap::new();
    for id in disks.list() {
        let disk = disks.attach(&id, base())?;
        found.insert(id.to_string(), read_all(&disk).await?);
    }
    Ok(found)
}

/// One thing that happens. `Err` when the power is out.
async fn happen(disks: &Arc<Disks>, model: &mut Model, dice: &mut Dice) -> Result<(), DiskError> {
    let name = model.pick(dice);
    let disk = disks.attach(&id(&name), base())?;
    match dice.below(15) {
        0..=2 if model.disks.len() < DISKS_MAX => {
            let all = dice.below(2) == 0;
            let others = model.disks.keys().filter(|other| all && **other != name);
            let mut freezing = vec![disk];
            for other in others {
                freezing.push(disks.attach(&id(other), base())?);
            }
            let layers = match disks.freeze(&freezing).await {
                Err(DiskError::Refused(_)) => return Ok(()),
                frozen => frozen?,
            };
            for (disk, layer) in freezing.iter().zip(&layers) {
                assert!(disk.written_since(Some(layer), 0).next().is_none());
            }
            if dice.below(2) == 0 && model.held.len() < HELD_MAX {
                model.held.push((freezing[0].frozen(&layers[0]), model.disks[&name].clone()));
            }
            if dice.below(3) > 0 {
                let bytes = model.disks[&name].clone();
                model.made += 1;
                let fork = format!("fork-{}", model.made);
                model.unsure = Some(Unsure::Fork { name: fork.clone(), bytes: bytes.clone() });
                disks.fork(&id(&fork), &layers[0])?;
                model.disks.insert(fork, bytes);
            }
        }
        3 | 4 if model.disks.len() > 1 => {
            model.unsure = Some(Unsure::Discard { name: name.clone() });
            disks.discard(&id(&name))?;
            model.disks.remove(&name);
        }
        5 => {
            let size = model.disks[&name].len() + dice.below(3000) as usize;
            model.unsure = Some(Unsure::Grow { name: name.clone(), size });
            disk.set_size(size as u64).await?;
            model.disks.get_mut(&name).unwrap().resize(size, 0);
        }
        6 => disks.checkpoint()?,
        7 | 8 => {
            let left = 1 + dice.below(2) as usize;
            disks.merge_layers(left)?;
        }
        9 if !model.held.is_empty() => {
            let at = dice.below(model.held.len() as u64) as usize;
            let (frozen, wanted) = model.held.swap_remove(at);
            let found = concat(&frozen.read(0..frozen.size(), Priority::Guest).await?);
            assert!(found[..] == wanted[..], "what is held of a frozen disk");
        }
        _ => {
            let size = model.disks[&name].len() as u64;
            let at = match dice.below(2) {
                0 => dice.below(size / 4096) * 4096,
                _ => dice.below(size),
            };
            let len = match dice.below(3) {
                0 => 4096,
                1 => 1 + dice.below(700),
                _ => 1 + dice.below(12_000),
            };
            let (zeros, stamp) = (dice.below(4) == 0, dice.below(256));
            let byte = |n: u64| if zeros { 0 } else { (stamp ^ n) as u8 | 1 };
            let data: Vec<u8> = (at..(at + len).min(size)).map(byte).collect();
            let at = at as usize;
            model.unsure = Some(Unsure::Write { name: name.clone(), at, data: data.clone() });
            disk.write(at as u64, data.clone().into()).await?;
            model.disks.get_mut(&name).unwrap()[at..at + data.len()].copy_from_slice(&data);
        }
    }
    model.unsure = None;
    Ok(())
}

async fn story(
    storage: &FaultyStorage,
    model: &mut Model,
    dice: &mut Dice,
    steps: u64,
) -> Result<(), DiskError> {
    let mut disks = open(storage)?;
    if model.disks.is_empty() {
        let bytes = (0..SIZE).map(|at| if at < BASE { pattern_byte(SEED, at) } else { 0 });
        let bytes: Vec<u8> = bytes.collect();
        model.unsure = Some(Unsure::Fork { name: "first".into(), bytes: bytes.clone() });
        disks.create(&id("first"), SIZE)?;
        model.disks.insert("first".into(), bytes);
        model.unsure = None;
    }
    for _ in 0..steps {
        if dice.below(15) == 0 {
            drop(disks);
            disks = open(storage)?;
        }
        happen(&disks, model, dice).await?;
    }
    Ok(())
}

/// A story with the power cut at `cut`, two more that are cut as well, and a look after each.
fn run(cut: Option<u64>, seed: u64, faults: &Faults) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut dice, mut model) = (Dice(seed), Model::default());
        let mut storage = FaultyStorage::new(Faults { cut_at: cut, ..faults.clone() });
        let _ = story(&storage, &mut model, &mut dice, 40).await;
        let steps = storage.steps();
        for second in [cut.map(|_| dice.below(60)), cut.map(|_| dice.below(200)), None] {
            model.held.clear();
            storage = storage.after_cut(dice.below(u64::MAX));
            let disks = match open(&storage) {
                Ok(disks) => disks,
                Err(error) => return Err(format!("open after the cut: {error:?}")),
            };
            let found = look(&disks).await.map_err(|e| format!("look after the cut: {e:?}"))?;
            model.accept(&found)?;
            drop(disks);
            storage.set_faults(Faults {
                cut_at: second.map(|at| storage.steps() + at),
                ..faults.clone()
            });
            let told = story(&storage, &mut model, &mut dice, 8).await;
            if let (None, Err(error)) = (second, told) {
                return Err(format!("with the power on: {error:?}"));
            }
        }
        // A quiet end: opened, all there, and nothing of what was discarded.
        let disks = open(&storage).map_err(|e| e.to_string())?;
        model.accept(&look(&disks).await.map_err(|e| e.to_string())?)?;
        for id in disks.list() {
            disks.discard(&id).map_err(|e| e.to_string())?;
        }
        drop(disks);
        match storage.files_below(Path::new("/overlay")) {
            left if left.is_empty() => Ok(steps),
            left => Err(format!("left of discarded disks: {left:?}")),
        }
    })
}

fn seed() -> u64 {
    let fixed = std::env::var("CUT_SEED").ok().and_then(|seed| seed.parse().ok());
    fixed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64 >> 8)
    })
}

#[test]
fn each_disk_is_a_byte_array_of_its_own_through_freezes_forks_and_restarts() {
    let seed = seed();
    for n in 0..150 {
        run(None, seed ^ n, &Faults::default())
            .unwrap_or_else(|error| panic!("CUT_SEED={}: {error}", seed ^ n));
    }
}

#[test]
fn no_cut_tears_a_freeze_a_fork_or_a_discard_or_loses_a_write_beside_them() {
    let (seed, mut cut) = (seed(), 0);
    loop {
        let steps = run(Some(cut), seed ^ cut, &Faults::default());
        let steps = steps.unwrap_or_else(|e| panic!("CUT_SEED={seed}, cut after step {cut}: {e}"));
        if steps <= cut {
            break;
        }
        cut += 1;
    }
    println!("{cut} steps cut");
    assert!(cut > 100, "the story is too short to prove anything: {cut} steps");
}

#[test]
fn a_layer_that_is_named_before_its_bytes_are_there_is_found() {
    let faults = Faults { ignore_data_sync: true, ..Faults::default() };
    let red = (0..400).find_map(|cut| run(Some(cut), seed() ^ cut, &faults).err());
    println!("{}", red.unwrap());
}

#[test]
fn all_disks_are_frozen_at_one_moment() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let storage = FaultyStorage::default();
        let disks = open(&storage).unwrap();
        let mut pair = Vec::new();
        for name in ["a", "b"] {
            disks.create(&id(name), SIZE).unwrap();
            pair.push(disks.attach(&id(name), Base::Empty { size: SIZE }).unwrap());
        }
        let ends = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn({
            let (pair, ends) = (pair.clone(), ends.clone());
            async move {
                let mut n = 0u64;
                while !ends.load(Ordering::Relaxed) {
                    n += 1;
                    for disk in &pair {
                        disk.write(100, n.to_le_bytes().to_vec().into()).await.unwrap();
                    }
                }
            }
        });
        let counter = async |disk: &Disk| {
            let bytes = concat(&disk.read(100..108, Priority::Guest).await.unwrap());
            u64::from_le_bytes(bytes[..].try_into().unwrap())
        };
        for round in 0..LAYERS_MAX as u64 {
            while counter(&pair[1]).await <= round * 20 {
                tokio::task::yield_now().await;
            }
            let layers = disks.freeze(&pair).await.unwrap();
            let mut seen = Vec::new();
            for (name, layer) in ["a", "b"].into_iter().zip(&layers) {
                let fork = id(&format!("{name}-{round}"));
                disks.fork(&fork, layer).unwrap();
                let fork = disks.attach(&fork, Base::Empty { size: SIZE }).unwrap();
                seen.push(counter(&fork).await);
            }
            // The second disk is written after the first.
            assert!(seen[1] <= seen[0] && seen[0] <= seen[1] + 1, "{seen:?}");
        }
        ends.store(true, Ordering::Relaxed);
        writer.await.unwrap();
    });
}

#[tokio::test]
async fn layers_end_where_no_more_can_lie_under_a_disk_and_go_with_their_last_user() {
    let storage = FaultyStorage::default();
    let disks = open(&storage).unwrap();
    disks.create(&id("a"), SIZE).unwrap();
    let disk = disks.attach(&id("a"), base()).unwrap();
    let mut layers = Vec::new();
    for n in 0..LAYERS_MAX as u64 {
        disk.write(n * 4096, vec![n as u8 + 1; 4096].into()).await.unwrap();
        layers.extend(disks.freeze(std::slice::from_ref(&disk)).await.unwrap());
    }
    // Nothing was written since: it is the same layer.
    let again = disks.freeze(std::slice::from_ref(&disk)).await.unwrap();
    assert!(Arc::ptr_eq(&again[0], &layers[LAYERS_MAX - 1]));
    disk.write(8 * 4096, vec![9; 512].into()).await.unwrap();
    // None can be merged into the one above it: another disk lies over each.
    for (n, layer) in layers.iter().enumerate() {
        disks.fork(&id(&format!("pin-{n}")), layer).unwrap();
    }
    assert_eq!(disks.merge_layers(1).unwrap(), 0);
    let refused = disks.freeze(std::slice::from_ref(&disk)).await;
    assert!(matches!(refused, Err(DiskError::Refused(_))));
    for n in 0..layers.len() {
        disks.discard(&id(&format!("pin-{n}"))).unwrap();
    }
    // What was written since each of them, zeros and parts of grains as well.
    for (n, layer) in layers.iter().enumerate() {
        let written: Vec<_> = disk.written_since(Some(layer), 0).collect();
        let starts: Vec<_> = written.iter().map(|written| written.range.start).collect();
        let wanted: Vec<u64> = (n as u64 + 1..=8).map(|grain| grain * 4096).collect();
        assert!(starts.first() == wanted.first() || written.len() == 1, "{starts:?} {wanted:?}");
        let bytes: u64 = written.iter().map(|one| one.range.end - one.range.start).sum();
        assert_eq!(bytes, wanted.len() as u64 * 4096);
    }
    assert_eq!(disk.written_bytes(), 9 * 4096);
    disks.fork(&id("b"), &layers[2]).unwrap();
    disks.fork(&id("b"), &layers[2]).unwrap();
    let other = disks.fork(&id("b"), &layers[3]);
    assert!(matches!(other, Err(DiskError::Refused(_))));
    // The folder of the name is a layer's of the fork: another disk of that name gets its own.
    disks.discard(&id("a")).unwrap();
    assert!(matches!(disk.write(0, vec![1].into()).await, Err(DiskError::Gone)));
    assert!(matches!(disks.fork(&id("c"), &layers[3]), Err(DiskError::Gone)));
    disks.create(&id("a"), SIZE).unwrap();
    let fresh = disks.attach(&id("a"), Base::Empty { size: SIZE }).unwrap();
    fresh.write(0, vec![0xEE; 4096].into()).await.unwrap();
    let fork = disks.attach(&id("b"), base()).unwrap();
    let mut wanted: Vec<u8> =
        (0..SIZE).map(|at| if at < BASE { pattern_byte(SEED, at) } else { 0 }).collect();
    for n in 0..3 {
        wanted[n * 4096..(n + 1) * 4096].fill(n as u8 + 1);
    }
    assert!(read_all(&fork).await.unwrap() == wanted);
    drop((fork, fresh, disk, layers, again));
    drop(disks);
    let disks = open(&storage).unwrap();
    let fork = disks.attach(&id("b"), base()).unwrap();
    assert!(read_all(&fork).await.unwrap() == wanted);
    disks.discard(&id("b")).unwrap();
    disks.discard(&id("a")).unwrap();
    assert!(storage.files_below(Path::new("/overlay")).is_empty());
}
