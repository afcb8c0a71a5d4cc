use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::findings::BadBlock;
use super::{CheckDepth, CheckReport, CheckScope};
use crate::id::random;
use crate::seal::Seal;
use crate::store::{Store, Writer};
use crate::{PointId, RepoError, envelope};

/// The folder of what checks found.
const CHECKS: &str = "checks/";
/// What a page's body is called in its envelope.
const FIELD: &str = "checks";
/// 100 000 points with a badge each, and a thousand problems.
const MAX_PAGE_BYTES: u64 = 32 << 20;
/// Pages that are read: one, unless several check at once.
const MAX_PAGES: usize = 64;
/// What was left unfinished for longer is begun anew.
const RESUMED_WITHIN: i64 = 30 * 86_400;

/// What the last check of a recovery point found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Badge {
    /// When.
    pub checked_at: Timestamp,
    /// How deep.
    pub depth: CheckDepth,
    /// Places of it that are not what was written. None: it is sound.
    pub problems: u64,
}

impl Badge {
    /// Whether everything was as it was written.
    pub fn is_sound(&self) -> bool {
        self.problems == 0
    }

    /// Whether this one is shown rather than `other`. A look at the structure alone takes nothing back that a read of all
    /// data found, but damage always counts.
    fn outweighs(&self, other: &Self) -> bool {
        match (self.depth, other.depth) {
            (CheckDepth::Structure, CheckDepth::Data) => {
                !self.is_sound() && self.checked_at > other.checked_at
            }
            (CheckDepth::Data, CheckDepth::Structure) => {
                other.is_sound() || self.checked_at > other.checked_at
            }
            _ => self.checked_at > other.checked_at,
        }
    }
}

/// How far a check came that did not come to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unfinished {
    pub(super) begun_at: Timestamp,
    pub(super) scope: CheckScope,
    /// Points all of whose blocks were read.
    pub(super) done: BTreeSet<PointId>,
    /// A point, a disk of it and a leaf of its map: what comes before was read.
    pub(super) at: Option<(PointId, usize, u64)>,
    pub(super) bad: Vec<BadBlock>,
    pub(super) report: CheckReport,
}

/// What is known from all checks: one object, `checks/<time>-<random>.json`. A new one is written from the old ones, and
/// then they are deleted; a crash in between leaves both, which say the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Page {
    badges: BTreeMap<PointId, Badge>,
    unfinished: Vec<Unfinished>,
}

/// All pages, and what is in them together.
#[derive(Default)]
pub(crate) struct Book {
    objects: Vec<String>,
    page: Page,
}

impl Book {
    /// Reads the book. A damaged page is passed over with a warning: what it said is found again by a check.
    pub(crate) fn read(store: &Store, seal: &Seal) -> Result<Self, RepoError> {
        let mut book = Self::default();
        let pages = store.list_blocking(CHECKS)?.into_iter();
        for object in pages.filter(|object| object.ends_with(".json")).take(MAX_PAGES) {
            let (name, of_page) = (object.clone(), seal.clone());
            let decode = move |bytes: Vec<u8>| envelope::decode(&of_page, &name, FIELD, &bytes);
            match store.read_all_blocking(&object, MAX_PAGE_BYTES, decode) {
                Ok(page) => book.merge(page),
                // Written anew since it was listed.
                Err(RepoError::NotFound { .. }) => continue,
                Err(error @ RepoError::Unavailable { .. }) => return Err(error),
                Err(error) => tracing::warn!(object, "what checks found cannot be read: {error}"),
            }
            book.objects.push(object);
        }
        Ok(book)
    }

    fn merge(&mut self, page: Page) {
        for (point, badge) in page.badges {
            self.put(point, badge);
        }
        self.page.unfinished.extend(page.unfinished);
    }

    pub(super) fn put(&mut self, point: PointId, badge: Badge) {
        match self.page.badges.get(&point) {
            Some(known) if !badge.outweighs(known) => {}
            _ => {
                self.page.badges.insert(point, badge);
            }
        }
    }

    pub(crate) fn into_badges(self) -> BTreeMap<PointId, Badge> {
        self.page.badges
    }

    /// Takes out what was left unfinished of that scope; the youngest, if it is young enough.
    pub(super) fn take_unfinished(
        &mut self,
        scope: &CheckScope,
        now: Timestamp,
    ) -> Option<Unfinished> {
        let (mut ours, others): (Vec<_>, Vec<_>) =
            self.page.unfinished.drain(..).partition(|one| one.scope == *scope);
        self.page.unfinished = others;
        ours.sort_by_key(|one| one.begun_at);
        let young = |one: &Unfinished| now.as_second() - one.begun_at.as_second() < RESUMED_WITHIN;
        ours.pop().filter(young)
    }

    pub(super) fn put_unfinished(&mut self, unfinished: Unfinished) {
        self.page.unfinished.push(unfinished);
    }

    /// Writes the book as one page, of the points that there still are, and deletes the pages that it was read from.
    pub(super) fn write(
        mut self,
        (store, seal): (&Store, &Seal),
        points: &BTreeSet<PointId>,
        now: Timestamp,
    ) -> Result<(), RepoError> {
        self.page.badges.retain(|point, _| points.contains(point));
        let time = now.strftime("%Y%m%dt%H%M%Sz");
        let object = format!("{CHECKS}{time}-{}.json", hex::encode(random::<4>()?));
        let bytes = envelope::encode(seal, &object, FIELD, &self.page)?;
        let writer = Writer::beside_others(store);
        writer.put(&object, &bytes)?;
        writer.remove_all(&self.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn badge(hour: i64, depth: CheckDepth, problems: u64) -> Badge {
        Badge { checked_at: Timestamp::from_second(3600 * hour).unwrap(), depth, problems }
    }

    #[test]
    fn damage_and_depth_outweigh_what_is_younger_and_shallow() {
        use CheckDepth::{Data, Structure};
        let cases = [
            ([badge(1, Data, 0), badge(2, Structure, 0)], 0),
            ([badge(1, Data, 3), badge(2, Structure, 0)], 0),
            ([badge(1, Data, 0), badge(2, Structure, 1)], 1),
            ([badge(1, Data, 3), badge(2, Data, 0)], 1),
            ([badge(1, Structure, 0), badge(2, Structure, 1)], 1),
            ([badge(1, Structure, 1), badge(2, Structure, 0)], 1),
            ([badge(1, Structure, 1), badge(2, Data, 0)], 1),
        ];
        let point: PointId = "20250102t030405z-00112233".parse().unwrap();
        for (badges, shown) in cases {
            for order in [[0, 1], [1, 0]] {
                let mut book = Book::default();
                order.iter().for_each(|n| book.put(point.clone(), badges[*n].clone()));
                assert_eq!(book.into_badges()[&point], badges[shown], "{badges:?} {order:?}");
            }
        }
    }
}
