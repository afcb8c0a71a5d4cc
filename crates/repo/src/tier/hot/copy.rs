use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;

use super::{HotCopy, HotLimits, HotPoint, HotReport, encode, list_object, room};
use crate::id::PackId;
use crate::map::build::MapSink;
use crate::pace::Pace;
use crate::pack::read::{check_head, read_index};
use crate::store::{Thawed, Writer, map_object, pack_object};
use crate::tier::needs::packs_of;
use crate::{PointId, PointManifest, RepoError, Repository};

/// Bytes of an object that are asked for at once, and how often.
const PIECE: u64 = 4 << 20;
const AT_ONCE: usize = 4;

/// Copies a point to the hot copy. What is there is neither copied nor read again. Points may go to make room, but
/// none of `keep`. Blocks; looks at `cancelled` every piece, and what was copied until then is found by the next.
pub fn copy_hot(
    repository: &Repository,
    point: &PointManifest,
    limits: HotLimits,
    keep: &BTreeSet<PointId>,
    cancelled: &dyn Fn() -> bool,
) -> Result<HotReport, RepoError> {
    let copy = HotCopy::of(repository)?;
    let writer = Writer::begin(&copy.store())?;
    let packs = packs_of(repository, point)?;
    let objects = needed(&copy, point, &packs)?;
    let dropped = room::make(
        &copy,
        &writer,
        room::Wish { point: &point.id, objects: &objects, limits, keep },
    )?;
    let rate = (limits.max_bytes_per_second > 0).then_some(limits.max_bytes_per_second);
    let mut run = Run { copy: &copy, writer: &writer, pace: Pace::new(rate), cancelled };
    let mut report = HotReport { dropped, ..HotReport::default() };
    for pack in packs {
        let object = pack_object(pack);
        let len = objects.get(&object).copied().unwrap_or_default();
        if run.bring(&object, len, &mut report)?
            && let Err(error) = verify(&copy, pack)
        {
            writer.remove(&object)?;
            return Err(error);
        }
    }
    for disk in &point.disks {
        run.bring(&map_object(&disk.map), disk.map_bytes, &mut report)?;
    }
    let name = list_object(&point.id);
    if copy.dir.len_of(&name).is_none() {
        let list = HotPoint { point: point.id.clone(), copied_at: Timestamp::now(), objects };
        writer.put(&name, &encode(&name, &list)?)?;
    }
    Ok(report)
}

/// What a point needs, with its bytes. An error if anything of it is frozen that is not here.
fn needed(
    copy: &HotCopy<'_>,
    point: &PointManifest,
    packs: &BTreeSet<PackId>,
) -> Result<BTreeMap<String, u64>, RepoError> {
    let maps = point.disks.iter().map(|disk| (map_object(&disk.map), disk.map_bytes));
    let mut objects: BTreeMap<String, u64> = maps.collect();
    for state in copy.bucket.pack_states_blocking(packs.clone())? {
        let object = pack_object(state.pack);
        let here = copy.dir.len_of(&object) == Some(state.len);
        if !here && state.tier.is_cold() && !matches!(state.thawed, Thawed::Until(_)) {
            return Err(RepoError::Cold { what: object });
        }
        objects.insert(object, state.len);
    }
    Ok(objects)
}

/// Each block of a pack that came: a copy of what was hurt on its way would be asked for ever and never be of use.
fn verify(copy: &HotCopy<'_>, pack: PackId) -> Result<(), RepoError> {
    let (store, seal) = (copy.store(), copy.repository.seal());
    check_head(&store, pack)?;
    for block in read_index(&store, seal, pack)? {
        store.read_block_blocking(seal, &block)?;
    }
    Ok(())
}

/// One copy under way.
struct Run<'a> {
    copy: &'a HotCopy<'a>,
    writer: &'a Writer,
    pace: Pace,
    cancelled: &'a dyn Fn() -> bool,
}

impl Run<'_> {
    /// Copies an object unless it is there; says whether it did.
    fn bring(&mut self, object: &str, len: u64, report: &mut HotReport) -> Result<bool, RepoError> {
        match self.copy.dir.len_of(object) {
            Some(found) if found == len => {
                report.there_bytes += len;
                return Ok(false);
            }
            Some(_) => self.writer.remove(object)?,
            None => {}
        }
        let mut new = self.writer.create(object.to_owned())?;
        let mut pieces = (0..len).step_by(PIECE as usize).map(|at| at..(at + PIECE).min(len));
        let mut coming = VecDeque::new();
        loop {
            while coming.len() < AT_ONCE
                && let Some(piece) = pieces.next()
            {
                coming.push_back(self.copy.bucket.read_range(object, piece, Ok));
            }
            let Some(piece) = coming.pop_front() else { break };
            let piece = self.copy.bucket.run_blocking(piece.result())?;
            new.append(&piece)?;
            self.pace.wait(piece.len() as u64, self.cancelled)?;
        }
        new.publish()?;
        report.copied_bytes += len;
        Ok(true)
    }
}
