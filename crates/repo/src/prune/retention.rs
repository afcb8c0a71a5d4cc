use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{PointId, PointManifest, RepoError, VmId};

/// Which points of each VM stay. A point stays if any rule keeps it; without any rule, all do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of the newest so many days that have one. Days, weeks and the rest are those of UTC.
    pub daily: u32,
    /// The same for weeks, which begin on Monday.
    pub weekly: u32,
    /// The same for months.
    pub monthly: u32,
    /// The same for years.
    pub yearly: u32,
    /// Points with one of these tags stay, whatever else.
    pub tags: BTreeSet<String>,
}

/// Points that are judged by what else is known of them.
pub(super) struct Named<'a> {
    pub(super) in_use: &'a BTreeSet<PointId>,
    pub(super) spare: &'a BTreeSet<PointId>,
    pub(super) drop: &'a BTreeSet<PointId>,
}

/// Why a point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeptBy {
    /// There is no rule.
    NoRule,
    /// It is among the newest.
    Last,
    /// It is the newest of its day.
    Daily,
    /// Of its week.
    Weekly,
    /// Of its month.
    Monthly,
    /// Of its year.
    Yearly,
    /// It has a tag that pins it.
    Tag,
    /// It is to be spared.
    Spared,
    /// A recovery uses it.
    InUse,
}

impl KeptBy {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::Last => "last",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Tag => "tag",
            Self::Spared => "spared",
            Self::InUse => "in_use",
        }
    }
}

/// A point and why it stays, if it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The point.
    pub point: PointId,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Whose it is.
    pub vm: VmId,
    /// The VM's name.
    pub vm_name: String,
    /// What keeps it. Nothing: it goes.
    pub kept_by: Vec<KeptBy>,
}

/// What makes two points of one VM count as one.
type Period = fn(Date) -> (i16, i16);

const PERIODS: [(KeptBy, Period); 4] = [
    (KeptBy::Daily, |date| (date.year(), date.day_of_year())),
    (KeptBy::Weekly, |date| {
        let week = date.iso_week_date();
        (week.year(), i16::from(week.week()))
    }),
    (KeptBy::Monthly, |date| (date.year(), i16::from(date.month()))),
    (KeptBy::Yearly, |date| (date.year(), 0)),
];

impl Retention {
    /// Whether it has any rule but tags, which alone would let everything else go.
    fn has_rules(&self) -> bool {
        let Self { last, daily, weekly, monthly, yearly, tags: _ } = self;
        [last, daily, weekly, monthly, yearly].iter().any(|count| **count > 0)
    }

    /// What becomes of each point.
    pub(super) fn judge(
        &self,
        points: &[PointManifest],
        named: &Named<'_>,
    ) -> Result<Vec<Verdict>, RepoError> {
        self.validate()?;
        let mut vms: BTreeMap<&VmId, Vec<&PointManifest>> = BTreeMap::new();
        for point in points {
            vms.entry(&point.vm.id).or_default().push(point);
        }
        Ok(vms.into_values().flat_map(|points| self.judge_vm(points, named)).collect())
    }

    /// `Refused` for what would let everything go but a few tagged points: nobody means that.
    pub fn validate(&self) -> Result<(), RepoError> {
        match self.has_rules() || self.tags.is_empty() {
            true => Ok(()),
            false => Err(RepoError::refused(
                "a retention of tags alone would let every other point go: say how many to keep",
            )),
        }
    }

    /// Newest first.
    fn judge_vm(&self, mut points: Vec<&PointManifest>, named: &Named<'_>) -> Vec<Verdict> {
        points.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        let counts = [self.daily, self.weekly, self.monthly, self.yearly];
        let mut seen: [BTreeSet<(i16, i16)>; 4] = Default::default();
        let mut last = 0;
        let mut verdicts = Vec::new();
        for point in points {
            let mut kept_by = Vec::new();
            // A dropped point takes no other's place.
            if !named.drop.contains(&point.id) {
                if !self.has_rules() {
                    kept_by.push(KeptBy::NoRule);
                }
                if last < self.last {
                    last += 1;
                    kept_by.push(KeptBy::Last);
                }
                let date = point.created_at.to_zoned(TimeZone::UTC).date();
                for (rule, (kept, period)) in PERIODS.iter().enumerate() {
                    let room = seen[rule].len() < counts[rule] as usize;
                    if room && seen[rule].insert(period(date)) {
                        kept_by.push(*kept);
                    }
                }
                if point.tags.iter().any(|tag| self.tags.contains(tag)) {
                    kept_by.push(KeptBy::Tag);
                }
                if named.spare.contains(&point.id) {
                    kept_by.push(KeptBy::Spared);
                }
            }
            if named.in_use.contains(&point.id) {
                kept_by.push(KeptBy::InUse);
            }
            verdicts.push(Verdict {
                point: point.id.clone(),
                created_at: point.created_at,
                vm: point.vm.id.clone(),
                vm_name: point.vm.name.clone(),
                kept_by,
            });
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::sample;
    use jiff::SignedDuration;

    /// A point of each day from 2025-12-31 back, at noon; two on the first.
    fn daily_points(days: i64) -> Vec<PointManifest> {
        let newest: Timestamp = "2025-12-31T12:00:00Z".parse().unwrap();
        let at = |hours: i64| {
            let created_at = newest - SignedDuration::from_hours(hours);
            let id = PointId::new(created_at).unwrap();
            PointManifest { id, created_at, ..sample() }
        };
        (0..days).map(|day| at(24 * day)).chain([at(1)]).collect()
    }

    /// With points that are in use, spared, dropped.
    fn judge(
        retention: &Retention,
        points: &[PointManifest],
        named: [&[&PointManifest]; 3],
    ) -> Result<Vec<Verdict>, RepoError> {
        let [in_use, spare, drop] = named
            .map(|points| points.iter().map(|point| point.id.clone()).collect::<BTreeSet<_>>());
        let named = Named { in_use: &in_use, spare: &spare, drop: &drop };
        retention.judge(points, &named)
    }

    fn names(verdict: &Verdict) -> String {
        verdict.kept_by.iter().map(|kept| kept.as_str()).collect::<Vec<_>>().join(",")
    }

    fn kept(retention: &Retention, points: &[PointManifest]) -> Vec<String> {
        let verdicts = judge(retention, points, [&[], &[], &[]]).unwrap();
        let kept = verdicts.into_iter().filter(|verdict| !verdict.kept_by.is_empty());
        kept.map(|verdict| verdict.point.as_str()[..11].to_owned()).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let points = daily_points(800);
        let none = Retention::default();
        assert_eq!(kept(&none, &points).len(), 801, "without a rule all stay");
        let last = Retention { last: 3, ..none.clone() };
        assert_eq!(kept(&last, &points), ["20251231t12", "20251231t11", "20251230t12"]);
        let daily = Retention { daily: 3, ..none.clone() };
        assert_eq!(kept(&daily, &points), ["20251231t12", "20251230t12", "20251229t12"]);
        // The 29th is a Monday, so the 28th ends a week; and that week is of 2025 though it ends in 2026.
        let weekly = Retention { weekly: 3, ..none.clone() };
        assert_eq!(kept(&weekly, &points), ["20251231t12", "20251228t12", "20251221t12"]);
        let monthly = Retention { monthly: 3, ..none.clone() };
        assert_eq!(kept(&monthly, &points), ["20251231t12", "20251130t12", "20251031t12"]);
        let yearly = Retention { yearly: 10, ..none.clone() };
        assert_eq!(kept(&yearly, &points), ["20251231t12", "20241231t12", "20231231t12"]);
        let all = Retention { last: 2, daily: 2, monthly: 2, yearly: 2, ..none };
        let wanted = ["20251231t12", "20251231t11", "20251230t12", "20251130t12", "20241231t12"];
        assert_eq!(kept(&all, &points), wanted);
    }

    #[test]
    fn tags_and_use_pin_and_vms_count_apart() {
        let mut points = daily_points(5);
        points[3].tags = vec!["quarter".into()];
        let mut other = daily_points(2);
        other.iter_mut().for_each(|point| point.vm.id = "other".parse().unwrap());
        points.extend(other);
        let tags = BTreeSet::from(["quarter".to_owned()]);
        let retention = Retention { last: 1, tags: tags.clone(), ..Retention::default() };
        let named = [&[&points[4]][..], &[&points[2]], &[]];
        let verdicts = judge(&retention, &points, named).unwrap();
        let why = |verdicts: &[Verdict], vm: &str| -> Vec<_> {
            let ours = verdicts.iter().filter(|verdict| verdict.vm.as_str() == vm);
            ours.map(names).collect()
        };
        assert_eq!(why(&verdicts, "vm"), ["last", "", "", "spared", "tag", "in_use"]);
        assert_eq!(why(&verdicts, "other"), ["last", "", ""]);
        let only_tags = Retention { tags, ..Retention::default() };
        assert!(judge(&only_tags, &points, named).is_err());
    }

    #[test]
    fn a_dropped_point_goes_unless_it_is_in_use_and_takes_no_others_place() {
        let points = daily_points(3);
        let rules = Retention { last: 1, daily: 1, ..Retention::default() };
        let why = |retention, in_use: &[&PointManifest]| -> Vec<_> {
            let verdicts = judge(retention, &points, [in_use, &[], &[&points[0]]]).unwrap();
            verdicts.iter().map(names).collect()
        };
        assert_eq!(why(&rules, &[]), ["", "last,daily", "", ""]);
        assert_eq!(why(&rules, &[&points[0]]), ["in_use", "last,daily", "", ""]);
        let none = Retention::default();
        assert_eq!(why(&none, &[]), ["", "no_rule", "no_rule", "no_rule"]);
    }
}
