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

/// Reads under way at once. At 20 ms each and blocks of 256 KiB that is 800 MiB/s.
pub(crate) const READS_MAX: usize = 64;
/// Of these, what only guests may take, so that none waits for a read of somebody else.
pub(crate) const GUESTS_OWN: usize = 16;
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
    /// Of these, steered by what guests wait.
    steered: usize,
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
        Arc::new(Self { priority, bytes, hurried: AtomicBool::new(false) })
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

    /// Waits for the ticket's turn to read: guests first, then the others by rank, each rank in the
    /// order of asking. Dropped before its turn, it leaves the queue.
    pub(crate) async fn turn(self: &Arc<Self>, ticket: &Arc<Ticket>) -> Turn {
        let (grant, granted) = oneshot::channel();
        {
            let mut state = self.0.lock();
            // Asked under the lock: who hurries it later finds it in its queue.
            let priority = ticket.priority();
            let waiting = Waiting { ticket: ticket.clone(), grant };
            state.queues[priority as usize].push_back(waiting);
            self.pump(&mut state);
        }
        // A queue is never dropped while somebody holds the schedule.
        granted.await.unwrap_or(Turn { schedule: None, priority: Priority::Guest })
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
            steered: 0,
            steering: Steering::default(),
            bytes_per_second: 0,
            due: now,
            timer: false,
        }
    }

    /// The rank whose first reader may begin now.
    fn next(&mut self, now: Instant) -> Option<Priority> {
        let first = Priority::ALL.into_iter().find(|p| !self.queues[*p as usize].is_empty())?;
        let in_time = self.bytes_per_second == 0 || self.due <= now;
        let background = self.behind < READS_MAX - GUESTS_OWN && in_time;
        let may = self.running < READS_MAX
            && match first {
                Priority::Guest => true,
                Priority::Ahead | Priority::Profile => background,
                Priority::Scan | Priority::Mover => {
                    background && self.steered < self.steering.allowed_at(now)
                }
            };
        may.then_some(first)
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
        self.steered += usize::from(priority.is_steered());
        // A guest's bytes count, so that the others leave them to it; it waits for nobody's.
        if self.bytes_per_second > 0 {
            let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            self.due = self.due.max(now) + cost;
        }
    }

    fn end(&mut self, priority: Priority) {
        self.running -= 1;
        self.behind -= usize::from(priority != Priority::Guest);
        self.steered -= usize::from(priority.is_steered());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Turns that were granted and are held, in order.
    type Held = Arc<Mutex<VecDeque<(Priority, u64, Turn)>>>;

    struct Rig {
        schedule: Arc<Schedule>,
        held: Held,
    }

    impl Rig {
        fn new() -> Self {
            Self { schedule: Schedule::new(), held: Held::default() }
        }

        /// Asks for a turn, and keeps it.
        async fn ask(&self, priority: Priority, id: u64, bytes: u64) -> Arc<Ticket> {
            let ticket = Ticket::new(priority, bytes);
            let (schedule, held, asked) =
                (self.schedule.clone(), self.held.clone(), ticket.clone());
            let load = self.load();
            tokio::spawn(async move {
                let turn = schedule.turn(&asked).await;
                held.lock().push_back((priority, id, turn));
            });
            while self.load() == load {
                tokio::task::yield_now().await;
            }
            self.granted().await;
            ticket
        }

        /// All that were granted are held.
        async fn granted(&self) {
            while self.held.lock().len() != self.schedule.load().0 {
                tokio::task::yield_now().await;
            }
        }

        fn load(&self) -> usize {
            let (running, waiting) = self.schedule.load();
            running + waiting
        }

        /// Ends the reads that began first.
        async fn free(&self, reads: usize) {
            for _ in 0..reads {
                let first = self.held.lock().pop_front();
                drop(first);
                self.granted().await;
            }
        }

        /// Takes all places, guests' own included.
        async fn fill(&self) {
            for id in 0..READS_MAX as u64 {
                self.ask(Priority::Guest, id, 1).await;
            }
        }

        fn who(&self) -> Vec<(Priority, u64)> {
            self.held.lock().iter().map(|(priority, id, _)| (*priority, *id)).collect()
        }
    }

    #[tokio::test]
    async fn the_higher_rank_goes_first_and_each_rank_in_order() {
        let rig = Rig::new();
        rig.fill().await;
        for priority in Priority::ALL.into_iter().rev() {
            rig.ask(priority, 0, 1).await;
            rig.ask(priority, 1, 1).await;
        }
        assert_eq!(rig.schedule.load(), (READS_MAX, 10), "all places are taken");
        rig.free(READS_MAX).await;
        let expected: Vec<_> = Priority::ALL.into_iter().flat_map(|p| [(p, 0), (p, 1)]).collect();
        assert_eq!(rig.who(), expected);
        rig.free(10).await;
        assert_eq!(rig.schedule.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_guest_finds_a_place_whatever_others_do() {
        let rig = Rig::new();
        for id in 0..200 {
            rig.ask([Priority::Profile, Priority::Mover][id as usize % 2], id, 1).await;
        }
        assert_eq!(rig.schedule.load().0, READS_MAX - GUESTS_OWN);
        for id in 0..GUESTS_OWN as u64 + 1 {
            rig.ask(Priority::Guest, id, 1).await;
        }
        let guests = rig.who().into_iter().filter(|(p, _)| *p == Priority::Guest).count();
        assert_eq!((guests, rig.schedule.load().0), (GUESTS_OWN, READS_MAX));
    }

    #[tokio::test]
    async fn who_a_guest_waits_for_goes_with_the_guests() {
        let rig = Rig::new();
        rig.fill().await;
        let slow = rig.ask(Priority::Mover, 7, 1).await;
        rig.ask(Priority::Profile, 1, 1).await;
        rig.schedule.hurry(&slow);
        rig.schedule.hurry(&slow);
        rig.free(READS_MAX).await;
        assert_eq!(rig.who(), [(Priority::Mover, 7), (Priority::Profile, 1)]);
        rig.free(2).await;
        assert_eq!(rig.schedule.load(), (0, 0));
    }

    #[tokio::test]
    async fn who_leaves_takes_no_turn_along() {
        let rig = Rig::new();
        let ticket = Ticket::new(Priority::Guest, 1);
        let mut context = Context::from_waker(Waker::noop());
        rig.fill().await;
        {
            let mut asked = pin!(rig.schedule.turn(&ticket));
            assert!(asked.as_mut().poll(&mut context).is_pending());
        }
        rig.free(READS_MAX).await;
        assert_eq!(rig.schedule.load(), (0, 0), "left while it waited");
        rig.fill().await;
        {
            let mut asked = pin!(rig.schedule.turn(&ticket));
            assert!(asked.as_mut().poll(&mut context).is_pending());
            rig.held.lock().clear();
            assert_eq!(rig.schedule.load(), (1, 0), "granted, and not taken yet");
        }
        assert_eq!(rig.schedule.load(), (0, 0), "left when it was granted");
    }

    #[tokio::test]
    async fn a_limit_that_is_lifted_lets_go_at_once() {
        let rig = Rig::new();
        rig.schedule.limit(1);
        for id in 0..10 {
            rig.ask(Priority::Scan, id, 1_000_000).await;
        }
        assert_eq!(rig.schedule.load(), (1, 9));
        rig.ask(Priority::Guest, 0, 1_000_000).await;
        assert_eq!(rig.schedule.load(), (2, 9), "guests do not wait for it");
        rig.schedule.limit(0);
        rig.granted().await;
        assert_eq!(rig.schedule.load(), (11, 0));
    }

    /// Someone wakes when the next bytes are due, and once for all who wait.
    #[tokio::test]
    async fn who_waits_for_a_limit_is_woken() {
        let rig = Rig::new();
        rig.schedule.limit(1_000_000);
        for id in 0..4 {
            rig.ask(Priority::Mover, id, 20_000).await;
        }
        while rig.schedule.load() != (4, 0) {
            tokio::task::yield_now().await;
        }
        rig.granted().await;
    }

    /// A state with readers that wait, whose clock the test tells.
    fn state(waiting: &[(Priority, usize)], bytes: u64, now: Instant) -> State {
        let mut state = State::new(now);
        for (priority, count) in waiting {
            let wait =
                |_| Waiting { ticket: Ticket::new(*priority, bytes), grant: oneshot::channel().0 };
            state.queues[*priority as usize].extend((0..*count).map(wait));
        }
        state
    }

    /// Lets in all who may read at `now`; says who.
    fn let_in(state: &mut State, now: Instant) -> Vec<Priority> {
        std::iter::from_fn(|| {
            let priority = state.next(now)?;
            let waiting = state.queues[priority as usize].pop_front()?;
            state.start(priority, waiting.ticket.bytes, now);
            Some(priority)
        })
        .collect()
    }

    /// 100 bytes a second: a read of 50 is due half a second after the one before, whose bytes are
    /// also a guest's.
    #[test]
    fn bytes_are_held_to_their_limit() {
        let now = Instant::now();
        let mut state = state(&[(Priority::Guest, 1), (Priority::Mover, 5)], 50, now);
        state.bytes_per_second = 100;
        let let_in = |state: &mut State, ms| let_in(state, now + Duration::from_millis(ms)).len();
        assert_eq!(let_in(&mut state, 0), 1, "the guest");
        for (ms, more) in [(499, 0), (500, 1), (999, 0), (1000, 1), (5000, 1), (5100, 0), (5500, 1)]
        {
            assert_eq!(let_in(&mut state, ms), more, "at {ms}: no credit for idleness");
        }
    }

    #[test]
    fn movers_make_way_for_guests_that_wait() {
        let now = Instant::now();
        let mut state = state(&[(Priority::Mover, 100)], 1, now);
        let most = let_in(&mut state, now).len();
        assert!(most > 8, "{most}");
        let wait = |state: &mut State, ms| {
            for _ in 0..64 {
                let others = Others { reading: state.steered, waiting: true };
                state.steering.waited(Duration::from_millis(ms), others, now);
            }
        };
        wait(&mut state, 200);
        (0..most).for_each(|_| state.end(Priority::Mover));
        assert_eq!(let_in(&mut state, now), [], "it is measured what guests wait alone");
        assert_eq!(state.due_at(now), state.steering.quiet_at());
        wait(&mut state, 10);
        assert_eq!(let_in(&mut state, now).len(), most);
        (0..3).for_each(|_| wait(&mut state, 200));
        (0..most - 4).for_each(|_| state.end(Priority::Mover));
        assert_eq!(let_in(&mut state, now), [], "an eighth may read, and does");
        state.end(Priority::Mover);
        assert_eq!(let_in(&mut state, now), [Priority::Mover]);
        // Others than scans and movers are not steered.
        state.queues[Priority::Profile as usize].push_back(Waiting {
            ticket: Ticket::new(Priority::Profile, 1),
            grant: oneshot::channel().0,
        });
        assert_eq!(let_in(&mut state, now), [Priority::Profile]);
    }
}
