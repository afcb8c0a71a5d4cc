use rekindle_jobs::UpkeepConfig;
use rekindle_repo::Retention;

use super::RepositoryEntry;

impl RepositoryEntry {
    /// How it is kept.
    pub(crate) fn upkeep(&self) -> UpkeepConfig {
        let count = Option::unwrap_or_default;
        let retention = Retention {
            last: count(self.keep_last),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
            tags: self.keep_tags.iter().flatten().cloned().collect(),
        };
        let default = UpkeepConfig::default();
        let grace_hours = self.prune_grace_hours.unwrap_or(default.grace_hours);
        UpkeepConfig { retention, grace_hours }
    }
}
