//! What hosts and datastores bear at once. A vCenter queues what is beyond its own limits, where nobody sees what it waits
//! for; here it waits with a reason, and can be cancelled.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::JobId;
use crate::admission::Turn;

/// The most storage migrations at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MoveLimits {
    pub(crate) per_host: usize,
    pub(crate) per_datastore: usize,
}

/// A storage migration that wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) target: String,
    /// The host; the target's own when absent.
    pub(crate) host: Option<String>,
    pub(crate) from: String,
    pub(crate) to: String,
    /// Bytes that it brings to the other datastore.
    pub(crate) bytes: u64,
    /// The VM, by the host's id.
    pub(crate) vm: String,
}

/// What is found at the host when one asks to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtHost {
    /// Migrations there that are not ours.
    pub(crate) others: usize,
    /// Bytes that the other datastore has free.
    pub(crate) free: u64,
}

/// The storage migrations of this appliance: those under way, and those that wait for their turn.
#[derive(Default)]
pub(crate) struct Moves {
    inner: Mutex<Inner>,
    /// Rung whenever one ends or gives up.
    left: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<Turn, Move>,
    running: BTreeMap<JobId, Move>,
}

/// One that waits or is under way, until it is dropped.
pub(crate) struct Moving<'a> {
    moves: &'a Moves,
    turn: Turn,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut inner = self.moves.inner.lock();
        inner.waiting.remove(&self.turn);
        inner.running.remove(&self.turn.1);
        drop(inner);
        self.moves.left.notify_waiters();
    }
}

impl Move {
    fn on(&self, host: &Move) -> bool {
        self.target == host.target && self.host == host.host
    }

    /// Whether both use that datastore of one target.
    fn uses(&self, other: &Move, datastore: &str) -> bool {
        self.target == other.target && (self.from == datastore || self.to == datastore)
    }

    fn competes(&self, other: &Move) -> bool {
        self.on(other) || other.uses(self, &self.from) || other.uses(self, &self.to)
    }
}

impl Moves {
    /// Joins those that wait, behind those that were accepted before.
    pub(crate) fn join(&self, turn: Turn, wanted: Move) -> Moving<'_> {
        self.inner.lock().waiting.insert(turn.clone(), wanted);
        Moving { moves: self, turn }
    }

    /// VMs that are being moved.
    pub(crate) fn vms(&self, target: &str) -> BTreeSet<String> {
        let inner = self.inner.lock();
        let here = inner.running.values().filter(|one| one.target == target);
        here.map(|one| one.vm.clone()).collect()
    }

    /// Resolves when the answer of [`Moving::ask`] may have changed. Make it before asking.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.left.notified()
    }
}

impl Moving<'_> {
    /// Begins, or says what it waits for.
    pub(crate) fn ask(&self, limits: MoveLimits, found: AtHost) -> Result<(), String> {
        let mut inner = self.moves.inner.lock();
        let Some(wanted) = inner.waiting.get(&self.turn).cloned() else { return Ok(()) };
        let before = inner.waiting.iter().take_while(|(turn, _)| **turn < self.turn);
        let before = before.filter(|(_, other)| other.competes(&wanted)).count();
        if before > 0 {
            return Err(format!("{before} storage migrations of jobs that were accepted before"));
        }
        decide(&wanted, inner.running.values(), limits, found)?;
        inner.waiting.remove(&self.turn);
        inner.running.insert(self.turn.1.clone(), wanted);
        drop(inner);
        self.moves.left.notify_waiters();
        Ok(())
    }
}

/// What stands in the way of one, beside those that run.
fn decide<'a>(
    wanted: &Move,
    running: impl Iterator<Item = &'a Move> + Clone,
    limits: MoveLimits,
    found: AtHost,
) -> Result<(), String> {
    let on_host = running.clone().filter(|one| one.on(wanted)).count() + found.others;
    if on_host >= limits.per_host {
        let host = wanted.host.as_deref().unwrap_or(&wanted.target);
        return Err(format!(
            "a storage migration on the host {host} to end: {on_host} are under way, {} may be",
            limits.per_host
        ));
    }
    for datastore in [&wanted.from, &wanted.to] {
        let there = running.clone().filter(|one| one.uses(wanted, datastore)).count();
        if there >= limits.per_datastore {
            return Err(format!(
                "a storage migration on the datastore {datastore} to end: {there} are under way, {} may be",
                limits.per_datastore
            ));
        }
    }
    let same = running.filter(|one| one.target == wanted.target && one.to == wanted.to);
    let promised = same.fold(0u64, |sum, one| sum.saturating_add(one.bytes));
    let left = found.free.saturating_sub(promised);
    if left < wanted.bytes {
        let missing = wanted.bytes - left;
        let others = match promised {
            0 => String::new(),
            promised => format!(", of which {promised} are for migrations under way"),
        };
        return Err(format!(
            "{missing} bytes more on the datastore {}: {} are free{others}, {} are needed",
            wanted.to, found.free, wanted.bytes
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const LIMITS: MoveLimits = MoveLimits { per_host: 2, per_datastore: 3 };
    const FREE: AtHost = AtHost { others: 0, free: 100 };

    fn turn(second: i64) -> Turn {
        let at = Timestamp::from_second(second).unwrap();
        (at, JobId::new(at, second as u16))
    }

    fn to(host: &str, to: &str, bytes: u64) -> Move {
        Move {
            target: "lab".into(),
            host: Some(host.into()),
            from: format!("ours-{host}"),
            to: to.into(),
            bytes,
            vm: "vm".into(),
        }
    }

    #[test]
    fn a_host_moves_so_many_at_once() {
        let moves = Moves::default();
        let first = moves.join(turn(1), to("a", "x", 1));
        let second = moves.join(turn(2), to("a", "y", 1));
        let third = moves.join(turn(3), to("a", "z", 1));
        let other = moves.join(turn(4), to("b", "x", 1));
        assert!(third.ask(LIMITS, FREE).unwrap_err().contains("accepted before"));
        assert_eq!(
            other.ask(LIMITS, FREE).unwrap_err(),
            "1 storage migrations of jobs that were accepted before"
        );
        assert_eq!((first.ask(LIMITS, FREE), second.ask(LIMITS, FREE)), (Ok(()), Ok(())));
        assert!(
            third.ask(LIMITS, FREE).unwrap_err().starts_with("a storage migration on the host a")
        );
        assert_eq!(other.ask(LIMITS, FREE), Ok(()), "another host");
        assert_eq!(first.ask(LIMITS, FREE), Ok(()), "asked again");
        drop(first);
        let busy = AtHost { others: 1, ..FREE };
        assert!(third.ask(LIMITS, busy).is_err(), "somebody else moves one there");
        assert_eq!(third.ask(LIMITS, FREE), Ok(()));
    }

    #[test]
    fn a_datastore_takes_so_many_at_once_and_what_it_has_room_for() {
        let moves = Moves::default();
        let all: Vec<_> =
            (1..=4).map(|n| moves.join(turn(n), to(&format!("h{n}"), "x", 30))).collect();
        assert!(all[..3].iter().all(|one| one.ask(LIMITS, FREE) == Ok(())));
        let busy = all[3].ask(LIMITS, FREE).unwrap_err();
        assert!(busy.starts_with("a storage migration on the datastore x to end: 3 are"), "{busy}");
        let more = MoveLimits { per_datastore: 4, ..LIMITS };
        let full = all[3].ask(more, FREE).unwrap_err();
        assert!(
            full.starts_with("20 bytes more on the datastore x: 100 are free, of which 90"),
            "{full}"
        );
        assert_eq!(all[3].ask(more, AtHost { free: 120, ..FREE }), Ok(()));
        assert_eq!(moves.vms("lab").len(), 1);
        drop(all);
        assert!(moves.inner.lock().running.is_empty() && moves.inner.lock().waiting.is_empty());
    }
}
