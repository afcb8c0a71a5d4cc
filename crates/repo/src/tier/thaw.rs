use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::needs::packs_of;
use super::{Estimate, Readiness, Tier};
use crate::id::PackId;
use crate::store::{PackState, S3Bucket, Store, Thawed, pack_object};
use crate::{PointManifest, RepoError, Repository};

const MIB: f64 = (1 << 20) as f64;
const HOUR: u64 = 3600;
/// The longest that a thaw may last.
const DAYS_MAX: u32 = 366;

/// How fast a thaw is asked to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retrieval {
    /// Minutes; not from Deep Archive.
    Expedited,
    /// Hours.
    #[default]
    Standard,
    /// The cheapest.
    Bulk,
}

/// What a thaw is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThawOptions {
    /// How fast.
    pub retrieval: Retrieval,
    /// For how many days the thawed copies stay.
    pub days: u32,
}

impl Default for ThawOptions {
    fn default() -> Self {
        Self { retrieval: Retrieval::default(), days: 10 }
    }
}

impl Retrieval {
    /// Within how many hours Amazon usually has it done.
    pub fn hours(self, tier: Tier) -> u64 {
        self.terms(tier).map_or(48, |(seconds, _)| seconds.div_ceil(HOUR).max(1))
    }

    /// Seconds and dollars per GB; `None` where Amazon refuses it.
    fn terms(self, tier: Tier) -> Option<(u64, f64)> {
        match (tier, self) {
            (Tier::Hot | Tier::Warm, _) => Some((0, 0.0)),
            (Tier::Glacier, Self::Expedited) => Some((300, 0.03)),
            (Tier::Glacier, Self::Standard) => Some((5 * HOUR, 0.01)),
            (Tier::Glacier, Self::Bulk) => Some((12 * HOUR, 0.0)),
            (Tier::DeepArchive, Self::Expedited) => None,
            (Tier::DeepArchive, Self::Standard) => Some((12 * HOUR, 0.02)),
            (Tier::DeepArchive, Self::Bulk) => Some((48 * HOUR, 0.0025)),
        }
    }
}

/// Whether any pack at all is in a cold tier: one listing, and no map. Blocks on I/O.
pub fn has_cold_packs(repository: &Repository) -> Result<bool, RepoError> {
    match repository.store() {
        _ if repository.has_images() => Ok(false),
        Store::Local(_) => Ok(false),
        Store::S3(bucket) => bucket.has_cold_packs_blocking(),
    }
}

/// How soon a point can be recovered. Blocks on I/O: reads its maps and lists the packs.
pub fn readiness(repository: &Repository, point: &PointManifest) -> Result<Readiness, RepoError> {
    let states = states(repository, point)?;
    Ok(summary(repository, &states))
}

/// Asks the store to thaw what a point needs and is frozen, and for what is thawed already to stay as long. Blocks on
/// I/O. Asked twice, it finds its work done.
pub fn thaw(
    repository: &Repository,
    point: &PointManifest,
    options: ThawOptions,
) -> Result<Readiness, RepoError> {
    if !(1..=DAYS_MAX).contains(&options.days) {
        return Err(RepoError::refused(format!("a thaw lasts 1 to {DAYS_MAX} days")));
    }
    let states = states(repository, point)?;
    let Store::S3(bucket) = repository.store() else { return Ok(summary(repository, &states)) };
    let deep = |state: &PackState| state.tier == Tier::DeepArchive;
    if options.retrieval == Retrieval::Expedited && states.iter().any(deep) {
        let why = "Deep Archive has no expedited retrieval: ask for standard (12 hours) or bulk (48 hours)";
        return Err(RepoError::refused(why));
    }
    let cold = states.iter().filter(|state| state.tier.is_cold());
    let wanted = cold.filter(|state| state.thawed != Thawed::Coming);
    bucket.restore_all_blocking(wanted.map(|state| pack_object(state.pack)).collect(), options)?;
    readiness(repository, point)
}

/// The packs that a point needs, and how each is.
fn states(repository: &Repository, point: &PointManifest) -> Result<Vec<PackState>, RepoError> {
    if repository.has_images() {
        // It has no packs. One of its objects that is frozen is an error that says so when it is opened.
        return Ok(Vec::new());
    }
    let needed = packs_of(repository, point)?;
    match repository.store() {
        Store::Local(_) => Ok(Vec::new()),
        Store::S3(bucket) => states_of(bucket, needed),
    }
}

/// The same of packs in a bucket. What the hot copy has is hot, whatever the bucket's tier.
pub(super) fn states_of(
    bucket: &Arc<S3Bucket>,
    packs: BTreeSet<PackId>,
) -> Result<Vec<PackState>, RepoError> {
    let mut states = bucket.pack_states_blocking(packs)?;
    if let Some(dir) = bucket.hot() {
        for state in &mut states {
            if dir.len_of(&pack_object(state.pack)) == Some(state.len) {
                (state.tier, state.thawed) = (Tier::Hot, Thawed::No);
            }
        }
    }
    Ok(states)
}

fn summary(repository: &Repository, states: &[PackState]) -> Readiness {
    let base = match repository.store() {
        Store::Local(_) => Tier::Hot,
        Store::S3(_) => Tier::Warm,
    };
    let cold = || states.iter().filter(|state| state.tier.is_cold());
    let count =
        |thawed: fn(&Thawed) -> bool| cold().filter(|state| thawed(&state.thawed)).count() as u64;
    let until = |state: &PackState| match state.thawed {
        Thawed::Until(until) => Some(until),
        Thawed::No | Thawed::Coming => None,
    };
    let frozen = count(|thawed| *thawed == Thawed::No);
    let thawing = count(|thawed| *thawed == Thawed::Coming);
    Readiness {
        tier: states.iter().map(|state| state.tier).max().unwrap_or(base),
        ready: frozen == 0 && thawing == 0,
        packs: states.len() as u64,
        pack_bytes: states.iter().map(|state| state.len).sum(),
        frozen,
        thawing,
        thawed: count(|thawed| matches!(thawed, Thawed::Until(_))),
        cold_bytes: cold().map(|state| state.len).sum(),
        thawed_until: cold().filter_map(until).min(),
        estimates: estimates(states),
    }
}

fn estimates(states: &[PackState]) -> Vec<Estimate> {
    let frozen: Vec<_> =
        states.iter().filter(|state| state.tier.is_cold() && state.thawed == Thawed::No).collect();
    if frozen.is_empty() {
        return Vec::new();
    }
    let estimate = |retrieval: Retrieval| {
        let mut whole = Estimate { retrieval, seconds: 0, usd: 0.0 };
        for state in &frozen {
            let (seconds, usd_per_gb) = retrieval.terms(state.tier)?;
            whole.seconds = whole.seconds.max(seconds);
            whole.usd += usd_per_gb * state.len as f64 / MIB / 1024.0;
        }
        Some(whole)
    };
    [Retrieval::Expedited, Retrieval::Standard, Retrieval::Bulk]
        .into_iter()
        .filter_map(estimate)
        .collect()
}

/// When a store says a thawed copy ends: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
pub(crate) fn parse_restore(header: &str) -> Thawed {
    if header.contains("ongoing-request=\"true\"") {
        return Thawed::Coming;
    }
    let date = header.split("expiry-date=\"").nth(1).and_then(|rest| rest.split('"').next());
    let until = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|at| at.timestamp());
    // A store that says no date says only that it is thawed.
    Thawed::Until(until.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(tier: Tier, thawed: Thawed) -> PackState {
        PackState { pack: PackId(1), len: 1 << 30, tier, thawed }
    }

    #[test]
    fn what_the_store_says_of_a_thaw_is_read() {
        assert_eq!(parse_restore("ongoing-request=\"true\""), Thawed::Coming);
        let done = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        assert_eq!(parse_restore(done), Thawed::Until("2012-12-21T00:00:00Z".parse().unwrap()));
        assert_eq!(parse_restore("ongoing-request=\"false\""), Thawed::Until(Timestamp::MAX));
    }

    #[test]
    fn estimates_are_of_what_is_frozen_and_possible() {
        let states = [
            pack(Tier::Glacier, Thawed::No),
            pack(Tier::Glacier, Thawed::Coming),
            pack(Tier::Warm, Thawed::No),
        ];
        let of_glacier = estimates(&states);
        assert_eq!(of_glacier.len(), 3);
        assert_eq!((of_glacier[0].seconds, of_glacier[1].seconds), (300, 5 * HOUR));
        assert!((of_glacier[1].usd - 0.01).abs() < 1e-9);
        let of_both = estimates(&[states[0].clone(), pack(Tier::DeepArchive, Thawed::No)]);
        assert_eq!(of_both.len(), 2, "no expedited retrieval from Deep Archive");
        assert_eq!(of_both[0].seconds, 12 * HOUR);
        assert!(estimates(&states[1..]).is_empty());
    }
}
