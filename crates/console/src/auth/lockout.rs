use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Failures in a row that cost nothing: people mistype.
const FREE: u32 = 5;
/// The lock after the first failure past those; each further one doubles it.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Failures are forgotten after this long without another.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Names remembered: at about 128 bytes each, 128 KiB. Past it the one that failed longest ago makes room.
const NAMES: usize = 1024;

/// Locks a user's log-in for a while after failures in a row, wherever they come from, and whether or
/// not there is such a user. The admin token cannot be guessed, so it gets in always.
#[derive(Default)]
pub(crate) struct Lockouts {
    failed: Mutex<HashMap<String, Failed>>,
}

struct Failed {
    count: u32,
    last: Instant,
}

impl Failed {
    fn until(&self) -> Instant {
        let past = self.count.saturating_sub(FREE);
        let Some(doubled) = past.checked_sub(1) else { return self.last };
        let wait = FIRST.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX));
        self.last + wait.min(LONGEST)
    }
}

impl Lockouts {
    /// How long `user` is locked out still.
    pub(crate) fn wait(&self, user: &str, now: Instant) -> Option<Duration> {
        let failed = self.failed.lock();
        let left = failed.get(user)?.until().saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    pub(crate) fn failed(&self, user: &str, now: Instant) {
        let mut failed = self.failed.lock();
        failed.retain(|_, one| now.saturating_duration_since(one.last) < FORGOTTEN);
        if failed.len() >= NAMES && !failed.contains_key(user) {
            let oldest =
                failed.iter().min_by_key(|(_, one)| one.last).map(|(name, _)| name.clone());
            oldest.and_then(|name| failed.remove(&name));
        }
        let one = failed.entry(user.to_owned()).or_insert(Failed { count: 0, last: now });
        one.count = one.count.saturating_add(1);
        one.last = now;
    }

    /// Forgets the failures of `user`, who has shown who it is.
    pub(crate) fn cleared(&self, user: &str) {
        self.failed.lock().remove(user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_doubles_up_to_its_longest_and_a_log_in_clears_it() {
        let lockouts = Lockouts::default();
        let mut now = Instant::now();
        for _ in 0..FREE {
            assert_eq!(lockouts.wait("ann", now), None);
            lockouts.failed("ann", now);
        }
        let mut longest = Duration::ZERO;
        for n in 0..12 {
            assert_eq!(lockouts.wait("ann", now), None);
            lockouts.failed("ann", now);
            let wait = lockouts.wait("ann", now).unwrap();
            assert_eq!(wait, (FIRST * 2_u32.pow(n)).min(LONGEST));
            assert_eq!(lockouts.wait("bob", now), None);
            now += wait;
            longest = longest.max(wait);
        }
        assert_eq!(longest, LONGEST);
        lockouts.failed("ann", now);
        lockouts.cleared("ann");
        assert_eq!(lockouts.wait("ann", now), None);
    }

    #[test]
    fn names_are_bounded_and_failures_are_forgotten() {
        let lockouts = Lockouts::default();
        let now = Instant::now();
        for n in 0..NAMES as u64 * 2 {
            lockouts.failed(&format!("user{n}"), now + Duration::from_millis(n));
        }
        assert_eq!(lockouts.failed.lock().len(), NAMES);
        lockouts.failed("late", now + FORGOTTEN + Duration::from_secs(3600));
        assert_eq!(lockouts.failed.lock().len(), 1);
    }
}
