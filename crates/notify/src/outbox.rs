//! Events that wait for their channels, and what is told of each thing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rekindle_state::{Database, Keyspace};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::told::Told;
use crate::view::FailureView;
use crate::{Channel, Event, NotifyError};

/// Events that wait for one channel: below 3 KiB each, 3 MiB in all. The oldest makes room.
pub(crate) const WAITING_MAX: usize = 1000;
/// How long an event is tried.
const TRIED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// And how often at least: the clock may have jumped.
const TRIES_MIN: u32 = 3;
/// The first pause, at most; it doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_AT_MOST: Duration = Duration::from_secs(3600);

/// Where events wait: news of the day, and none later.
pub const OUTBOX_KEYSPACE: &str = "notify_outbox";

/// What changes of what is told; `None` for what is gone.
pub(crate) type Changes = BTreeMap<String, Option<Told>>;

/// The outbox of all channels.
pub(crate) struct Outbox {
    db: Database,
    events: Keyspace<Event>,
    told: Keyspace<Told>,
    queues: Mutex<BTreeMap<String, Queue>>,
    /// The next event's number. Held from the look at a queue to its change, over a sync.
    next: Mutex<u64>,
    wanted: BTreeMap<String, Arc<Channel>>,
}

/// What waits for a channel, and what became of what did.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<u64, Waiting>,
    pub(crate) delivered: u64,
    pub(crate) failed_attempts: u64,
    pub(crate) given_up: u64,
    pub(crate) dropped: u64,
    pub(crate) delivered_at: Option<Timestamp>,
    pub(crate) last_failure: Option<FailureView>,
    news: Arc<Notify>,
}

struct Waiting {
    event: Arc<Event>,
    tries: u32,
    due: Instant,
}

impl Waiting {
    fn new(event: Arc<Event>) -> Self {
        Self { event, tries: 0, due: Instant::now() }
    }
}

/// What a channel is to be told next.
pub(crate) struct Due {
    pub(crate) number: u64,
    pub(crate) event: Arc<Event>,
    pub(crate) at: Instant,
}

impl Outbox {
    /// What waited at the last stop or crash waits again, and is tried at once. Events of channels that are gone are dropped.
    pub(crate) fn open(db: &Database, channels: &[Arc<Channel>]) -> Result<Self, NotifyError> {
        let wanted = channels.iter().map(|one| (one.name.clone(), Arc::clone(one))).collect();
        let outbox = Self {
            db: db.clone(),
            events: db.keyspace(OUTBOX_KEYSPACE)?,
            told: db.keyspace("notify_told")?,
            queues: Mutex::new(
                channels.iter().map(|one| (one.name.clone(), Queue::default())).collect(),
            ),
            next: Mutex::default(),
            wanted,
        };
        outbox.load()?;
        Ok(outbox)
    }

    fn load(&self) -> Result<(), NotifyError> {
        let mut stale = self.db.batch();
        let mut dropped = 0;
        let (mut queues, mut next) = (self.queues.lock(), self.next.lock());
        for (key, event) in self.events.scan(b"")? {
            let place = parse(&key)
                .and_then(|(name, number)| queues.get_mut(name).map(|queue| (queue, number)));
            if let Some((queue, number)) = place {
                *next = (*next).max(number.saturating_add(1));
                queue.waiting.insert(number, Waiting::new(Arc::new(event)));
            } else {
                dropped += 1;
                stale.delete(&self.events, &key)?;
            }
        }
        stale.commit()?;
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "events of channels that are not configured any more are dropped"
            );
        }
        Ok(())
    }

    /// What is told already.
    pub(crate) fn told(&self) -> Result<BTreeMap<String, Told>, NotifyError> {
        let known = self.told.scan(b"")?.into_iter();
        Ok(known.map(|(key, told)| (String::from_utf8_lossy(&key).into_owned(), told)).collect())
    }

    /// Takes events in for the channels that want them, with the note that they are told. Blocks for a sync.
    pub(crate) fn add(&self, events: Vec<Event>, told: &Changes) -> Result<(), NotifyError> {
        let mut next = self.next.lock();
        let mut number = *next;
        let mut batch = self.db.batch();
        for (key, told) in told {
            match told {
                Some(told) => batch.put(&self.told, key.as_bytes(), told)?,
                None => batch.delete(&self.told, key.as_bytes())?,
            }
        }
        let mut added = Vec::new();
        for event in events.into_iter().map(Arc::new) {
            let wanted = self.wanted.values().filter(|one| one.events.contains(&event.kind));
            added.extend(wanted.map(|one| (one.name.as_str(), number, Arc::clone(&event))));
            number += 1;
        }
        let surplus = self.surplus(&added);
        // What is beyond the bound at once is not written: a batch stays below 54 MiB, all channels together.
        for (name, number, event) in &added {
            if !surplus.contains(&((*name).to_owned(), *number)) {
                batch.put(&self.events, &key(name, *number), event)?;
            }
        }
        for (name, old) in &surplus {
            batch.delete(&self.events, &key(name, *old))?;
        }
        batch.commit()?;
        *next = number;
        let mut queues = self.queues.lock();
        for (name, number, event) in added {
            if let Some(queue) = queues.get_mut(name) {
                queue.waiting.insert(number, Waiting::new(event));
                queue.news.notify_one();
            }
        }
        for (name, old) in surplus {
            if let Some(queue) = queues.get_mut(&name)
                && let Some(lost) = queue.waiting.remove(&old)
            {
                queue.dropped += 1;
                let event = lost.event.kind.as_str();
                tracing::warn!(
                    channel = name,
                    event,
                    "the outbox is full, its oldest event is dropped"
                );
            }
        }
        Ok(())
    }

    /// The oldest that are beyond the bound once `added` wait too.
    fn surplus(&self, added: &[(&str, u64, Arc<Event>)]) -> BTreeSet<(String, u64)> {
        let queues = self.queues.lock();
        let mut surplus = BTreeSet::new();
        for (name, queue) in &*queues {
            let new = added.iter().filter(|(of, ..)| of == name).map(|(_, number, _)| *number);
            let all: Vec<u64> = queue.waiting.keys().copied().chain(new).collect();
            let beyond = all.len().saturating_sub(WAITING_MAX);
            surplus.extend(all.into_iter().take(beyond).map(|number| (name.clone(), number)));
        }
        surplus
    }

    /// What the channel is to be told next: of what is due the oldest, else what is due first.
    pub(crate) fn next(&self, name: &str) -> Option<Due> {
        let queues = self.queues.lock();
        let (now, waiting) = (Instant::now(), &queues.get(name)?.waiting);
        let due = waiting.iter().find(|(_, one)| one.due <= now);
        let (number, next) = due.or_else(|| waiting.iter().min_by_key(|(_, one)| one.due))?;
        Some(Due { number: *number, event: Arc::clone(&next.event), at: next.due })
    }

    /// Wakes when something is added for the channel.
    pub(crate) fn news(&self, name: &str) -> Arc<Notify> {
        self.queues.lock().get(name).map(|queue| Arc::clone(&queue.news)).unwrap_or_default()
    }

    /// The channel took it. What else waits is due at once: the channel answers. Blocks for a sync.
    pub(crate) fn delivered(&self, name: &str, number: u64) -> Result<(), NotifyError> {
        self.remove(name, number)?;
        if let Some(queue) = self.queues.lock().get_mut(name) {
            queue.delivered += 1;
            queue.delivered_at = Some(Timestamp::now());
            let now = Instant::now();
            queue.waiting.values_mut().for_each(|one| one.due = now);
        }
        Ok(())
    }

    /// The channel did not take it: it is tried again after a pause, or given up after a day. Blocks for a sync then.
    pub(crate) fn failed(
        &self,
        name: &str,
        number: u64,
        reason: String,
    ) -> Result<(), NotifyError> {
        let over = {
            let mut queues = self.queues.lock();
            let Some(queue) = queues.get_mut(name) else { return Ok(()) };
            queue.failed_attempts += 1;
            queue.last_failure = Some(FailureView { at: Timestamp::now(), reason });
            let Some(one) = queue.waiting.get_mut(&number) else { return Ok(()) };
            one.tries = one.tries.saturating_add(1);
            one.due = Instant::now() + pause(one.tries, random());
            is_over(one.tries, Timestamp::now().duration_since(one.event.at))
        };
        if over {
            self.remove(name, number)?;
            if let Some(queue) = self.queues.lock().get_mut(name) {
                queue.given_up += 1;
            }
            tracing::warn!(channel = name, "gave up on an event that was not taken for a day");
        }
        Ok(())
    }

    fn remove(&self, name: &str, number: u64) -> Result<(), NotifyError> {
        let _changing = self.next.lock();
        self.events.delete(&key(name, number))?;
        if let Some(queue) = self.queues.lock().get_mut(name) {
            queue.waiting.remove(&number);
        }
        Ok(())
    }

    /// Shows a channel's queue: how many wait, and when the first of them is due.
    pub(crate) fn show<T>(
        &self,
        name: &str,
        show: impl FnOnce(&Queue, usize, Option<Instant>) -> T,
    ) -> Option<T> {
        let queues = self.queues.lock();
        let queue = queues.get(name)?;
        let due = queue.waiting.values().map(|one| one.due).min();
        Some(show(queue, queue.waiting.len(), due))
    }
}

/// The channel's name, which has no 0 in it, and the number: events come back in their order.
fn key(name: &str, number: u64) -> Vec<u8> {
    [name.as_bytes(), &[0], &number.to_be_bytes()].concat()
}

fn parse(key: &[u8]) -> Option<(&str, u64)> {
    let (rest, number) = key.split_last_chunk::<8>()?;
    let name = rest.strip_suffix(&[0])?;
    Some((std::str::from_utf8(name).ok()?, u64::from_be_bytes(*number)))
}

/// "Full jitter": anything up to a bound that doubles, so that channels that were away are not all asked at once.
fn pause(tries: u32, random: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    let bound = PAUSE.saturating_mul(1 << doublings).min(PAUSE_AT_MOST);
    bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn is_over(tries: u32, age: SignedDuration) -> bool {
    tries >= TRIES_MIN && age >= TRIED_FOR
}

/// Without randomness pauses are as long as they may be.
fn random() -> u32 {
    let mut bytes = [0xff; 4];
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests;
