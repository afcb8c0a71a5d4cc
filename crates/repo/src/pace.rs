use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::RepoError;

/// The longest that a thread sleeps before it looks at the flag that stops it.
const NAP: Duration = Duration::from_millis(100);

/// Lets threads read so many bytes a second together. What was not read in time is not made up for later.
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next read may begin.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may be read.
    pub(crate) fn wait(&self, bytes: u64, cancelled: &dyn Fn() -> bool) -> Result<(), RepoError> {
        if cancelled() {
            return Err(RepoError::Cancelled);
        }
        let Some(rate) = self.bytes_per_second else { return Ok(()) };
        let at = {
            let mut next = self.next.lock();
            let at = (*next).max(Instant::now());
            *next = at + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            at
        };
        loop {
            if cancelled() {
                return Err(RepoError::Cancelled);
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn reads_are_spread_over_the_time_they_may_take() {
        let never = || false;
        let pace = Pace::new(Some(1 << 20));
        let begun = Instant::now();
        for _ in 0..5 {
            pace.wait(64 << 10, &never).unwrap();
        }
        // The first begins at once, each other a sixteenth of a second after the one before.
        assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
        let begun = Instant::now();
        Pace::new(None).wait(u64::MAX, &never).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_wait_of_years_ends_when_it_is_stopped() {
        let stop = AtomicBool::new(false);
        let pace = Pace::new(Some(1));
        let stopped = || stop.load(Ordering::Relaxed);
        pace.wait(1 << 30, &stopped).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| pace.wait(1, &stopped));
            stop.store(true, Ordering::Relaxed);
            assert!(matches!(waits.join().unwrap(), Err(RepoError::Cancelled)));
        });
    }
}
