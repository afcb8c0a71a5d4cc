use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{JobId, JobsConfig};

pub(crate) mod measured;

/// Jobs in the order in which they were accepted.
pub(crate) type Turn = (Timestamp, JobId);

/// Who runs and who waits. Strictly first come, first served: a small job does not overtake a large
/// one that waits for space, else the large one might wait for ever.
#[derive(Default)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// Rung whenever a job leaves.
    left: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeSet<Turn>,
    /// Admitted jobs and the bytes each may still write.
    admitted: BTreeMap<JobId, u64>,
}

/// What a job that asks to run is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// Until another job leaves; with the reason.
    Wait(String),
    /// There is not enough space even with no other job. So many bytes are missing.
    Never {
        missing: u64,
    },
}

/// Bytes that must be free for a VM of `vm_bytes`.
pub(crate) fn reserve(vm_bytes: u64, config: &JobsConfig) -> u64 {
    let share = u128::from(vm_bytes) * u128::from(config.reserve_percent_of_vm) / 100;
    config.reserve_min_bytes.max(u64::try_from(share).unwrap_or(u64::MAX))
}

/// What a decision goes by, in bytes and jobs.
#[derive(Clone, Copy)]
struct Numbers {
    need: u64,
    free: u64,
    /// Reserved by running jobs and not used yet.
    promised: u64,
    /// Used by running jobs, who give it back when they end.
    used: u64,
    active: usize,
    max_active: usize,
}

fn decide(n: Numbers) -> Verdict {
    let at_best = n.free.saturating_add(n.used);
    if at_best < n.need {
        return Verdict::Never { missing: n.need - at_best };
    }
    if n.active >= n.max_active {
        return Verdict::Wait(format!("one of {} running jobs to end", n.active));
    }
    let left = n.free.saturating_sub(n.promised);
    if left < n.need {
        let missing = n.need - left;
        return Verdict::Wait(format!("{missing} bytes that other jobs hold or have reserved"));
    }
    Verdict::Go
}

impl Gate {
    /// Puts a job in the queue.
    pub(crate) fn join(&self, turn: Turn) {
        self.inner.lock().waiting.insert(turn);
    }

    /// The same for one that may be in it already, or admitted.
    pub(crate) fn join_again(&self, turn: &Turn) {
        let mut inner = self.inner.lock();
        if !inner.admitted.contains_key(&turn.1) {
            inner.waiting.insert(turn.clone());
        }
    }

    /// Jobs that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// Jobs that run.
    pub(crate) fn active(&self) -> usize {
        self.inner.lock().admitted.len()
    }

    /// Lets in a job that was admitted before a restart.
    pub(crate) fn readmit(&self, turn: &Turn, need: u64) {
        let mut inner = self.inner.lock();
        inner.waiting.remove(turn);
        inner.admitted.insert(turn.1.clone(), need);
    }

    /// Asks for admission. `free` is what the overlays' file system has, `used` what each job has
    /// written of what it reserved.
    pub(crate) fn ask(
        &self,
        turn: &Turn,
        need: u64,
        free: u64,
        used: impl Fn(&JobId) -> u64,
        max_active: usize,
    ) -> Verdict {
        let mut inner = self.inner.lock();
        if inner.admitted.contains_key(&turn.1) {
            return Verdict::Go;
        }
        let numbers = inner.numbers(need, free, used, max_active);
        let verdict = match decide(numbers) {
            never @ Verdict::Never { .. } => never,
            _ if inner.waiting.first().is_some_and(|first| first < turn) => {
                Verdict::Wait("jobs that were accepted before".into())
            }
            verdict => verdict,
        };
        if verdict == Verdict::Go {
            inner.waiting.remove(turn);
            inner.admitted.insert(turn.1.clone(), need);
            drop(inner);
            self.left.notify_waiters();
        }
        verdict
    }

    /// Bytes that running jobs have reserved and not used yet.
    pub(crate) fn promised(&self, used: impl Fn(&JobId) -> u64) -> u64 {
        self.inner.lock().numbers(0, 0, used, usize::MAX).promised
    }

    /// Bytes that are missing for a job of `need` bytes even if all others ended; 0 for none.
    pub(crate) fn missing(&self, need: u64, free: u64, used: impl Fn(&JobId) -> u64) -> u64 {
        match decide(self.inner.lock().numbers(need, free, used, usize::MAX)) {
            Verdict::Never { missing } => missing,
            Verdict::Go | Verdict::Wait(_) => 0,
        }
    }

    /// What a job would wait for that joined the queue now.
    pub(crate) fn would_wait(
        &self,
        need: u64,
        free: u64,
        used: impl Fn(&JobId) -> u64,
        max_active: usize,
    ) -> Option<String> {
        let inner = self.inner.lock();
        if !inner.waiting.is_empty() {
            return Some(format!("{} jobs that were accepted before", inner.waiting.len()));
        }
        match decide(inner.numbers(need, free, used, max_active)) {
            Verdict::Wait(what) => Some(what),
            Verdict::Go | Verdict::Never { .. } => None,
        }
    }

    /// The job neither waits nor runs any more. Harmless when repeated.
    pub(crate) fn leave(&self, turn: &Turn) {
        let mut inner = self.inner.lock();
        inner.waiting.remove(turn);
        inner.admitted.remove(&turn.1);
        drop(inner);
        self.left.notify_waiters();
    }

    /// Resolves when the answer of [`Gate::ask`] may have changed. Make it before asking.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.left.notified()
    }
}

impl Inner {
    fn numbers(
        &self,
        need: u64,
        free: u64,
        used: impl Fn(&JobId) -> u64,
        max_active: usize,
    ) -> Numbers {
        let (mut promised, mut all_used) = (0u64, 0u64);
        for (job, reserved) in &self.admitted {
            let used = used(job);
            promised = promised.saturating_add(reserved.saturating_sub(used));
            all_used = all_used.saturating_add(used);
        }
        let active = self.admitted.len();
        Numbers { need, free, promised, used: all_used, active, max_active }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(second: i64) -> Turn {
        let at = Timestamp::from_second(second).unwrap();
        (at, JobId::new(at, second as u16))
    }

    #[test]
    fn the_larger_reserve_counts() {
        let mut config = JobsConfig::new("/x".into());
        assert_eq!(reserve(10 << 30, &config), 20_000_000_000);
        assert_eq!(reserve(1_000_000_000_000, &config), 150_000_000_000);
        config.reserve_min_bytes = 0;
        assert_eq!(reserve(1000, &config), 150);
        assert!(reserve(u64::MAX, &config) > 1 << 60);
    }

    #[test]
    fn first_come_first_served() {
        let gate = Gate::default();
        let nothing = |_: &JobId| 0;
        let turns = [turn(1), turn(2), turn(3)];
        for turn in &turns {
            gate.join(turn.clone());
        }
        assert!(matches!(gate.ask(&turns[1], 1, 100, nothing, 2), Verdict::Wait(_)));
        assert_eq!(gate.ask(&turns[0], 60, 100, nothing, 2), Verdict::Go);
        assert!(matches!(gate.ask(&turns[1], 60, 100, nothing, 2), Verdict::Wait(_)), "reserved");
        assert_eq!(gate.ask(&turns[1], 60, 100, |_| 50, 2), Verdict::Go, "mostly used already");
        assert_eq!(gate.ask(&turns[1], 60, 100, nothing, 2), Verdict::Go, "asked again");
        assert!(matches!(gate.ask(&turns[2], 1, 100, |_| 60, 2), Verdict::Wait(_)), "two run");
        assert_eq!(gate.ask(&turns[2], 101, 100, nothing, 2), Verdict::Never { missing: 1 });
        assert!(matches!(gate.ask(&turns[2], 101, 100, |_| 1, 2), Verdict::Wait(_)), "comes back");
        gate.leave(&turns[0]);
        gate.leave(&turns[0]);
        assert_eq!(gate.ask(&turns[2], 1, 100, nothing, 2), Verdict::Go);
        assert_eq!((gate.waiting(), gate.active()), (0, 2));
    }
}
