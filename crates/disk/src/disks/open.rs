use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::layers::Layers;
use super::merge::Merger;
use super::{Disks, DisksConfig, Slot, Slots};
use crate::DiskError;
use crate::file::{DiskFile, Purpose, Storage};
use crate::id::DiskId;
use crate::journal::Journal;
use crate::journal::checkpoint::{Checkpointer, settle};
use crate::journal::replay::{Replay, Replayed, Write};
use crate::journal::ring::{Ring, Segment, create_segments, open_segments};
use crate::layer::Layer;
use crate::overlay::Overlay;
use crate::records::{JournalRecord, LayerRecord, Life, OverlayRecord, Position, Records};

/// The data file's name in an overlay's folder.
pub(super) const DATA: &str = "data";
/// Segments of the journal: one is written, one or two wait for their checkpoint, one is free.
const SEGMENTS: u32 = 4;
/// The number of the first batch ever.
const FIRST: u64 = 1;

impl Disks {
    pub(super) fn open_in(
        storage: Storage,
        dir: &Path,
        records: Records,
        config: DisksConfig,
    ) -> Result<Arc<Self>, DiskError> {
        config.check()?;
        storage.make_dir(dir).map_err(|e| DiskError::io("create overlay folder", e))?;
        let recorded = match records.journal()? {
            Some(recorded) => recorded,
            None => create_journal(&storage, dir, &records, config)?,
        };
        let layers = load_layers(&storage, dir, &records)?;
        let slots = load(&storage, dir, &records, &layers)?;
        let files = open_segments(&storage, dir, recorded.segments, recorded.segment_bytes)?;
        let replayed = replay(&files, &recorded, &slots)?;
        let (recorded, segments) = begin_life(&records, &recorded, replayed, &slots)?;
        sweep(&storage, dir, &slots, &layers)?;
        let start = start_of_life(&recorded, &segments)?;
        let ring = Ring::new(files, recorded.segment_bytes, segments);
        let journal = Arc::new(Journal::new(ring, start.0, start.1));
        let (slots, records) = (Arc::new(Mutex::new(slots)), Arc::new(records));
        let overlays = {
            let slots = slots.clone();
            move || sound(&slots.lock())
        };
        let checkpointer =
            Arc::new(Checkpointer::new(journal.clone(), records.clone(), recorded, overlays));
        let (committers, background) = start_threads(&journal, &checkpointer)?;
        let (layers, changing) = (Arc::new(Mutex::new(layers)), Arc::new(Mutex::new(())));
        let merger = Arc::new(Merger {
            storage: storage.clone(),
            dir: dir.to_owned(),
            records: records.clone(),
            journal: journal.clone(),
            slots: slots.clone(),
            layers: layers.clone(),
            changing: changing.clone(),
            merging: Mutex::default(),
            wanted: Mutex::default(),
            changed: parking_lot::Condvar::new(),
        });
        let merging = start_merging(&storage, &merger)?;
        Ok(Arc::new(Self {
            storage,
            dir: dir.to_owned(),
            records,
            journal,
            checkpointer,
            slots,
            layers,
            changing,
            merger,
            merging: Mutex::new(merging),
            committers: Mutex::new(committers),
            background: Mutex::new(Some(background)),
        }))
    }
}

/// Segments first, then the record that says they are there: an interrupted try is made again.
fn create_journal(
    storage: &Storage,
    dir: &Path,
    records: &Records,
    config: DisksConfig,
) -> Result<JournalRecord, DiskError> {
    let segment_bytes = config.journal_bytes / u64::from(SEGMENTS) / 4096 * 4096;
    create_segments(storage, dir, SEGMENTS, segment_bytes)?;
    let start = Position { seq: FIRST, segment: 0, at: 0 };
    let record = JournalRecord { segments: SEGMENTS, segment_bytes, start, lives: Vec::new() };
    records.put_journal(&record)?;
    Ok(record)
}

/// Opens every overlay that is recorded. One that is damaged does not keep the others away.
fn load(
    storage: &Storage,
    dir: &Path,
    records: &Records,
    layers: &Layers,
) -> Result<Slots, DiskError> {
    let mut slots = BTreeMap::new();
    for (id, record) in records.overlays()? {
        let (below, folder) = (record.below, record.folder_of(&id).to_owned());
        let under = layers.get(below);
        let slot = match under.and_then(|_| load_overlay(storage, dir, records, &id, &record)) {
            Ok(overlay) => Slot::Sound { overlay: Arc::new(overlay), disk: None, below, folder },
            Err(error @ DiskError::Corrupt(_)) => {
                tracing::error!(disk = %id, %error, "overlay is damaged and cannot be attached");
                Slot::Damaged { number: record.number, error, below, folder }
            }
            Err(error) => return Err(error),
        };
        slots.insert(id, slot);
    }
    Ok(slots)
}

/// Opens every frozen layer that is recorded, the lowest first. One that is damaged damages what lies over it.
fn load_layers(storage: &Storage, dir: &Path, records: &Records) -> Result<Layers, DiskError> {
    let mut layers = Layers::default();
    let mut all = records.layers()?;
    all.sort_unstable_by_key(|(number, _)| *number);
    for (number, record) in all {
        let layer = match load_layer(storage, dir, records, number, &record, &layers) {
            Ok(layer) => Ok(Arc::new(layer)),
            Err(error @ DiskError::Corrupt(_)) => Err(error),
            Err(error) => return Err(error),
        };
        layers.insert(number, record, layer);
    }
    Ok(layers)
}

fn load_layer(
    storage: &Storage,
    dir: &Path,
    records: &Records,
    number: u64,
    record: &LayerRecord,
    lower: &Layers,
) -> Result<Layer, DiskError> {
    // Those that are loaded have lower numbers.
    let below = lower.get(record.below)?;
    // Nobody asks for its name.
    let id = DiskId::new(format!("layer-{number}"))?;
    let (size, folder) = (record.size, Some(record.folder.clone()));
    let as_overlay = OverlayRecord { number, size, below: record.below, folder };
    let overlay = load_overlay(storage, dir, records, &id, &as_overlay)?;
    Ok(Layer::new(Arc::new(overlay), below))
}

fn load_overlay(
    storage: &Storage,
    dir: &Path,
    records: &Records,
    id: &DiskId,
    record: &OverlayRecord,
) -> Result<Overlay, DiskError> {
    let io = |e| DiskError::io("open overlay", e);
    let file = match storage.open(&dir.join(record.folder_of(id)).join(DATA), Purpose::Data, false)
    {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(DiskError::Corrupt(format!(
                "overlay of disk {id}: its data file is missing"
            )));
        }
        opened => opened.map_err(io)?,
    };
    if file.len().map_err(io)? < record.size {
        // The length is made durable before the record, so bytes are missing.
        return Err(DiskError::Corrupt(format!("overlay of disk {id}: its data file is short")));
    }
    let overlay = Overlay::new(id.clone(), record, file)?;
    overlay.load(records)?;
    Ok(overlay)
}

/// Makes every change that the journal holds. Entries of overlays that were discarded are passed by.
fn replay(
    files: &[DiskFile],
    recorded: &JournalRecord,
    slots: &Slots,
) -> Result<Replayed, DiskError> {
    let overlays: BTreeMap<u64, Arc<Overlay>> =
        sound(slots).into_iter().map(|overlay| (overlay.number, overlay)).collect();
    let mut apply = |(number, range, bytes): Write<'_>| match overlays.get(&number) {
        Some(overlay) => overlay.replay(range, bytes),
        None => Ok(()),
    };
    let replayed = Replay::new(files, recorded.segment_bytes).run(recorded, &mut apply)?;
    let batches = replayed.next - recorded.start.seq;
    if batches > 0 {
        tracing::info!(batches, "overlay journal replayed");
    }
    Ok(replayed)
}

/// Ends the former lives for good and begins a new one, in a segment of its own. Batches that a
/// former process wrote after the end that was found bear a key that is not asked for any more.
fn begin_life(
    records: &Records,
    recorded: &JournalRecord,
    replayed: Replayed,
    slots: &Slots,
) -> Result<(JournalRecord, Vec<Segment>), DiskError> {
    let Replayed { next, mut segments, mut lives } = replayed;
    let mut start = recorded.start;
    let free = match segments.iter().position(|segment| *segment == Segment::Free) {
        Some(free) => free,
        None => {
            settle(&sound(slots), records)?;
            segments.fill(Segment::Free);
            start = Position { seq: next, ..start };
            0
        }
    };
    segments[free] = Segment::Active;
    if start.seq == next {
        start = Position { seq: next, segment: free as u32, at: 0 };
        lives.clear();
    }
    let key = getrandom::u64().map_err(|e| DiskError::Unavailable {
        verb: "get random number",
        source: Arc::new(std::io::Error::other(e.to_string())),
    })?;
    lives.push(Life { key, first: next, end: None });
    let record = JournalRecord { start, lives, ..recorded.clone() };
    records.put_journal(&record)?;
    Ok((record, segments))
}

/// The running life, and where its first batch goes.
fn start_of_life(
    recorded: &JournalRecord,
    segments: &[Segment],
) -> Result<(Life, Position), DiskError> {
    let active = segments.iter().position(|segment| *segment == Segment::Active);
    match (recorded.lives.last(), active) {
        (Some(life), Some(active)) => {
            Ok((*life, Position { seq: life.first, segment: active as u32, at: 0 }))
        }
        _ => Err(DiskError::Corrupt("record of the overlay journal".into())),
    }
}

/// Removes folders that no record names: what an interrupted create or discard left.
fn sweep(storage: &Storage, dir: &Path, slots: &Slots, layers: &Layers) -> Result<(), DiskError> {
    let io = |e| DiskError::io("sweep overlay folder", e);
    for name in storage.folders(dir).map_err(io)? {
        let named = slots.values().any(|slot| slot.folder() == name) || layers.has_folder(&name);
        if !named {
            storage.remove_dir(&dir.join(name)).map_err(io)?;
        }
    }
    Ok(())
}

fn sound(slots: &Slots) -> Vec<Arc<Overlay>> {
    let sound = slots.values().filter_map(|slot| match slot {
        Slot::Sound { overlay, .. } => Some(overlay.clone()),
        Slot::Damaged { .. } => None,
    });
    sound.collect()
}

/// Files that lose power are merged when they are told to: a story is the same each time.
fn start_merging(
    storage: &Storage,
    merger: &Arc<Merger>,
) -> Result<Option<JoinHandle<()>>, DiskError> {
    match storage {
        Storage::Real => {
            merger.look();
            let merger = merger.clone();
            let thread = std::thread::Builder::new().name("disk-merge".into());
            let started = thread.spawn(move || merger.run());
            started.map(Some).map_err(|e| DiskError::io("start overlay thread", e))
        }
        #[cfg(feature = "testing")]
        Storage::Faulty(_) => Ok(None),
    }
}

type Threads = (Vec<JoinHandle<()>>, JoinHandle<()>);

fn start_threads(
    journal: &Arc<Journal>,
    checkpointer: &Arc<Checkpointer>,
) -> Result<Threads, DiskError> {
    let io = |e| DiskError::io("start overlay thread", e);
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    let commit = |_| {
        let journal = journal.clone();
        thread("disk-commit").spawn(move || journal.commit_all()).map_err(io)
    };
    let committers = (0..journal.committers()).map(commit).collect::<Result<_, _>>()?;
    let checkpointer = checkpointer.clone();
    let background = thread("disk-checkpoint").spawn(move || checkpointer.run()).map_err(io)?;
    Ok((committers, background))
}
