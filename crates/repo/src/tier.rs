//! Tiers: how soon a recovery point's bytes can be read, and how they get there.

pub(crate) mod hot;
mod keep;
mod moving;
mod needs;
mod thaw;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use hot::{HotLimits, HotReport, copy_hot, copy_newest_hot, drop_hot, hot_points};
pub use keep::{KeepThawed, Kept};
pub use moving::{MoveReport, move_point};
pub(crate) use thaw::parse_restore;
pub use thaw::{Retrieval, ThawOptions, has_cold_packs, readiness, thaw};

/// Where packs lie, by how soon they can be read. Maps and manifests are always at hand.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// A directory of this machine.
    Hot,
    /// S3, read at once.
    Warm,
    /// S3 Glacier Flexible Retrieval: thawed in minutes to hours.
    Glacier,
    /// S3 Glacier Deep Archive: thawed in half a day to two days.
    DeepArchive,
}

impl Tier {
    /// Whether it must be thawed before it can be read.
    pub fn is_cold(self) -> bool {
        matches!(self, Self::Glacier | Self::DeepArchive)
    }

    /// What Amazon charges for deleting `bytes` that have been there for `age`: the rest of the least time.
    pub(crate) fn early_deletion_usd(self, bytes: u64, age: SignedDuration) -> f64 {
        let (days, usd_per_gib_month) = match self {
            Self::Hot | Self::Warm => return 0.0,
            Self::Glacier => (90.0, 0.0036),
            Self::DeepArchive => (180.0, 0.00099),
        };
        let left = (days - age.as_secs_f64() / 86_400.0).clamp(0.0, days);
        bytes as f64 / (1_u64 << 30) as f64 * usd_per_gib_month * left / 30.0
    }

    /// Its name, as in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Glacier => "glacier",
            Self::DeepArchive => "deep_archive",
        }
    }
}

/// How soon a recovery point can be recovered.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// The coldest tier that any of its packs is in.
    pub tier: Tier,
    /// Whether all of it can be read now.
    pub ready: bool,
    /// Packs that it needs.
    pub packs: u64,
    /// Bytes of them.
    pub pack_bytes: u64,
    /// Packs that nobody has asked to be thawed.
    pub frozen: u64,
    /// Packs that are being thawed.
    pub thawing: u64,
    /// Packs in a cold tier that can be read until `thawed_until`.
    pub thawed: u64,
    /// Bytes of all packs in a cold tier.
    pub cold_bytes: u64,
    /// When the first thawed pack is cold again.
    pub thawed_until: Option<Timestamp>,
    /// What to expect of a thaw of what is frozen, for each way there is.
    pub estimates: Vec<Estimate>,
}

/// What a thaw takes, as Amazon documents and prices it (us-east-1, without taxes). Other stores differ.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimate {
    /// Which way.
    pub retrieval: Retrieval,
    /// After how many seconds it is usually done at the latest.
    pub seconds: u64,
    /// US dollars for the retrieval.
    pub usd: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_early_costs_what_is_left_of_the_least_time() {
        let cost = |tier: Tier, days: i64| {
            tier.early_deletion_usd(100 << 30, SignedDuration::from_hours(24 * days))
        };
        assert_eq!((cost(Tier::Hot, 0), cost(Tier::Warm, 0)), (0.0, 0.0));
        assert!((cost(Tier::Glacier, 0) - 1.08).abs() < 1e-9, "three months at 0.36");
        assert!((cost(Tier::Glacier, 60) - 0.36).abs() < 1e-9);
        assert!((cost(Tier::DeepArchive, 150) - 0.099).abs() < 1e-9);
        assert_eq!((cost(Tier::Glacier, 90), cost(Tier::DeepArchive, 400)), (0.0, 0.0));
        // A store whose clock is ahead of ours.
        assert_eq!(cost(Tier::Glacier, -5), cost(Tier::Glacier, 0));
    }
}
