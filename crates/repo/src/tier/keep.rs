//! Keeps what is in use thawed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::ThawOptions;
use super::needs::packs_of;
use super::thaw::states_of;
use crate::id::PackId;
use crate::store::{PackState, Store, Thawed, pack_object};
use crate::{PointManifest, RepoError, Repository};

/// What a point needs of cold tiers, to be kept thawed for as long as the point is used. A disk of 62 TiB lies in a
/// million packs, whose names take some 12 MB.
pub struct KeepThawed {
    repository: Repository,
    options: ThawOptions,
    packs: BTreeSet<PackId>,
}

/// How it stands with what is kept thawed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// When the first thawed copy ends; `None` if nothing is cold.
    pub until: Option<Timestamp>,
    /// Packs that were asked for more time.
    pub extended: usize,
    /// Packs that had ended, and were asked for again.
    pub ended: usize,
}

impl KeepThawed {
    /// `None` where nothing can be cold. Blocks on I/O: reads the point's maps, once.
    pub fn begin(
        repository: &Repository,
        point: &PointManifest,
        options: ThawOptions,
    ) -> Result<Option<Self>, RepoError> {
        if !super::has_cold_packs(repository)? {
            return Ok(None);
        }
        let packs = packs_of(repository, point)?;
        Ok(Some(Self { repository: repository.clone(), options, packs }))
    }

    /// Asks for as many days again for what has less than half of them left. Blocks on I/O.
    pub fn look(&self, now: Timestamp) -> Result<Kept, RepoError> {
        let Store::S3(bucket) = self.repository.store() else { return Ok(Kept::default()) };
        let states = states_of(bucket, self.packs.clone())?;
        let plan = Plan::of(&states, self.options.days, now);
        let wanted = plan.extend.iter().chain(&plan.again).map(|pack| pack_object(*pack));
        bucket.restore_all_blocking(wanted.collect(), self.options)?;
        let after = if plan.extend.is_empty() && plan.again.is_empty() {
            states
        } else {
            states_of(bucket, self.packs.clone())?
        };
        Ok(Kept { until: ends(&after), extended: plan.extend.len(), ended: plan.again.len() })
    }
}

/// When the first of what is thawed is cold again.
fn ends(states: &[PackState]) -> Option<Timestamp> {
    let until = |state: &PackState| match state.thawed {
        Thawed::Until(until) => Some(until),
        Thawed::No | Thawed::Coming => None,
    };
    states.iter().filter(|state| state.tier.is_cold()).filter_map(until).min()
}

/// What is to be asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    extend: Vec<PackId>,
    again: Vec<PackId>,
}

impl Plan {
    fn of(states: &[PackState], days: u32, now: Timestamp) -> Self {
        let half = SignedDuration::from_hours(i64::from(days) * 12);
        let mut plan = Self::default();
        for state in states.iter().filter(|state| state.tier.is_cold()) {
            match state.thawed {
                Thawed::Coming => {}
                Thawed::No => plan.again.push(state.pack),
                Thawed::Until(until) if until.duration_since(now) < half => {
                    plan.extend.push(state.pack);
                }
                Thawed::Until(_) => {}
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tier;

    #[test]
    fn what_ends_soon_is_extended_and_what_has_ended_asked_for_again() {
        let now: Timestamp = "2025-01-10T00:00:00Z".parse().unwrap();
        let in_hours = |hours| Thawed::Until(now + SignedDuration::from_hours(hours));
        let state = |pack, tier, thawed| PackState { pack: PackId(pack), len: 1, tier, thawed };
        let states = [
            state(1, Tier::Glacier, in_hours(24 * 5 + 1)),
            state(2, Tier::Glacier, in_hours(24 * 5 - 1)),
            state(3, Tier::DeepArchive, in_hours(-1)),
            state(4, Tier::DeepArchive, Thawed::No),
            state(5, Tier::Glacier, Thawed::Coming),
            state(6, Tier::Warm, Thawed::No),
            state(7, Tier::Hot, Thawed::No),
        ];
        let plan = Plan::of(&states, 10, now);
        let extend = vec![PackId(2), PackId(3)];
        assert_eq!(plan, Plan { extend, again: vec![PackId(4)] });
        assert_eq!(ends(&states[..2]), Some(now + SignedDuration::from_hours(24 * 5 - 1)));
        assert_eq!(ends(&states[5..]), None);
    }
}
