//! How long the space for guests' writes lasts. What is to come and when to raise an alarm is decided apart; one task looks.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use crate::env::Env;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Over how long the rate of writing is taken: what was written longer ago counts for little.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Percent left at which an alarm is raised: of what guests' writes take and may still take. What
/// others fill was never theirs.
const ALARMS: [u8; 3] = [20, 10, 5];
/// Percent more than that before it is taken back.
const BACK: u64 = 1;

/// The space for guests' writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SpaceView {
    /// Bytes that guests may still write: what is free, and what the cache's ring gives back.
    pub left_bytes: u64,
    /// Of these, bytes that the ring holds now.
    pub ring_bytes: u64,
    /// Bytes that guests' writes take.
    pub written_bytes: u64,
    /// By how many bytes per second that grew of late.
    pub written_bytes_per_second: u64,
    /// When nothing is left if it goes on so; absent while nothing grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_until_full: Option<u64>,
    /// Of what is left, bytes that running jobs have reserved.
    pub reserved_bytes: u64,
    /// The alarm that is raised, as percent left of what guests' writes take and may take: 20, 10 or
    /// 5; 0 for none.
    pub alarm_percent: u8,
}

/// What is found at one look, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) free: u64,
    pub(crate) ring: u64,
    pub(crate) written: u64,
    pub(crate) reserved: u64,
}

impl Found {
    /// Bytes that guests may still write.
    pub(crate) fn left(&self) -> u64 {
        self.free.saturating_add(self.ring)
    }
}

/// An alarm that is raised or taken back, as percent left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crossing {
    Down(u8),
    Up(u8),
}

/// What was found so far, as far as it matters.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    last: Option<(Instant, u64)>,
    per_second: f64,
    alarm: u8,
}

impl Outlook {
    /// Takes a look in. Says what an operator sees, and the alarm that this look raises or takes back.
    pub(crate) fn look(&mut self, found: Found, now: Instant) -> (SpaceView, Option<Crossing>) {
        self.measure(found.written, now);
        let left = found.left();
        let crossing = self.cross(left, left.saturating_add(found.written));
        let until_full = left as f64 / self.per_second;
        let view = SpaceView {
            left_bytes: left,
            ring_bytes: found.ring,
            written_bytes: found.written,
            written_bytes_per_second: self.per_second as u64,
            seconds_until_full: (self.per_second >= 1.0).then_some(until_full as u64),
            reserved_bytes: found.reserved,
            alarm_percent: self.alarm,
        };
        (view, crossing)
    }

    /// A mean that forgets: each look counts for as much as the time since the one before.
    fn measure(&mut self, written: u64, now: Instant) {
        let Some((at, before)) = self.last.replace((now, written)) else { return };
        let time = now.saturating_duration_since(at).as_secs_f64();
        if time <= 0.0 {
            return;
        }
        // What was discarded was not written backwards.
        let rate = written.saturating_sub(before) as f64 / time;
        let kept = (-time / REMEMBERED.as_secs_f64()).exp();
        self.per_second = self.per_second * kept + rate * (1.0 - kept);
    }

    fn cross(&mut self, left: u64, total: u64) -> Option<Crossing> {
        let below = |percent: u64| u128::from(left) * 100 < u128::from(total) * u128::from(percent);
        let reached = ALARMS.into_iter().rev().find(|alarm| below(u64::from(*alarm))).unwrap_or(0);
        let deeper = reached != 0 && (self.alarm == 0 || reached < self.alarm);
        if deeper {
            self.alarm = reached;
            return Some(Crossing::Down(reached));
        }
        if self.alarm == 0 || below(u64::from(self.alarm) + BACK) {
            return None;
        }
        let before = std::mem::replace(&mut self.alarm, reached);
        Some(Crossing::Up(before))
    }
}

/// What is seen at the first look, before there is a rate.
pub(crate) fn first_look(env: &Env) {
    match env.look_at_space() {
        Ok(found) => *env.space.lock() = Outlook::default().look(found, Instant::now()).0,
        Err(error) => tracing::debug!("cannot look at the free space: {error}"),
    }
}

/// Looks until the appliance stops, keeps what is shown, and logs an alarm when it is crossed.
pub(crate) async fn watch(env: Arc<Env>) {
    let mut outlook = Outlook::default();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while env.closing.run_until_cancelled(tick.tick()).await.is_some() {
        let looked = env.clone();
        let found = crate::failure::blocking(move || looked.look_at_space()).await;
        match found {
            Ok(found) => {
                let (view, crossing) = outlook.look(found, Instant::now());
                tell(&view, crossing);
                *env.space.lock() = view;
            }
            Err(error) => tracing::debug!("cannot look at the free space: {error}"),
        }
    }
}

fn tell(view: &SpaceView, crossing: Option<Crossing>) {
    let (left, until) = (view.left_bytes, view.seconds_until_full);
    match crossing {
        Some(Crossing::Down(percent @ ..=5)) => {
            tracing::error!(left, until, "less than {percent} % is left for guests' writes");
        }
        Some(Crossing::Down(percent)) => {
            tracing::warn!(left, until, "less than {percent} % is left for guests' writes");
        }
        Some(Crossing::Up(percent)) => {
            tracing::info!(left, "more than {percent} % is left for guests' writes again");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(free: u64, ring: u64, written: u64) -> Found {
        Found { free, ring, written, reserved: 0 }
    }

    #[test]
    fn an_alarm_is_raised_once_and_taken_back_with_a_margin() {
        let (mut outlook, now) = (Outlook::default(), Instant::now());
        let mut look = |left: u64| outlook.look(found(left / 2, left - left / 2, 1000 - left), now);
        for (left, crossing, alarm) in [
            (500, None, 0),
            (200, None, 0),
            (199, Some(Crossing::Down(20)), 20),
            (150, None, 20),
            (205, None, 20),
            (199, None, 20),
            (99, Some(Crossing::Down(10)), 10),
            (105, None, 10),
            (115, Some(Crossing::Up(10)), 20),
            (30, Some(Crossing::Down(5)), 5),
            (0, None, 5),
            (900, Some(Crossing::Up(5)), 0),
            (40, Some(Crossing::Down(5)), 5),
        ] {
            let (view, crossed) = look(left);
            assert_eq!((crossed, view.alarm_percent), (crossing, alarm), "{left}");
            assert_eq!(view.left_bytes, left, "the ring's bytes count as left");
        }
    }

    #[test]
    fn the_outlook_follows_what_is_written() {
        let (mut outlook, began) = (Outlook::default(), Instant::now());
        let first = outlook.look(found(1000, 0, 0), began).0;
        assert_eq!(first.seconds_until_full, None);
        let mut view = first;
        // An hour of 100 bytes a second.
        for second in (5..=3600).step_by(5) {
            let now = began + Duration::from_secs(second);
            view = outlook.look(found(50_000, 0, second * 100), now).0;
        }
        let off = view.seconds_until_full.unwrap().abs_diff(500);
        assert!(off <= 5, "{view:?}");
        // A recovery is discarded, and nobody writes any more.
        for second in (3605..=14_400).step_by(5) {
            let now = began + Duration::from_secs(second);
            view = outlook.look(found(50_000, 0, 0), now).0;
        }
        assert_eq!((view.seconds_until_full, view.written_bytes_per_second), (None, 0));
    }
}
