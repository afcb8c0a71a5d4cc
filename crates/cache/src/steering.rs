//! How many scans and movers may read at once, by what guests wait meanwhile. Decides; does nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Scans and movers that may read at once when no guest suffers.
const ALLOWED_MAX: usize = 32;
/// Guests' reads after which is decided anew: enough for 19 of 20 to mean something.
const SAMPLES: usize = 64;
/// Without a guest's read for so long nobody can suffer.
const QUIET: Duration = Duration::from_secs(1);
/// What guests may wait by default, 19 times of 20.
const TARGET: Duration = Duration::from_millis(50);

/// Halves what is allowed when guests wait too long, adds one when they do not.
///
/// Too long is longer than the target, and longer than half as much again as they wait when nobody
/// disturbs them: a repository that is far away is not the mover's fault.
pub(crate) struct Steering {
    target: Duration,
    samples: Vec<Duration>,
    p95: Duration,
    /// What guests waited when at most one scan or mover read.
    undisturbed: Duration,
    allowed: usize,
    last: Option<Instant>,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            target: TARGET,
            samples: Vec::with_capacity(SAMPLES),
            p95: Duration::ZERO,
            undisturbed: Duration::ZERO,
            allowed: ALLOWED_MAX,
            last: None,
        }
    }
}

impl Steering {
    pub(crate) fn aim_at(&mut self, target: Duration) {
        self.target = target;
    }

    /// Takes note of a guest's read, `crowded` if scans or movers read or waited to. Says whether
    /// more may read now than before.
    pub(crate) fn waited(&mut self, took: Duration, crowded: bool, now: Instant) -> bool {
        self.last = Some(now);
        self.samples.push(took);
        if self.samples.len() < SAMPLES {
            return false;
        }
        self.samples.sort_unstable();
        self.p95 = self.samples[SAMPLES * 95 / 100];
        self.samples.clear();
        let before = self.allowed;
        if !crowded || self.allowed == 1 {
            self.undisturbed = match self.undisturbed {
                Duration::ZERO => self.p95,
                known => (known * 3 + self.p95) / 4,
            };
        }
        if self.p95 <= self.goal() {
            self.allowed = (self.allowed + 1).min(ALLOWED_MAX);
        } else if crowded {
            self.allowed = (self.allowed / 2).max(1);
        }
        self.allowed > before
    }

    fn goal(&self) -> Duration {
        self.target.max(self.undisturbed * 3 / 2)
    }

    /// How many may read at `now`.
    pub(crate) fn allowed_at(&mut self, now: Instant) -> usize {
        if self.last.is_some_and(|last| now.duration_since(last) > QUIET) {
            self.last = None;
            self.samples.clear();
            self.allowed = ALLOWED_MAX;
        }
        self.allowed
    }

    pub(crate) fn allowed(&self) -> usize {
        self.allowed
    }

    pub(crate) fn p95(&self) -> Duration {
        self.p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(steering: &mut Steering, millis: u64, crowded: bool, now: Instant) {
        for _ in 0..SAMPLES {
            steering.waited(Duration::from_millis(millis), crowded, now);
        }
    }

    #[test]
    fn one_slow_read_in_twenty_is_no_reason() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        for n in 0..SAMPLES {
            let slow = if n % 22 == 0 { 5000 } else { 10 };
            steering.waited(Duration::from_millis(slow), true, now);
        }
        assert_eq!((steering.allowed(), steering.p95().as_millis()), (ALLOWED_MAX, 10));
    }

    /// A repository that answers in 200 ms whoever asks: the mover is not starved for it.
    #[test]
    fn a_far_repository_is_not_the_movers_fault() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        for _ in 0..100 {
            window(&mut steering, 200, true, now);
        }
        assert!(steering.allowed() > ALLOWED_MAX / 2, "{}", steering.allowed());
        // And if it is the movers after all, they make way.
        for _ in 0..5 {
            window(&mut steering, 900, true, now);
        }
        assert_eq!(steering.allowed(), 1);
    }

    #[test]
    fn guests_that_are_gone_hold_nobody_up() {
        let (mut steering, now) = (Steering::default(), Instant::now());
        for n in 1..6 {
            window(&mut steering, 100 << n, true, now);
        }
        assert_eq!(steering.allowed_at(now), 1);
        assert_eq!(steering.allowed_at(now + 2 * QUIET), ALLOWED_MAX);
    }
}
