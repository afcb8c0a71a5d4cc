use std::collections::BTreeMap;
use std::ops::Range;

use rekindle_image::Image;
use serde::Deserialize;

use super::source::refuse;
use crate::map::Shape;
use crate::{PointId, RepoError};

/// The longest list: 1 million ranges and their words.
pub const MAX_CHANGES_BYTES: u64 = 64 << 20;
/// 16 MiB of ranges a disk. Changes that are in more pieces are nearly all of it.
const MAX_RANGES: usize = 1 << 20;

/// What changed of a VM's disks since a point of it. All else is taken from that point unread, so that a list that leaves
/// something out makes a point that never was.
#[derive(Clone, Debug)]
pub struct Changes {
    pub(super) parent: PointId,
    told_by: TellTale,
    /// What a disk has behind the end that it had is told as well.
    tells_growth: bool,
}

#[derive(Clone, Debug)]
enum TellTale {
    /// By a disk's key.
    List(BTreeMap<String, Vec<Area>>),
    /// A dirty bitmap in each disk's qcow2.
    Bitmap(String),
}

/// As vSphere's `QueryChangedDiskAreas` has them: bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Area {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Changes {
    /// Reads a list for each disk by its key: `{"scsi0:0": [{"start": 0, "length": 65536}]}`, in any order.
    pub fn parse(parent: PointId, json: &[u8]) -> Result<Self, RepoError> {
        let refused = |what: String| RepoError::refused(format!("the list of changes: {what}"));
        if json.len() as u64 > MAX_CHANGES_BYTES {
            return Err(refused(format!("{} bytes are more than {MAX_CHANGES_BYTES}", json.len())));
        }
        let list: BTreeMap<String, Vec<Area>> =
            serde_json::from_slice(json).map_err(|error| refused(error.to_string()))?;
        if let Some((disk, _)) = list.iter().find(|(_, areas)| areas.len() > MAX_RANGES) {
            return Err(refused(format!("more than {MAX_RANGES} ranges for {disk:?}")));
        }
        Ok(Self { parent, told_by: TellTale::List(list), tells_growth: false })
    }

    /// A list for each disk by its key, with all that lies behind the ends that the disks had.
    pub(super) fn with_growth(parent: PointId, list: BTreeMap<String, Vec<Area>>) -> Self {
        Self { parent, told_by: TellTale::List(list), tells_growth: true }
    }

    pub(super) fn tells_growth(&self) -> bool {
        self.tells_growth
    }

    /// What the dirty bitmap `name` in the qcow2 image of each disk marks.
    pub fn dirty_bitmap(parent: PointId, name: impl Into<String>) -> Self {
        Self { parent, told_by: TellTale::Bitmap(name.into()), tells_growth: false }
    }

    /// Refuses a list that names a disk which the VM, of the disks `keys`, has not.
    pub(super) fn check_disks(&self, keys: &[&str]) -> Result<(), RepoError> {
        let TellTale::List(list) = &self.told_by else { return Ok(()) };
        match list.keys().find(|key| !keys.contains(&key.as_str())) {
            Some(other) => Err(RepoError::refused(format!(
                "the list of changes names the disk {other:?}; the VM has {}",
                keys.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// The blocks of `image`, the disk at `key`, in which something changed.
    pub(super) fn of_disk(
        &self,
        key: &str,
        image: &Image,
        shape: &Shape,
    ) -> Result<ChangedBlocks, RepoError> {
        let areas = match &self.told_by {
            TellTale::Bitmap(name) => image.dirty_ranges(name).map_err(refuse)?,
            TellTale::List(list) => {
                let areas = list.get(key).ok_or_else(|| {
                    let what = "the list of changes does not name the disk";
                    RepoError::refused(format!("{what} {key:?}; [] says that nothing changed"))
                })?;
                let ranges = areas.iter().map(|area| area.range(key, shape.size));
                ranges.collect::<Result<_, _>>()?
            }
        };
        Ok(ChangedBlocks::covering(areas, shape))
    }
}

impl Area {
    fn range(&self, key: &str, size: u64) -> Result<Range<u64>, RepoError> {
        let end = self.start.checked_add(self.length).filter(|end| *end <= size);
        let end = end.ok_or_else(|| {
            let what = format!("{} bytes at {} of {key:?}", self.length, self.start);
            RepoError::refused(format!("the list of changes: {what}, which has {size} bytes"))
        })?;
        Ok(self.start..end)
    }
}

/// Ranges of blocks to read, in order, none touching another.
#[derive(Debug)]
pub(super) struct ChangedBlocks(Vec<Range<u64>>);

impl ChangedBlocks {
    /// The whole of a disk.
    pub(super) fn all(shape: &Shape) -> Self {
        let whole = 0..shape.blocks();
        Self(vec![whole])
    }

    fn covering(mut areas: Vec<Range<u64>>, shape: &Shape) -> Self {
        let block = shape.block_size.bytes();
        areas.retain(|area| !area.is_empty());
        areas.sort_unstable_by_key(|area| area.start);
        let mut blocks: Vec<Range<u64>> = Vec::new();
        for area in areas {
            let (start, end) = (area.start / block, area.end.div_ceil(block));
            match blocks.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => blocks.push(start..end),
            }
        }
        Self(blocks)
    }

    /// What of the first range that ends behind `block` lies at or behind it.
    pub(super) fn next(&self, block: u64) -> Option<Range<u64>> {
        let first = self.0.partition_point(|range| range.end <= block);
        let range = self.0.get(first)?;
        Some(range.start.max(block)..range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rekindle_block::BlockSize;

    fn shape(size: u64) -> Shape {
        Shape::new(BlockSize::default(), size).unwrap()
    }

    proptest! {
        /// A block is in a range exactly if an area touches it; ranges are in order, and apart.
        #[test]
        fn blocks_cover_the_areas(areas in prop::collection::vec((0u64..4_000_000, 0u64..600_000), 0..12)) {
            let shape = shape(8 << 20);
            let block = shape.block_size.bytes();
            let ranges: Vec<_> = areas.iter().map(|(start, len)| *start..start + len).collect();
            let covering = ChangedBlocks::covering(ranges.clone(), &shape);
            for pair in covering.0.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            for number in 0..shape.blocks() {
                let own = number * block..(number + 1) * block;
                let touched = ranges.iter().any(|area| {
                    !area.is_empty() && area.start < own.end && own.start < area.end
                });
                let next = covering.next(number);
                prop_assert_eq!(next.is_some_and(|range| range.start == number), touched, "{}", number);
            }
        }
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        let parent = PointId::new(jiff::Timestamp::UNIX_EPOCH).unwrap();
        let parse = |json: &str| Changes::parse(parent.clone(), json.as_bytes());
        for bad in [
            "[]",
            "{\"a\": 1}",
            "{\"a\": [{\"start\": 0}]}",
            "{\"a\": [{\"start\": -1, \"length\": 1}]}",
            "{\"a\": [{\"start\": 0, \"length\": 1, \"end\": 2}]}",
        ] {
            assert!(matches!(parse(bad), Err(RepoError::Refused { .. })), "{bad}");
        }
        let many = format!(
            "{{\"a\": [{}]}}",
            vec!["{\"start\":0,\"length\":1}"; MAX_RANGES + 1].join(",")
        );
        assert!(matches!(parse(&many), Err(RepoError::Refused { .. })));
        let good = parse("{\"scsi0:0\": []}").unwrap();
        good.check_disks(&["scsi0:0", "scsi0:1"]).unwrap();
        assert!(good.check_disks(&["scsi0:1"]).is_err());
        let area = |start, length| Area { start, length }.range("a", 1 << 20);
        assert!(
            area(0, 1 << 20).is_ok() && area(1, 1 << 20).is_err() && area(u64::MAX, 2).is_err()
        );
    }
}
