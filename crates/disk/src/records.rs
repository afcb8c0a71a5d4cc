//! What the overlays keep in `state`: who exists, who owns each grain, and where the journal is.

use rekindle_state::{BytesKeyspace, Database, Keyspace};
use serde::{Deserialize, Serialize};

use crate::DiskError;
use crate::grain::LEAF_BYTES;
use crate::id::DiskId;

/// Bytes of leaves in one commit: half of what `state` takes.
const COMMIT_BYTES: usize = 16 << 20;
const JOURNAL: &[u8] = b"journal";
const NEXT: &[u8] = b"next-overlay";

/// An overlay that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OverlayRecord {
    /// Names the overlay in the journal. Never used twice, so that a late entry of a discarded
    /// overlay cannot land in another.
    pub(crate) number: u64,
    /// Bytes in the disk.
    pub(crate) size: u64,
    /// The frozen layer that it lies over, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) below: Option<u64>,
    /// Where its data file is, if not in the folder of the disk's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<String>,
}

impl OverlayRecord {
    /// The folder of the data file.
    pub(crate) fn folder_of<'a>(&'a self, id: &'a DiskId) -> &'a str {
        self.folder.as_deref().unwrap_or(id.as_str())
    }
}

/// An overlay that was frozen: a layer, by the number that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Bytes that the disk had.
    pub(crate) size: u64,
    /// The folder of the data file.
    pub(crate) folder: String,
    /// The layer that it lies over; its number is lower.
    pub(crate) below: Option<u64>,
}

/// A disk that is frozen: what was its overlay, and what lies over it now.
#[derive(Clone, Debug)]
pub(crate) struct FrozenRecord {
    pub(crate) id: DiskId,
    pub(crate) over: OverlayRecord,
    pub(crate) frozen: LayerRecord,
}

/// Where the journal's live batches are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalRecord {
    /// How many segments there are.
    pub(crate) segments: u32,
    /// Bytes in each.
    pub(crate) segment_bytes: u64,
    /// All before this batch is in the data files and in the leaves.
    pub(crate) start: Position,
    /// Lives whose batches may be live, oldest first. The last is the running one.
    pub(crate) lives: Vec<Life>,
}

/// A place in the journal: the batch `seq` begins at byte `at` of segment `segment`, or, if that
/// segment ends there, at the beginning of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    pub(crate) segment: u32,
    pub(crate) at: u64,
}

/// The batches that one process wrote, from its open to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// A secret number in every batch header. A guest cannot write a block that would be taken for
    /// a batch, and no batch of a former life is taken for one of this.
    pub(crate) key: u64,
    /// Its first batch, at the beginning of a segment.
    pub(crate) first: u64,
    /// The batch after its last. `None` while it runs.
    pub(crate) end: Option<u64>,
}

/// The leaf `leaf` of the overlay `number`.
pub(crate) struct LeafRecord {
    pub(crate) number: u64,
    pub(crate) leaf: u32,
    pub(crate) bytes: [u8; LEAF_BYTES],
}

/// The keyspaces of disks: of no use without the files that they are of.
pub const KEYSPACES: [&str; 5] =
    ["disk-journal", "disk-overlays", "disk-layers", "disk-counters", "disk-grains"];

/// Where the records are kept. Every change is durable when it returns.
pub(crate) enum Records {
    Database(Tables),
    #[cfg(feature = "testing")]
    Memory(crate::FaultyStorage),
}

/// The keyspaces.
pub(crate) struct Tables {
    db: Database,
    journal: Keyspace<JournalRecord>,
    overlays: Keyspace<OverlayRecord>,
    layers: Keyspace<LayerRecord>,
    counters: Keyspace<u64>,
    leaves: BytesKeyspace,
}

impl Tables {
    pub(crate) fn open(db: &Database) -> Result<Self, DiskError> {
        Ok(Self {
            db: db.clone(),
            journal: db.keyspace(KEYSPACES[0])?,
            overlays: db.keyspace(KEYSPACES[1])?,
            layers: db.keyspace(KEYSPACES[2])?,
            counters: db.keyspace(KEYSPACES[3])?,
            leaves: db.bytes(KEYSPACES[4])?,
        })
    }
}

#[cfg(feature = "testing")]
fn dark(error: std::io::Error) -> DiskError {
    DiskError::io("keep overlay records", error)
}

impl Records {
    pub(crate) fn journal(&self) -> Result<Option<JournalRecord>, DiskError> {
        match self {
            Self::Database(tables) => Ok(tables.journal.get(JOURNAL)?),
            #[cfg(feature = "testing")]
            Self::Memory(memory) => Ok(memory.records().journal),
        }
    }

    pub(crate) fn put_journal(&self, record: &JournalRecord) -> Result<(), DiskError> {
        match self {
            Self::Database(tables) => Ok(tables.journal.put(JOURNAL, record)?),
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                memory.commit(|records| records.journal = Some(record.clone())).map_err(dark)
            }
        }
    }

    /// All overlays by name.
    pub(crate) fn overlays(&self) -> Result<Vec<(DiskId, OverlayRecord)>, DiskError> {
        let found = match self {
            Self::Database(tables) => tables.overlays.scan(b"")?,
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                let overlays = memory.records().overlays;
                overlays.into_iter().map(|(id, record)| (id.into_bytes(), record)).collect()
            }
        };
        let named = found.into_iter().map(|(id, record)| {
            let id = String::from_utf8(id).ok().and_then(|id| DiskId::new(id).ok());
            Ok((id.ok_or_else(|| DiskError::Corrupt("name of an overlay".into()))?, record))
        });
        named.collect()
    }

    /// A number that no overlay had before.
    pub(crate) fn next_number(&self) -> Result<u64, DiskError> {
        match self {
            Self::Database(tables) => Ok(tables.counters.get(NEXT)?.unwrap_or(0)),
            #[cfg(feature = "testing")]
            Self::Memory(memory) => Ok(memory.records().next),
        }
    }

    /// Adds or changes an overlay; its number is then used.
    pub(crate) fn put_overlay(&self, id: &DiskId, record: &OverlayRecord) -> Result<(), DiskError> {
        // One that exists has its number behind it: who makes another at the same time counts on alone.
        let is_new = self.next_number()? <= record.number;
        match self {
            Self::Database(tables) => {
                let mut batch = tables.db.batch();
                batch.put(&tables.overlays, id.as_str().as_bytes(), record)?;
                if is_new {
                    batch.put(&tables.counters, NEXT, &(record.number + 1))?;
                }
                Ok(batch.commit()?)
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                let put = memory.commit(|records| {
                    records.overlays.insert(id.to_string(), record.clone());
                    if is_new {
                        records.next = record.number + 1;
                    }
                });
                put.map_err(dark)
            }
        }
    }

    /// The frozen layers, by their numbers.
    pub(crate) fn layers(&self) -> Result<Vec<(u64, LayerRecord)>, DiskError> {
        match self {
            Self::Database(tables) => {
                let numbered = tables.layers.scan(b"")?.into_iter().map(|(key, record)| {
                    let number = key.try_into().map(u64::from_be_bytes);
                    let number = number.map_err(|_| DiskError::Corrupt("number of a layer".into()));
                    Ok((number?, record))
                });
                numbered.collect()
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => Ok(memory.records().layers.into_iter().collect()),
        }
    }

    /// Makes layers of the overlays that these disks had, and puts others in their place: all or nothing.
    pub(crate) fn freeze(&self, all: &[FrozenRecord]) -> Result<(), DiskError> {
        let last = all.iter().map(|one| one.over.number + 1).max().unwrap_or_default();
        let next = self.next_number()?.max(last);
        let layers = || all.iter().filter_map(|one| Some((one.over.below?, &one.frozen)));
        match self {
            Self::Database(tables) => {
                let mut batch = tables.db.batch();
                for one in all {
                    batch.put(&tables.overlays, one.id.as_str().as_bytes(), &one.over)?;
                }
                for (number, layer) in layers() {
                    batch.put(&tables.layers, &number.to_be_bytes(), layer)?;
                }
                batch.put(&tables.counters, NEXT, &next)?;
                Ok(batch.commit()?)
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                let frozen = memory.commit(|records| {
                    let over = all.iter().map(|one| (one.id.to_string(), one.over.clone()));
                    records.overlays.extend(over);
                    records.layers.extend(layers().map(|(number, layer)| (number, layer.clone())));
                    records.next = next;
                });
                frozen.map_err(dark)
            }
        }
    }

    /// Removes an overlay and layers that nothing lies over then, with their leaves, in one commit.
    pub(crate) fn remove_overlay(
        &self,
        id: &DiskId,
        number: u64,
        layers: &[u64],
    ) -> Result<(), DiskError> {
        match self {
            Self::Database(tables) => {
                let mut batch = tables.db.batch();
                batch.delete(&tables.overlays, id.as_str().as_bytes())?;
                batch.delete_prefix(&tables.leaves, &number.to_be_bytes())?;
                for layer in layers {
                    batch.delete(&tables.layers, &layer.to_be_bytes())?;
                    batch.delete_prefix(&tables.leaves, &layer.to_be_bytes())?;
                }
                Ok(batch.commit()?)
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                let removed = memory.commit(|records| {
                    records.overlays.remove(id.as_str());
                    records.layers.retain(|of, _| !layers.contains(of));
                    records.leaves.retain(|(of, _), _| *of != number && !layers.contains(of));
                });
                removed.map_err(dark)
            }
        }
    }

    /// Puts the layer `upper` over what `lower`, whose grains it has, lay over: `lower` is gone, with its leaves, in one
    /// commit. May be called again.
    pub(crate) fn merge(
        &self,
        upper: u64,
        record: &LayerRecord,
        lower: u64,
    ) -> Result<(), DiskError> {
        match self {
            Self::Database(tables) => {
                let mut batch = tables.db.batch();
                batch.put(&tables.layers, &upper.to_be_bytes(), record)?;
                batch.delete(&tables.layers, &lower.to_be_bytes())?;
                batch.delete_prefix(&tables.leaves, &lower.to_be_bytes())?;
                Ok(batch.commit()?)
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                let merged = memory.commit(|records| {
                    records.layers.insert(upper, record.clone());
                    records.layers.remove(&lower);
                    records.leaves.retain(|(of, _), _| *of != lower);
                });
                merged.map_err(dark)
            }
        }
    }

    /// Keeps leaves, in one commit or several: a leaf may be kept early, never late.
    pub(crate) fn put_leaves(&self, leaves: &[LeafRecord]) -> Result<(), DiskError> {
        match self {
            Self::Database(tables) => {
                for part in leaves.chunks(COMMIT_BYTES / (LEAF_BYTES + 12)) {
                    let mut batch = tables.db.batch();
                    for leaf in part {
                        let key = leaf_key(leaf.number, leaf.leaf);
                        batch.put_bytes(&tables.leaves, &key, &leaf.bytes)?;
                    }
                    batch.commit()?;
                }
                Ok(())
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                let put = memory.commit(|records| {
                    for leaf in leaves {
                        records.leaves.insert((leaf.number, leaf.leaf), leaf.bytes.to_vec());
                    }
                });
                put.map_err(dark)
            }
        }
    }

    /// Calls `each` with every leaf that is kept of the overlay `number`; it says whether the bytes
    /// are a leaf.
    pub(crate) fn load_leaves(
        &self,
        number: u64,
        mut each: impl FnMut(u32, &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        let mut sound = true;
        match self {
            Self::Database(tables) => {
                tables.leaves.visit(&number.to_be_bytes(), |key, bytes| {
                    let leaf = key.get(8..).and_then(|leaf| leaf.try_into().ok());
                    sound &= leaf.is_some_and(|leaf| each(u32::from_be_bytes(leaf), bytes));
                    Ok(())
                })?
            }
            #[cfg(feature = "testing")]
            Self::Memory(memory) => {
                for ((of, leaf), bytes) in memory.records().leaves {
                    sound &= of != number || each(leaf, &bytes);
                }
            }
        }
        if sound { Ok(()) } else { Err(DiskError::Corrupt(format!("map of overlay {number}"))) }
    }
}

fn leaf_key(number: u64, leaf: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&leaf.to_be_bytes());
    key
}
