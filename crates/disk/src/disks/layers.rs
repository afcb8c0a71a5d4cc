use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::DiskError;
use crate::layer::{LAYERS_MAX, Layer};
use crate::records::LayerRecord;

/// The frozen layers, by their numbers. Who lies over whom is known from the records: nothing is counted.
#[derive(Default)]
pub(super) struct Layers(BTreeMap<u64, Kept>);

struct Kept {
    record: LayerRecord,
    layer: Result<Arc<Layer>, DiskError>,
}

impl Layers {
    pub(super) fn insert(
        &mut self,
        number: u64,
        record: LayerRecord,
        layer: Result<Arc<Layer>, DiskError>,
    ) {
        self.0.insert(number, Kept { record, layer });
    }

    /// The layer `number`, which lies over what its record says.
    pub(super) fn get(&self, number: Option<u64>) -> Result<Option<Arc<Layer>>, DiskError> {
        let Some(number) = number else { return Ok(None) };
        match self.0.get(&number) {
            Some(kept) => kept.layer.clone().map(Some),
            None => Err(DiskError::Corrupt(format!("frozen layer {number} is missing"))),
        }
    }

    /// How many layers lie under who lies over `below`.
    pub(super) fn depth(&self, below: Option<u64>) -> usize {
        self.chain(below).count()
    }

    /// `Refused` if none more may lie over `below`.
    pub(super) fn check_depth(&self, below: Option<u64>) -> Result<(), DiskError> {
        if self.depth(below) < LAYERS_MAX {
            return Ok(());
        }
        let text = format!("{LAYERS_MAX} frozen layers lie under the disk: no more can");
        Err(DiskError::Refused(text))
    }

    /// The layers under who lies over `below`. Numbers go down, so it ends.
    fn chain(&self, below: Option<u64>) -> impl Iterator<Item = u64> + '_ {
        std::iter::successors(below, |number| {
            let under = self.0.get(number).and_then(|kept| kept.record.below);
            under.filter(|under| under < number)
        })
    }

    /// Layers over which none of those lies that lie over `used`.
    pub(super) fn unused(&self, used: impl Iterator<Item = Option<u64>>) -> Vec<u64> {
        let used: BTreeSet<u64> = used.flat_map(|below| self.chain(below)).collect();
        self.0.keys().copied().filter(|number| !used.contains(number)).collect()
    }

    /// Forgets a layer; says in which folder it was.
    pub(super) fn remove(&mut self, number: u64) -> Option<String> {
        self.0.remove(&number).map(|kept| kept.record.folder)
    }

    /// Whether a layer's bytes are in `folder`.
    pub(super) fn has_folder(&self, folder: &str) -> bool {
        self.0.values().any(|kept| kept.record.folder == folder)
    }
}
