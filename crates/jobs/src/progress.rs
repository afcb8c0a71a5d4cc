use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::hours::JobLimit;
use crate::{Phase, Progress};

/// Over how long "of late" reaches back.
const WINDOW: Duration = Duration::from_secs(5);

/// How far a mover is. Adding is one atomic; the rest is computed when someone looks.
#[derive(Default)]
pub(crate) struct Meter {
    done: AtomicU64,
    work: Mutex<Option<Work>>,
}

#[derive(Clone, Copy)]
struct Work {
    phase: Phase,
    total: u64,
    began: Instant,
    /// The beginning of the window that the rate is taken over, and what was done by then.
    since: (Instant, u64),
    rate: u64,
}

/// Shows one piece of work while it lives.
pub(crate) struct Working<'a>(&'a Meter);

impl Meter {
    /// Begins to show work on `total` bytes.
    pub(crate) fn begin(&self, phase: Phase, total: u64) -> Working<'_> {
        let now = Instant::now();
        self.done.store(0, Ordering::Relaxed);
        *self.work.lock() = Some(Work { phase, total, began: now, since: (now, 0), rate: 0 });
        Working(self)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    /// What is to be shown now.
    pub(crate) fn view(&self) -> Option<Progress> {
        self.view_at(Instant::now())
    }

    fn view_at(&self, now: Instant) -> Option<Progress> {
        let mut work = self.work.lock();
        let work = work.as_mut()?;
        let done = self.done.load(Ordering::Relaxed).min(work.total);
        let window = now.saturating_duration_since(work.since.0);
        if window >= WINDOW || work.rate == 0 {
            work.rate = per_second(done.saturating_sub(work.since.1), window);
        }
        if window >= WINDOW {
            work.since = (now, done);
        }
        let mean = per_second(done, now.saturating_duration_since(work.began));
        let left = work.total - done;
        Some(Progress {
            phase: work.phase,
            done_bytes: done,
            total_bytes: work.total,
            rate_bytes_per_second: work.rate,
            eta_seconds: (mean > 0).then(|| left.div_ceil(mean)),
        })
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        *self.0.work.lock() = None;
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// Holds a flow to so many bytes per second, or not at all.
pub(crate) struct Limiter {
    limit: JobLimit,
    /// When the bytes taken so far will have been due.
    due: Mutex<Instant>,
}

impl Limiter {
    pub(crate) fn new(limit: JobLimit) -> Self {
        Self { limit, due: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more are due.
    pub(crate) async fn take(&self, bytes: u64) {
        if let Some(at) = self.due_at(bytes, Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// `None` without a limit.
    fn due_at(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let bytes_per_second = self.limit.get();
        if bytes_per_second == 0 {
            return None;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        let mut due = self.due.lock();
        let at = (*due).max(now);
        *due = at + cost;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_and_the_rest_are_told() {
        let meter = Meter::default();
        assert!(meter.view().is_none());
        let work = meter.begin(Phase::Copy, 1000);
        let began = meter.work.lock().unwrap().began;
        meter.add(100);
        let view = meter.view_at(began + Duration::from_secs(10)).unwrap();
        assert_eq!((view.rate_bytes_per_second, view.eta_seconds), (10, Some(90)));
        meter.add(2000);
        let view = meter.view_at(began + Duration::from_secs(20)).unwrap();
        assert_eq!((view.done_bytes, view.eta_seconds), (1000, Some(0)));
        assert_eq!(view.rate_bytes_per_second, 90);
        drop(work);
        assert!(meter.view().is_none());
    }

    /// Seconds that differ by as much as three to one, in an order that repeats with a seed.
    #[test]
    fn after_a_tenth_of_the_work_the_rest_is_known_within_a_tenth() {
        for seed in 1..100u64 {
            let meter = Meter::default();
            let _work = meter.begin(Phase::Copy, 1_000_000);
            let began = meter.work.lock().unwrap().began;
            let (mut state, mut seconds, mut told) = (seed, 0, None);
            while meter.done.load(Ordering::Relaxed) < 1_000_000 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                meter.add(500 + (state >> 33) % 1000);
                seconds += 1;
                let view = meter.view_at(began + Duration::from_secs(seconds)).unwrap();
                if view.done_bytes >= 100_000 && told.is_none() {
                    told = view.eta_seconds.map(|eta| seconds + eta);
                }
            }
            let off = told.unwrap().abs_diff(seconds);
            assert!(off * 10 <= seconds, "seed {seed}: {told:?} was told, it took {seconds}");
        }
    }

    #[test]
    fn a_limit_is_kept() {
        let limit = JobLimit::default();
        limit.set(1000);
        let limiter = Limiter::new(limit.clone());
        let now = Instant::now();
        let dues: Vec<Instant> = (0..5).filter_map(|_| limiter.due_at(500, now)).collect();
        assert_eq!(dues[0], now);
        assert_eq!(dues[4] - now, Duration::from_secs(2));
        let later = now + Duration::from_secs(60);
        assert_eq!(limiter.due_at(500, later), Some(later), "no credit for idleness");
        // Another time of day.
        limit.set(500);
        assert_eq!(limiter.due_at(500, later), Some(later + Duration::from_millis(500)));
        assert_eq!(limiter.due_at(500, later), Some(later + Duration::from_millis(1500)));
        limit.set(0);
        assert_eq!(limiter.due_at(500, later), None);
    }
}
