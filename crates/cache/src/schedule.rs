//! One schedule for all reads of repositories: who goes first, how many at once, how many bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Priority;
use crate::steering::{Others, Steering};

#[cfg(test)]
mod load;
#[cfg(test)]
mod tests;

/// Reads under way at once. At 20 ms each and blocks of 256 KiB that is 800 MiB/s.
pub(crate) const READS_MAX: usize = 64;
/// Of these, what only guests may take, so that none waits for a read of somebody else.
pub(crate) const GUESTS_OWN: usize = 16;
/// And what read-ahead may take at most: it asks for runs of many blocks, and a slow repository answers a guest behind
/// all that was asked of it before.
const AHEAD_MAX: usize = 16;
/// Turns of others that a rank waits for at most, guests' not counted.
const PASSED_MAX: u32 = 7;
/// Kinds of [`Priority`]: a queue each. How many wait is bounded by the cache's pages, for the
/// mover's own reads by what it has in flight.
const QUEUES: usize = 5;

/// The schedule of one cache.
pub(crate) struct Schedule(Mutex<State>);

struct State {
    queues: [VecDeque<Waiting>; QUEUES],
    running: usize,
    /// Of these, not a guest's.
    behind: usize,
    /// Of these, read-ahead.
    ahead: usize,
    /// Of these, steered by what guests wait.
    steered: usize,
    /// Turns that others than guests had while each rank waited.
    passed: [u32; QUEUES],
    steering: Steering,
    /// Bytes per second of all that is not a guest's; 0 for no limit.
    bytes_per_second: u64,
    /// When the bytes taken so far will have been due.
    due: Instant,
    /// Somebody wakes at `due`.
    timer: bool,
}

/// A reader's place in a queue. A guest who comes to wait for the same read moves it to the front.
pub(crate) struct Ticket {
    priority: Priority,
    bytes: u64,
    hurried: AtomicBool,
    /// Who asked for it has gone. Changes under the schedule's lock.
    unwanted: AtomicBool,
}

struct Waiting {
    ticket: Arc<Ticket>,
    grant: oneshot::Sender<Turn>,
}

/// The right to read, until dropped.
pub(crate) struct Turn {
    /// `None` for one that was never taken.
    schedule: Option<Arc<Schedule>>,
    priority: Priority,
}

impl Ticket {
    pub(crate) fn new(priority: Priority, bytes: u64) -> Arc<Self> {
        let (hurried, unwanted) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { priority, bytes, hurried, unwanted })
    }

    pub(crate) fn is_guests(&self) -> bool {
        self.priority == Priority::Guest
    }

    fn priority(&self) -> Priority {
        if self.hurried.load(Ordering::Acquire) { Priority::Guest } else { self.priority }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(schedule) = self.schedule.take() {
            let mut state = schedule.0.lock();
            state.end(self.priority);
            schedule.pump(&mut state);
        }
    }
}

impl Schedule {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::new(Instant::now()))))
    }

    /// Waits for the ticket's turn to read: guests first, then the others by rank, of which none waits for ever; each rank
    /// in the order of asking. Dropped before its turn, it leaves the queue. `None` once it was given up.
    pub(crate) async fn turn(self: &Arc<Self>, ticket: &Arc<Ticket>) -> Option<Turn> {
        let (grant, granted) = oneshot::channel();
        {
            let mut state = self.0.lock();
            // Asked under the lock: who hurries it later, or gives it up, finds it in its queue.
            let priority = ticket.priority();
            if priority != Priority::Guest && ticket.unwanted.load(Ordering::Acquire) {
                return None;
            }
            let waiting = Waiting { ticket: ticket.clone(), grant };
            state.queues[priority as usize].push_back(waiting);
            self.pump(&mut state);
        }
        // A queue is never dropped while somebody holds the schedule: who is not granted it was taken out.
        granted.await.ok()
    }

    /// Nobody wants this read any more. One that waits leaves the queue; one that has begun, or that a guest waits for, goes on.
    pub(crate) fn give_up(&self, ticket: &Arc<Ticket>) {
        let mut state = self.0.lock();
        if ticket.priority() != Priority::Guest {
            ticket.unwanted.store(true, Ordering::Release);
            let queue = &mut state.queues[ticket.priority as usize];
            queue.retain(|waiting| !Arc::ptr_eq(&waiting.ticket, ticket));
        }
    }

    /// A guest waits for this read now.
    pub(crate) fn hurry(self: &Arc<Self>, ticket: &Arc<Ticket>) {
        if ticket.priority() == Priority::Guest {
            return;
        }
        let mut state = self.0.lock();
        ticket.hurried.store(true, Ordering::Release);
        let queue = &mut state.queues[ticket.priority as usize];
        let found = queue.iter().position(|waiting| Arc::ptr_eq(&waiting.ticket, ticket));
        if let Some(waiting) = found.and_then(|at| queue.remove(at)) {
            state.queues[Priority::Guest as usize].push_back(waiting);
            self.pump(&mut state);
        }
    }

    /// Holds all but guests to so many bytes per second together; 0 for no limit.
    pub(crate) fn limit(self: &Arc<Self>, bytes_per_second: u64) {
        let mut state = self.0.lock();
        if state.bytes_per_second == bytes_per_second {
            return;
        }
        state.bytes_per_second = bytes_per_second;
        state.due = state.due.min(Instant::now());
        self.pump(&mut state);
    }

    /// Steers scans and movers so that guests who wait do so no longer than `target`, 19 times of 20.
    pub(crate) fn steer_by(&self, target: Duration) {
        self.0.lock().steering.aim_at(target);
    }

    /// A guest's read took so long, RAM's excepted.
    pub(crate) fn guest_waited(self: &Arc<Self>, took: Duration) {
        let mut state = self.0.lock();
        let waits = |p: &Priority| p.is_steered() && !state.queues[*p as usize].is_empty();
        let waiting = Priority::ALL.iter().any(waits);
        let others = Others { reading: state.steered, waiting };
        if state.steering.waited(took, others, Instant::now()) {
            self.pump(&mut state);
        }
    }

    /// What 19 of 20 guests' reads were below of late, and how many scans and movers may read at once.
    pub(crate) fn steering(&self) -> (Duration, usize) {
        let state = self.0.lock();
        (state.steering.p95(), state.steering.allowed())
    }

    /// Reads under way and readers that wait.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.running, state.queues.iter().map(VecDeque::len).sum())
    }

    /// Lets in whoever may read now.
    fn pump(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        while let Some(priority) = state.next(now) {
            let Some(waiting) = state.queues[priority as usize].pop_front() else { return };
            if waiting.grant.is_closed() {
                continue;
            }
            state.start(priority, waiting.ticket.bytes, now);
            let turn = Turn { schedule: Some(self.clone()), priority };
            if let Err(mut turn) = waiting.grant.send(turn) {
                // Gone meanwhile. Dropped as it is it would lock what we hold.
                turn.schedule = None;
                state.end(priority);
            }
        }
        self.wake_when_due(state, now);
    }

    /// With nobody who waits, or only for others to end, there is nothing to wake for.
    fn wake_when_due(self: &Arc<Self>, state: &mut State, now: Instant) {
        let waits = state.queues.iter().skip(1).any(|queue| !queue.is_empty());
        if state.timer || !waits {
            return;
        }
        let (Some(due), Ok(runtime)) = (state.due_at(now), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        state.timer = true;
        let schedule = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep_until(due).await;
            if let Some(schedule) = schedule.upgrade() {
                let mut state = schedule.0.lock();
                state.timer = false;
                schedule.pump(&mut state);
            }
        });
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            queues: Default::default(),
            running: 0,
            behind: 0,
            ahead: 0,
            steered: 0,
            passed: [0; QUEUES],
            steering: Steering::default(),
            bytes_per_second: 0,
            due: now,
            timer: false,
        }
    }

    /// The rank whose first reader may begin now: guests, then who has waited for too many others, then the highest.
    fn next(&mut self, now: Instant) -> Option<Priority> {
        let in_time = self.bytes_per_second == 0 || self.due <= now;
        let background = self.behind < READS_MAX - GUESTS_OWN && in_time;
        if self.running >= READS_MAX {
            return None;
        }
        if self.waits(Priority::Guest) {
            return Some(Priority::Guest);
        }
        let steered = self.steered < self.steering.allowed_at(now);
        let may = Priority::ALL.into_iter().filter(|priority| {
            background
                && self.waits(*priority)
                && match priority {
                    Priority::Guest | Priority::Profile => true,
                    Priority::Ahead => self.ahead < AHEAD_MAX,
                    Priority::Scan | Priority::Mover => steered,
                }
        });
        let late = |priority: &Priority| self.passed[*priority as usize] >= PASSED_MAX;
        may.clone().find(late).or_else(|| may.clone().next())
    }

    fn waits(&self, priority: Priority) -> bool {
        !self.queues[priority as usize].is_empty()
    }

    /// When somebody may read who may not now, whoever ends before.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        if self.bytes_per_second > 0 && self.due > now {
            return Some(self.due);
        }
        // With none of them let in nobody's end would let in the next.
        self.steering.quiet_at().filter(|_| self.steered == 0 && self.steering.allowed() == 0)
    }

    fn start(&mut self, priority: Priority, bytes: u64, now: Instant) {
        self.running += 1;
        self.behind += usize::from(priority != Priority::Guest);
        self.ahead += usize::from(priority == Priority::Ahead);
        self.steered += usize::from(priority.is_steered());
        if priority != Priority::Guest {
            for other in Priority::ALL {
                let waits = other != priority && self.waits(other);
                let passed = &mut self.passed[other as usize];
                *passed = if waits { passed.saturating_add(1) } else { 0 };
            }
        }
        // A guest's bytes count, so that the others leave them to it; it waits for nobody's.
        if self.bytes_per_second > 0 {
            let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            self.due = self.due.max(now) + cost;
        }
    }

    fn end(&mut self, priority: Priority) {
        self.running -= 1;
        self.behind -= usize::from(priority != Priority::Guest);
        self.ahead -= usize::from(priority == Priority::Ahead);
        self.steered -= usize::from(priority.is_steered());
    }
}
