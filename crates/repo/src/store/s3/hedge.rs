use std::time::Duration;

use parking_lot::Mutex;

/// Answers that are remembered.
const REMEMBERED: usize = 128;
/// A second request is sent when the first takes this many times what nine in ten took.
const FACTOR: u32 = 2;
const DELAY_AT_LEAST: Duration = Duration::from_millis(30);
const DELAY_AT_MOST: Duration = Duration::from_secs(3);
/// Every request earns a twentieth of a second one, so that a store that slows down is not asked twice as much.
const EARNED: u32 = 1;
const COST: u32 = 20;
/// What can be saved up: 16 second requests.
const SAVED_AT_MOST: u32 = 16 * COST;

/// When a GET is slow, and whether it may be asked again meanwhile.
#[derive(Debug)]
pub(super) struct Hedge(Mutex<State>);

#[derive(Debug)]
struct State {
    took: [Duration; REMEMBERED],
    next: usize,
    known: usize,
    saved: u32,
}

impl Default for Hedge {
    fn default() -> Self {
        let took = [Duration::ZERO; REMEMBERED];
        Self(Mutex::new(State { took, next: 0, known: 0, saved: 4 * COST }))
    }
}

impl Hedge {
    /// How long the first request has.
    pub(super) fn delay(&self) -> Duration {
        let state = self.0.lock();
        if state.known < REMEMBERED / 8 {
            return DELAY_AT_MOST / 6;
        }
        let mut took = state.took;
        let known = &mut took[..state.known];
        drop(state);
        let ninth = known.len() * 9 / 10;
        let (_, slow, _) = known.select_nth_unstable(ninth);
        (*slow * FACTOR).clamp(DELAY_AT_LEAST, DELAY_AT_MOST)
    }

    pub(super) fn answered(&self, took: Duration) {
        let mut state = self.0.lock();
        let at = state.next;
        state.took[at] = took;
        state.next = (at + 1) % REMEMBERED;
        state.known = (state.known + 1).min(REMEMBERED);
        state.saved = (state.saved + EARNED).min(SAVED_AT_MOST);
    }

    /// Pays for a second request, if that can be afforded.
    pub(super) fn pay(&self) -> bool {
        let mut state = self.0.lock();
        match state.saved.checked_sub(COST) {
            Some(rest) => {
                state.saved = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_what_is_usual() {
        let hedge = Hedge::default();
        assert_eq!(hedge.delay(), DELAY_AT_MOST / 6);
        for n in 0..100 {
            hedge.answered(Duration::from_millis(if n % 20 == 0 { 2000 } else { 50 }));
        }
        assert_eq!(hedge.delay(), Duration::from_millis(100), "one in twenty does not count");
        for _ in 0..REMEMBERED {
            hedge.answered(Duration::from_millis(1));
        }
        assert_eq!(hedge.delay(), DELAY_AT_LEAST);
    }

    #[test]
    fn second_requests_are_a_twentieth() {
        let hedge = Hedge::default();
        while hedge.pay() {}
        let mut paid = 0;
        for _ in 0..1000 {
            hedge.answered(Duration::from_millis(1));
            paid += u32::from(hedge.pay());
        }
        assert_eq!(paid, 50);
    }
}
