//! How much is read besides guests' reads, by the time of day.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Zoned;
use jiff::civil::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::MoverConfig;
use crate::env::Env;

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A time of day with limits of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// Local time at which it begins.
    pub from: Time,
    /// Local time at which it ends; before `from` it is on the next day, and the same is all day.
    pub to: Time,
    /// The most bytes per second that all jobs read together meanwhile; 0 for no limit, absent for
    /// what holds at other times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_max_bytes_per_second: Option<u64>,
    /// The same for each job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<u64>,
}

impl Hours {
    fn hold_at(&self, time: Time) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&time),
            false => time >= self.from || time < self.to,
        }
    }
}

/// What holds now, in bytes per second; 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LimitsView {
    /// For all jobs together, with read-ahead and boot profiles.
    pub limit_bytes_per_second: u64,
    /// For each job.
    pub job_limit_bytes_per_second: u64,
    /// Milliseconds that 19 of 20 guests' reads may take before the mover makes way.
    pub guest_read_p95_ms: u64,
}

impl MoverConfig {
    /// The limits at `time`: of the first hours that hold, else those of other times.
    fn limits_at(&self, time: Time) -> LimitsView {
        let now = self.hours.iter().find(|hours| hours.hold_at(time));
        let total = now.and_then(|hours| hours.total_max_bytes_per_second);
        let job = now.and_then(|hours| hours.max_bytes_per_second);
        LimitsView {
            limit_bytes_per_second: total.unwrap_or(self.total_max_bytes_per_second),
            job_limit_bytes_per_second: job.unwrap_or(self.max_bytes_per_second),
            guest_read_p95_ms: u64::try_from(self.guest_read_p95.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The limits now, by the appliance's clock.
    pub(crate) fn limits(&self) -> LimitsView {
        self.limits_at(Zoned::now().time())
    }
}

/// What each job may read per second, shared with movers that run.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobLimit(Arc<AtomicU64>);

impl JobLimit {
    /// Bytes per second; 0 for no limit.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, bytes_per_second: u64) {
        self.0.store(bytes_per_second, Ordering::Relaxed);
    }
}

/// Sets the limits that hold now.
pub(crate) fn set(env: &Env) {
    let limits = env.config.mover.limits();
    env.cache.limit(limits.limit_bytes_per_second);
    env.job_limit.set(limits.job_limit_bytes_per_second);
}

/// Sets the limits as the day goes on, until the appliance stops.
pub(crate) async fn keep(env: Arc<Env>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while env.closing.run_until_cancelled(tick.tick()).await.is_some() {
        set(&env);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(from: &str, to: &str, limits: &str) -> Hours {
        let json = format!("{{\"from\":\"{from}\",\"to\":\"{to}\"{limits}}}");
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn the_first_hours_that_hold_count_also_over_midnight() {
        let mover = MoverConfig {
            total_max_bytes_per_second: 99,
            max_bytes_per_second: 9,
            hours: vec![
                hours("08:00", "18:00", ",\"total_max_bytes_per_second\":10"),
                hours("22:30", "06:00", ",\"total_max_bytes_per_second\":0"),
                hours("12:00", "12:00", ",\"max_bytes_per_second\":5"),
            ],
            ..MoverConfig::default()
        };
        for (time, total, job) in [
            ("08:00", 10, 9),
            ("17:59:59", 10, 9),
            ("18:00", 99, 5),
            ("22:30", 0, 9),
            ("23:59", 0, 9),
            ("00:00", 0, 9),
            ("05:59", 0, 9),
            ("06:00", 99, 5),
        ] {
            let limits = mover.limits_at(time.parse().unwrap());
            let found = (limits.limit_bytes_per_second, limits.job_limit_bytes_per_second);
            assert_eq!(found, (total, job), "{time}");
        }
    }

    #[test]
    fn unknown_limits_are_refused() {
        let text = "{\"from\":\"08:00\",\"to\":\"18:00\",\"max\":1}";
        assert!(serde_json::from_str::<Hours>(text).is_err());
    }
}
