use std::collections::{BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::reach::Reach;
use crate::id::{PackId, random};
use crate::seal::Seal;
use crate::store::{Store, map_object};
use crate::{MapId, PointId, RepoError, VmId, envelope};

/// The folder of the lists.
const CONDEMNED: &str = "condemned/";
/// What a list's body is called in its envelope.
const FIELD: &str = "condemned";
/// Names in one list: at most 190 bytes each, 9.5 MB, and a third more when sealed, so that it stays below its bound.
pub(super) const MAX_NAMES: usize = 50_000;
const MAX_LIST_BYTES: u64 = 16 << 20;
/// Lists that are read. A prune a day with a grace of a year has 366.
const MAX_LISTS: usize = 1000;

/// What is to be taken away, and from when on: `condemned/<time>-<random>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condemned {
    pub(crate) condemned_at: Timestamp,
    /// Half of the time until here is for ingests to end that have begun before; the rest, for their clocks.
    pub(crate) delete_after: Timestamp,
    pub(crate) points: Vec<CondemnedPoint>,
    pub(crate) maps: Vec<MapId>,
    #[serde(with = "hex_digits")]
    pub(crate) packs: Vec<PackId>,
}

/// A point by where its manifest lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CondemnedPoint {
    pub(crate) folder: VmId,
    pub(crate) point: PointId,
}

impl Condemned {
    pub(super) fn empty(condemned_at: Timestamp, grace: SignedDuration) -> Self {
        let delete_after = condemned_at.saturating_add(grace).unwrap_or(Timestamp::MAX);
        let (points, maps, packs) = (Vec::new(), Vec::new(), Vec::new());
        Self { condemned_at, delete_after, points, maps, packs }
    }

    pub(super) fn names(&self) -> usize {
        self.points.len() + self.maps.len() + self.packs.len()
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.delete_after <= now
    }

    /// Takes these points and what they need off the list. Whether that changed it.
    pub(super) fn spare(&mut self, points: &BTreeSet<PointId>, needed: &Reach) -> bool {
        let before = self.names();
        self.points.retain(|one| !points.contains(&one.point));
        self.maps.retain(|map| !needed.maps.contains(map));
        self.packs.retain(|pack| !needed.packs.contains(pack));
        self.names() < before
    }

    /// The first [`MAX_NAMES`] of it, the points before the rest.
    pub(super) fn split_off(&mut self) -> Self {
        let mut room = MAX_NAMES;
        let mut take = |len: usize| {
            let taken = len.min(room);
            room -= taken;
            taken
        };
        Self {
            condemned_at: self.condemned_at,
            delete_after: self.delete_after,
            points: self.points.drain(..take(self.points.len())).collect(),
            maps: self.maps.drain(..take(self.maps.len())).collect(),
            packs: self.packs.drain(..take(self.packs.len())).collect(),
        }
    }

    /// A name for it that is new.
    pub(super) fn object(&self) -> Result<String, RepoError> {
        let time = self.condemned_at.strftime("%Y%m%dt%H%M%Sz");
        Ok(format!("{CONDEMNED}{time}-{}.json", hex::encode(random::<4>()?)))
    }

    pub(super) fn encode(&self, seal: &Seal, object: &str) -> Result<Vec<u8>, RepoError> {
        envelope::encode(seal, object, FIELD, self)
    }

    /// Whether what refers to something in here may no longer be published: its removal may have begun when the
    /// manifest is there.
    fn is_too_late(&self, now: Timestamp) -> bool {
        let half = self.condemned_at.duration_until(self.delete_after) / 2;
        self.condemned_at.duration_until(now) >= half
    }
}

/// All lists, by their object. One that is damaged is an error: nothing can be published or taken away beside what
/// nobody knows.
pub(crate) fn read_all(store: &Store, seal: &Seal) -> Result<Vec<(String, Condemned)>, RepoError> {
    let objects = store.list_blocking(CONDEMNED)?;
    if objects.len() > MAX_LISTS {
        let why = format!(
            "there are more than {MAX_LISTS} lists in {CONDEMNED}: prune again when their time is over"
        );
        return Err(RepoError::refused(why));
    }
    let mut lists = Vec::new();
    for object in objects {
        let (name, of_list) = (object.clone(), seal.clone());
        let decode = move |bytes: Vec<u8>| envelope::decode(&of_list, &name, FIELD, &bytes);
        match store.read_all_blocking(&object, MAX_LIST_BYTES, decode) {
            Ok(list) => lists.push((object, list)),
            // Taken away since it was listed.
            Err(RepoError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lists)
}

/// What is condemned now, so that nobody builds on it.
pub(crate) fn packs(store: &Store, seal: &Seal) -> Result<HashSet<PackId>, RepoError> {
    Ok(read_all(store, seal)?.into_iter().flat_map(|(_, list)| list.packs).collect())
}

/// Refuses to publish a point that refers to what is about to be taken away, or was. Called with nothing in between it
/// and the writing of the manifest.
///
/// The lists come first: what one of them names that is too old to build on is refused for that. What a list named that
/// is gone was deleted before the list was, and so is missing from what is stored now. What is there, and on no old
/// list, stays for half of a grace time at least.
pub(crate) fn check_publish(
    store: &Store,
    seal: &Seal,
    packs: &HashSet<PackId>,
    maps: &[MapId],
    now: Timestamp,
) -> Result<(), RepoError> {
    for (_, list) in read_all(store, seal)?.iter().filter(|(_, list)| list.is_too_late(now)) {
        let ours = list.packs.iter().any(|pack| packs.contains(pack))
            || list.maps.iter().any(|map| maps.contains(map));
        if ours {
            return Err(overtaken());
        }
    }
    let stored: HashSet<_> =
        store.stored_packs_blocking()?.into_iter().map(|one| one.pack).collect();
    let mapped: HashSet<_> = store.list_blocking("maps/")?.into_iter().collect();
    match packs.is_subset(&stored) && maps.iter().all(|map| mapped.contains(&map_object(map))) {
        true => Ok(()),
        false => Err(overtaken()),
    }
}

fn overtaken() -> RepoError {
    RepoError::Unavailable {
        what: "publish the point".into(),
        source: anyhow::anyhow!(
            "the ingest took so long that what it builds on is being pruned: run it again, and prune with a grace time of more than twice as long"
        ),
    }
}

mod hex_digits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::id::PackId;

    pub(super) fn serialize<S: Serializer>(packs: &[PackId], s: S) -> Result<S::Ok, S::Error> {
        packs.iter().map(ToString::to_string).collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PackId>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}
