use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

/// So many failures in a row open the circuit.
const FAILURES: u32 = 12;
/// How long it is open at first; each probe that fails doubles it.
const OPEN_FOR: Duration = Duration::from_secs(1);
const OPEN_AT_MOST: Duration = Duration::from_secs(30);

/// A circuit breaker: while a store does not answer, requests fail at once instead of each waiting out its own
/// deadline, and one request at a time tries whether it is back.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// The first of the failures in a row.
    since: Option<Timestamp>,
    /// What the last one said.
    said: String,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    width: Duration,
}

/// A store that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    /// Since when.
    pub(crate) since: Timestamp,
    /// What the last attempt met.
    pub(crate) reason: String,
}

/// Why no request is sent.
#[derive(Debug, thiserror::Error)]
#[error("{said} ({failures} requests in a row failed; the next is sent in {:.1} s)", wait.as_secs_f32())]
pub(super) struct Tripped {
    failures: u32,
    said: String,
    wait: Duration,
}

impl Breaker {
    /// Lets a request through, or says why not. The one that is let through when the time is over is the probe: others
    /// wait for what becomes of it.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Tripped> {
        let mut state = self.0.lock();
        let State { failures, said, open, .. } = &mut *state;
        let Some(open) = open else { return Ok(()) };
        match open.until.checked_duration_since(now) {
            Some(wait) if !wait.is_zero() => {
                Err(Tripped { failures: *failures, said: said.clone(), wait })
            }
            _ => {
                open.until = now + open.width;
                Ok(())
            }
        }
    }

    /// The store answered: with what was asked for, or with a refusal of its own.
    pub(super) fn answered(&self) {
        let mut state = self.0.lock();
        if state.open.take().is_some() {
            tracing::info!("the S3 store answers again");
        }
        *state = State::default();
    }

    pub(super) fn failed(&self, now: Instant, why: &anyhow::Error) {
        let mut state = self.0.lock();
        state.since.get_or_insert_with(Timestamp::now);
        state.said = format!("{why:#}");
        state.failures = state.failures.saturating_add(1);
        if state.failures < FAILURES {
            return;
        }
        let width = match &state.open {
            None => {
                tracing::warn!(failures = state.failures, "the S3 store does not answer");
                OPEN_FOR
            }
            // Stragglers of the same burst tell nothing new.
            Some(open) if open.until > now + open.width / 2 => (open.width * 2).min(OPEN_AT_MOST),
            Some(open) => open.width,
        };
        state.open = Some(Open { until: now + width, width });
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.lock().open.is_some()
    }

    /// While the circuit is open: since when nothing was answered, and why.
    pub(super) fn outage(&self) -> Option<Outage> {
        let state = self.0.lock();
        state.open.as_ref()?;
        Some(Outage { since: state.since?, reason: state.said.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let breaker = Breaker::default();
        let now = Instant::now();
        let why = anyhow::anyhow!("no route");
        for _ in 0..FAILURES - 1 {
            breaker.failed(now, &why);
            assert!(breaker.admit(now).is_ok() && breaker.outage().is_none());
        }
        breaker.failed(now, &why);
        assert!(breaker.is_open() && breaker.admit(now).is_err());
        assert_eq!(breaker.outage().unwrap().reason, "no route");
        let later = now + OPEN_FOR;
        assert!(breaker.admit(later).is_ok(), "one probe");
        assert!(breaker.admit(later).is_err(), "and no second");
        breaker.failed(later, &why);
        assert!(breaker.admit(later + OPEN_FOR).is_err(), "for longer");
        assert!(breaker.admit(later + OPEN_FOR * 2).is_ok());
        breaker.answered();
        assert!(breaker.outage().is_none() && breaker.admit(later).is_ok());
        breaker.failed(later, &why);
        assert!(breaker.admit(later).is_ok(), "it counts from the start again");
    }
}
