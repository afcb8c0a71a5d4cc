use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use super::{Badge, CheckDepth, CheckReport, Problem};
use crate::id::PackId;
use crate::map::BlockRef;
use crate::{PointId, RepoError};

/// Problems that are listed; more are only counted.
const MAX_PROBLEMS: usize = 1000;
/// Blocks that are remembered as verified: 7 million of 33 bytes in a table filled to 7/8 are 277 MB. Beyond, all
/// are forgotten and some verified again.
const MAX_SEEN: usize = 7_000_000;
/// Damaged blocks that are remembered: 4 MB. Beyond, they are read again for each point that needs them.
const MAX_BAD: usize = 100_000;

/// A block that was read: this hash, by its first half, at this place.
type Key = (PackId, u32, [u8; 16]);

fn key(block: &BlockRef) -> Key {
    let half = block.hash.as_bytes().first_chunk().copied().unwrap_or_default();
    (block.pack, block.offset, half)
}

/// What is found, by all threads of a check.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) report: CheckReport,
    /// What was verified.
    sound: HashSet<Key>,
    /// What was found damaged, so that each point that needs it is known to be.
    bad: HashSet<Key>,
    /// Packs that cannot be read before they are thawed.
    cold: HashSet<PackId>,
    /// What the point that is being checked has to do with.
    point: OfPoint,
    pub(super) badges: HashMap<PointId, Badge>,
}

/// What is found of one point.
#[derive(Default)]
struct OfPoint {
    id: Option<PointId>,
    problems: u64,
    /// Packs of it that were found missing or short.
    packs: HashSet<PackId>,
    has_cold: bool,
}

/// Whether a block has to be read.
pub(super) enum Look {
    Needed,
    Done,
}

impl Findings {
    pub(super) fn begin(&mut self, point: Option<&PointId>) {
        self.point = OfPoint { id: point.cloned(), ..OfPoint::default() };
    }

    /// Ends a point: it has its badge.
    pub(super) fn end(&mut self, depth: CheckDepth, at: Timestamp) {
        let OfPoint { id: Some(id), problems, has_cold, .. } = std::mem::take(&mut self.point)
        else {
            return;
        };
        self.report.points += 1;
        self.report.damaged_points += u64::from(problems > 0);
        let depth = if has_cold { CheckDepth::Structure } else { depth };
        self.badges.insert(id, Badge { checked_at: at, depth, problems });
    }

    pub(super) fn look(&mut self, block: &BlockRef) -> Look {
        let key = key(block);
        if self.cold.contains(&block.pack) {
            self.point.has_cold = true;
            return Look::Done;
        }
        if self.bad.contains(&key) {
            // It is listed already, with the point that it was found through.
            self.point.problems += 1;
            return Look::Done;
        }
        if self.sound.contains(&key) { Look::Done } else { Look::Needed }
    }

    /// An earlier run has read the block, for a point that it came to the end of.
    pub(super) fn was_read(&mut self, block: &BlockRef) {
        let key = key(block);
        if !self.bad.contains(&key) {
            self.insert(key);
        }
    }

    /// An earlier run has read the block, for the point that is being checked.
    pub(super) fn was_read_for_this(&mut self, block: &BlockRef) {
        match self.bad.contains(&key(block)) {
            true => self.point.problems += 1,
            false => self.was_read(block),
        }
    }

    pub(super) fn is_sound(&mut self, block: &BlockRef) {
        self.report.blocks += 1;
        self.report.stored_bytes += u64::from(block.stored_len);
        self.insert(key(block));
    }

    /// Blocks that were read, and their bytes.
    pub(super) fn read(&self) -> (u64, u64) {
        (self.report.blocks, self.report.stored_bytes)
    }

    fn insert(&mut self, key: Key) {
        if self.sound.len() >= MAX_SEEN {
            self.sound.clear();
        }
        self.sound.insert(key);
    }

    pub(super) fn is_bad(&mut self, block: &BlockRef, detail: String) {
        if self.bad.len() < MAX_BAD {
            self.bad.insert(key(block));
        }
        self.problem(Some(block.pack), detail);
    }

    pub(super) fn is_cold(&mut self, pack: PackId) {
        if self.cold.insert(pack) {
            self.report.cold_packs += 1;
        }
        self.point.has_cold = true;
    }

    /// A pack that is missing or short: told once for each point.
    pub(super) fn lacks(&mut self, pack: PackId, detail: &str) {
        if self.point.packs.insert(pack) {
            self.problem(None, format!("pack {pack} {detail}"));
        }
    }

    pub(super) fn problem(&mut self, pack: Option<PackId>, detail: String) {
        self.point.problems += 1;
        self.report.problem_count += 1;
        if self.report.problems.len() < MAX_PROBLEMS {
            let (point, pack) = (self.point.id.clone(), pack.map(|pack| pack.to_string()));
            self.report.problems.push(Problem { point, pack, detail });
        }
    }

    /// Turns damage into a problem; anything else stops the check.
    pub(super) fn note<T>(
        &mut self,
        pack: Option<PackId>,
        result: Result<T, RepoError>,
    ) -> Result<Option<T>, RepoError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ (RepoError::Corrupt { .. } | RepoError::NotFound { .. })) => {
                self.problem(pack, error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what is wrong with points and packs that were deleted meanwhile.
    pub(super) fn forget_all_but(
        &mut self,
        points: &BTreeSet<PointId>,
        packs: &HashSet<PackId>,
        before: impl Fn(PackId) -> bool,
    ) {
        let gone = |problem: &Problem| {
            let pack = problem.pack.as_ref().and_then(|text| text.parse::<PackId>().ok());
            let point_gone = problem.point.as_ref().is_some_and(|point| !points.contains(point));
            // A pack that was missing from the beginning is missed; unless no point asks for it.
            let pack_gone = pack.is_some_and(|pack| before(pack) && !packs.contains(&pack));
            point_gone || (problem.point.is_none() && pack_gone)
        };
        self.forget(gone);
        let gone: Vec<_> = self.badges.extract_if(|point, _| !points.contains(point)).collect();
        self.report.points -= gone.len() as u64;
        self.report.damaged_points -=
            gone.iter().filter(|(_, badge)| !badge.is_sound()).count() as u64;
    }

    fn forget(&mut self, which: impl Fn(&Problem) -> bool) {
        let known = self.report.problems.len();
        self.report.problems.retain(|problem| !which(problem));
        self.report.problem_count -= (known - self.report.problems.len()) as u64;
    }

    /// What has to be known to go on later.
    pub(super) fn bad(&self) -> Vec<BadBlock> {
        let bad = self
            .bad
            .iter()
            .map(|(pack, offset, half)| BadBlock(pack.to_string(), *offset, hex::encode(half)));
        bad.collect()
    }

    /// Goes on from there. What was wrong with the maps of the point that was `half_done` is found again on the way; its
    /// blocks are not read again.
    pub(super) fn resume(
        &mut self,
        report: CheckReport,
        bad: &[BadBlock],
        half_done: Option<&PointId>,
    ) {
        self.report = report;
        self.bad = bad.iter().filter_map(BadBlock::key).collect();
        self.forget(|problem| {
            half_done.is_some() && problem.point.as_ref() == half_done && problem.pack.is_none()
        });
    }
}

/// A damaged block by its pack, offset and the first half of its hash.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct BadBlock(String, u32, String);

impl BadBlock {
    fn key(&self) -> Option<Key> {
        let mut half = [0; 16];
        hex::decode_to_slice(&self.2, &mut half).ok()?;
        Some((self.0.parse().ok()?, self.1, half))
    }
}
