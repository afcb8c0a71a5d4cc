//! How many scans and movers may read at once, by what guests wait meanwhile. Decides; does nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Scans and movers that may read at once when no guest suffers.
const ALLOWED_MAX: usize = 32;
/// Guests' reads after which is decided anew: enough for 19 of 20 to mean something.
const SAMPLES: usize = 64;
/// After so many of these it is measured again what guests wait with nobody beside them.
const MEASURE_EVERY: u32 = 32;
/// Without a guest's read for so long nobody can suffer.
const QUIET: Duration = Duration::from_secs(1);
/// What guests may wait by default, 19 times of 20.
const TARGET: Duration = Duration::from_millis(2);

/// Halves what is allowed when guests wait too long, adds one when they do not.
///
/// Too long is longer than the target, and longer than half as much again as they wait when nobody
/// disturbs them: a repository that is far away is not the mover's fault. What they wait then is
/// measured now and then, while nobody else may read: for one window in [`MEASURE_EVERY`].
pub(crate) struct Steering {
    target: Duration,
    samples: Vec<Duration>,
    p95: Duration,
    /// What guests waited with no scan or mover beside them; zero if that is not known.
    undisturbed: Duration,
    allowed: usize,
    measuring: bool,
    /// Windows since it was measured.
    windows: u32,
    last: Option<Instant>,
}

/// What scans and movers did when a guest's read was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others {
    /// So many read.
    pub(crate) reading: usize,
    /// More would.
    pub(crate) waiting: bool,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            target: TARGET,
            samples: Vec::with_capacity(SAMPLES),
            p95: Duration::ZERO,
            undisturbed: Duration::ZERO,
            allowed: ALLOWED_MAX,
            measuring: false,
            windows: 0,
            last: None,
        }
    }
}

impl Steering {
    pub(crate) fn aim_at(&mut self, target: Duration) {
        self.target = target;
    }

    /// Takes note of a guest's read. Says whether more may read now than before.
    pub(crate) fn waited(&mut self, took: Duration, others: Others, now: Instant) -> bool {
        self.last = Some(now);
        if self.measuring && others.reading > 0 {
            // Those that began before it was measured have not ended yet.
            return false;
        }
        self.samples.push(took);
        if self.samples.len() < SAMPLES {
            return false;
        }
        self.samples.sort_unstable();
        self.p95 = self.samples[SAMPLES * 95 / 100];
        self.samples.clear();
        let before = self.allowed();
        self.decide(others.reading > 0 || others.waiting);
        self.allowed() > before
    }

    fn decide(&mut self, crowded: bool) {
        if self.measuring || !crowded {
            self.undisturbed = self.p95;
            (self.measuring, self.windows) = (false, 0);
            return;
        }
        self.windows += 1;
        let known = !self.undisturbed.is_zero() && self.windows < MEASURE_EVERY;
        if self.p95 <= self.target.max(self.undisturbed * 3 / 2) {
            self.allowed = (self.allowed + 1).min(ALLOWED_MAX);
        } else if known {
            self.allowed = (self.allowed / 2).max(1);
        }
        // Within the target it does not matter what they would wait alone.
        self.measuring = !known && self.p95 > self.target;
    }

    /// How many may read at `now`.
    pub(crate) fn allowed_at(&mut self, now: Instant) -> usize {
        if self.quiet_at().is_some_and(|quiet| now >= quiet) {
            self.last = None;
            self.samples.clear();
            (self.allowed, self.measuring) = (ALLOWED_MAX, false);
        }
        self.allowed()
    }

    /// When all may read again if no guest does before; `None` if they may.
    pub(crate) fn quiet_at(&self) -> Option<Instant> {
        self.last.map(|last| last + QUIET)
    }

    pub(crate) fn allowed(&self) -> usize {
        if self.measuring { 0 } else { self.allowed }
    }

    pub(crate) fn p95(&self) -> Duration {
        self.p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Others = Others { reading: 4, waiting: true };

    /// A window of guests' reads that take `crowded` ms, or `alone` when nobody else reads.
    fn window(steering: &mut Steering, crowded: u64, alone: u64, now: Instant) {
        let (millis, reading) = match steering.allowed() {
            0 => (alone, 0),
            allowed => (crowded, allowed),
        };
        for _ in 0..SAMPLES {
            let others = Others { reading, waiting: true };
            steering.waited(Duration::from_millis(millis), others, now);
        }
    }

    fn steering() -> Steering {
        Steering { target: Duration::from_millis(50), ..Steering::default() }
    }

    #[test]
    fn one_slow_read_in_twenty_is_no_reason() {
        let (mut steering, now) = (steering(), Instant::now());
        for n in 0..SAMPLES {
            let slow = if n % 22 == 0 { 5000 } else { 10 };
            steering.waited(Duration::from_millis(slow), FULL, now);
        }
        assert_eq!((steering.allowed(), steering.p95().as_millis()), (ALLOWED_MAX, 10));
    }

    /// A repository that answers in 200 ms whoever asks: the mover is not starved for it.
    #[test]
    fn a_far_repository_is_not_the_movers_fault() {
        let (mut steering, now) = (steering(), Instant::now());
        for _ in 0..90 {
            window(&mut steering, 200, 200, now);
        }
        assert_eq!(steering.allowed(), ALLOWED_MAX);
        // And if it is the movers after all, they make way.
        for _ in 0..8 {
            window(&mut steering, 900, 200, now);
        }
        assert_eq!(steering.allowed(), 1);
    }

    #[test]
    fn what_guests_wait_alone_is_measured_alone_and_seldom() {
        let (mut steering, now) = (steering(), Instant::now());
        window(&mut steering, 100, 60, now);
        assert_eq!(steering.allowed(), 0, "nothing is known yet");
        for _ in 0..2 * SAMPLES {
            steering.waited(Duration::from_millis(100), FULL, now);
        }
        assert_eq!(steering.allowed(), 0, "the others have not ended");
        window(&mut steering, 100, 60, now);
        assert_eq!(steering.undisturbed, Duration::from_millis(60));
        let mut paused = 0;
        for _ in 0..10 * MEASURE_EVERY {
            window(&mut steering, 100, 60, now);
            paused += u32::from(steering.allowed() == 0);
        }
        assert!((8..=10).contains(&paused), "{paused}");
    }

    #[test]
    fn guests_that_are_gone_hold_nobody_up() {
        let (mut steering, now) = (steering(), Instant::now());
        for n in 1..8 {
            window(&mut steering, 100 << n, 10, now);
        }
        assert_eq!(steering.allowed_at(now), 1);
        assert_eq!(steering.allowed_at(now + QUIET), ALLOWED_MAX);
        window(&mut steering, 100, 10, now + QUIET);
        steering.undisturbed = Duration::ZERO;
        window(&mut steering, 100, 10, now + QUIET);
        assert_eq!(steering.allowed_at(now + QUIET), 0, "it is measured");
        assert_eq!(steering.allowed_at(now + 2 * QUIET), ALLOWED_MAX);
    }
}
