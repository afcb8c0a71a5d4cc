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
    /// Whether a commit that merged it into the one above it failed: nobody knows whether its record is there.
    unsure: bool,
}

/// A layer and the one below it, which nothing else lies over.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) upper: Arc<Layer>,
    pub(super) lower: Arc<Layer>,
}

impl Layers {
    pub(super) fn insert(
        &mut self,
        number: u64,
        record: LayerRecord,
        layer: Result<Arc<Layer>, DiskError>,
    ) {
        self.0.insert(number, Kept { record, layer, unsure: false });
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

    /// Whether a disk may be put over the layer.
    pub(super) fn bears(&self, number: u64) -> bool {
        self.0.get(&number).is_some_and(|kept| kept.layer.is_ok() && !kept.unsure)
    }

    /// Of the layers under who lies over `below`, if they are more than `most`, the two that are merged with the fewest
    /// bytes. `disks` are what all disks lie over. Two whose merge nobody knows the end of come before all others.
    pub(super) fn pair(
        &self,
        below: Option<u64>,
        most: usize,
        disks: &[Option<u64>],
    ) -> Option<Pair> {
        let chain: Vec<u64> = self.chain(below).collect();
        let pairs = || chain.windows(2).map(|two| (two[0], two[1]));
        let unsure = |number: u64| self.0.get(&number).is_some_and(|kept| kept.unsure);
        if let Some((upper, lower)) = pairs().find(|(_, lower)| unsure(*lower)) {
            return self.of_pair(upper, lower);
        }
        if chain.len() <= most {
            return None;
        }
        let free = pairs().filter(|(_, lower)| self.lies_over(*lower, disks) == 1);
        let found = free.filter_map(|(upper, lower)| self.of_pair(upper, lower));
        found.min_by_key(|pair| pair.lower.data_bytes())
    }

    /// Whether the two are still what they were when [`Layers::pair`] found them.
    pub(super) fn is_pair(&self, pair: &Pair, disks: &[Option<u64>]) -> bool {
        let (upper, lower) = (pair.upper.number(), pair.lower.number());
        let over = self.0.get(&upper).is_some_and(|kept| kept.record.below == Some(lower));
        over && self.lies_over(lower, disks) == 1
    }

    fn of_pair(&self, upper: u64, lower: u64) -> Option<Pair> {
        let sound = |number| self.get(Some(number)).ok().flatten();
        Some(Pair { upper: sound(upper)?, lower: sound(lower)? })
    }

    /// How many disks and layers lie over a layer.
    fn lies_over(&self, number: u64, disks: &[Option<u64>]) -> usize {
        let layers = self.0.values().map(|kept| &kept.record.below);
        layers.chain(disks).filter(|below| **below == Some(number)).count()
    }

    /// The upper one's record once it lies over what the lower one lies over. Until the two are [`Layers::merge`]d nothing
    /// is put over the lower one.
    pub(super) fn begin_merge(&mut self, pair: &Pair) -> Option<LayerRecord> {
        let lower = self.0.get_mut(&pair.lower.number())?;
        lower.unsure = true;
        let below = lower.record.below;
        let upper = &self.0.get(&pair.upper.number())?.record;
        Some(LayerRecord { below, ..upper.clone() })
    }

    /// Takes the lower layer out: the upper one, and what lies over that, is over what it lay over. Says in which folder
    /// it was.
    pub(super) fn merge(&mut self, pair: &Pair, record: LayerRecord) -> Option<String> {
        let folder = self.remove(pair.lower.number());
        let mut anew = BTreeMap::new();
        for (number, kept) in self.0.range_mut(pair.upper.number()..) {
            let under = if *number == pair.upper.number() {
                kept.record = record.clone();
                pair.lower.below().cloned()
            } else if let Some(under) = kept.record.below.and_then(|below| anew.get(&below)) {
                Some(Arc::clone(under))
            } else {
                continue;
            };
            if let Ok(layer) = &mut kept.layer {
                *layer = Arc::new(layer.over(under));
                anew.insert(*number, layer.clone());
            }
        }
        folder
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
