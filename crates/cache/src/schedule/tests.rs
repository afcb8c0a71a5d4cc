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
        let (schedule, held, asked) = (self.schedule.clone(), self.held.clone(), ticket.clone());
        let load = self.load();
        tokio::spawn(async move {
            if let Some(turn) = schedule.turn(&asked).await {
                held.lock().push_back((priority, id, turn));
            }
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
async fn what_nobody_wants_any_more_leaves_the_queue_and_no_other() {
    let rig = Rig::new();
    rig.fill().await;
    let ahead = rig.ask(Priority::Ahead, 1, 1).await;
    rig.ask(Priority::Ahead, 2, 1).await;
    let hurried = rig.ask(Priority::Mover, 3, 1).await;
    rig.schedule.hurry(&hurried);
    rig.schedule.give_up(&hurried);
    rig.schedule.give_up(&ahead);
    assert_eq!(rig.schedule.load(), (READS_MAX, 2));
    assert!(rig.schedule.turn(&ahead).await.is_none(), "given up before it asked");
    rig.free(READS_MAX).await;
    assert_eq!(rig.who(), [(Priority::Mover, 3), (Priority::Ahead, 2)]);
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
    for (ms, more) in [(499, 0), (500, 1), (999, 0), (1000, 1), (5000, 1), (5100, 0), (5500, 1)] {
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

/// A store so slow that read-ahead and boot profiles always have something to ask.
#[test]
fn a_mover_gets_on_beside_read_ahead_without_end() {
    for bytes_per_second in [0, 1000] {
        let mut now = Instant::now();
        let waiting = [Priority::Ahead, Priority::Profile, Priority::Scan, Priority::Mover];
        let mut state = state(&waiting.map(|priority| (priority, 5000)), 100, now);
        state.bytes_per_second = bytes_per_second;
        let mut under_way = VecDeque::new();
        let mut turns = [0; QUEUES];
        for _ in 0..900 {
            for priority in let_in(&mut state, now) {
                turns[priority as usize] += 1;
                under_way.push_back(priority);
            }
            now += Duration::from_millis(100);
            state.end(under_way.pop_front().unwrap());
        }
        for priority in waiting {
            assert!(turns[priority as usize] >= 100, "{bytes_per_second}: {turns:?}");
        }
        assert!(turns[Priority::Ahead as usize] > turns[Priority::Mover as usize], "{turns:?}");
    }
}

#[test]
fn read_ahead_leaves_places_to_others() {
    let now = Instant::now();
    let mut state = state(&[(Priority::Ahead, 100)], 1, now);
    assert_eq!(let_in(&mut state, now), [Priority::Ahead; AHEAD_MAX]);
    let wait = |priority| Waiting { ticket: Ticket::new(priority, 1), grant: oneshot::channel().0 };
    state.queues[Priority::Mover as usize].push_back(wait(Priority::Mover));
    assert_eq!(let_in(&mut state, now), [Priority::Mover]);
    state.end(Priority::Ahead);
    assert_eq!(let_in(&mut state, now), [Priority::Ahead]);
}
