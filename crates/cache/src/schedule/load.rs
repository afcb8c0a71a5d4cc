//! A guest and a mover at a repository that gets slower the more is asked of it at once. The time is
//! told, not taken.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{State, Ticket, Waiting};
use crate::Priority;
use crate::steering::Others;

/// What one read takes alone. Beside others it takes that for each of them.
const ALONE: Duration = Duration::from_micros(500);
/// Reads that the mover has under way or waiting.
const MOVERS: usize = 32;
/// The guest's reads, one after the other.
const READS: usize = 20_000;

struct World {
    state: State,
    now: Instant,
    /// When each read ends.
    under_way: Vec<(Instant, Priority)>,
    asked: Instant,
    took: Vec<Duration>,
    moved: usize,
}

impl World {
    fn new(movers: usize, target: Duration) -> Self {
        let now = Instant::now();
        let mut world = Self {
            state: State::new(now),
            now,
            under_way: Vec::new(),
            asked: now,
            took: Vec::new(),
            moved: 0,
        };
        world.state.steering.aim_at(target);
        (0..movers).for_each(|_| world.ask(Priority::Mover));
        world.ask(Priority::Guest);
        world
    }

    fn ask(&mut self, priority: Priority) {
        let waiting = Waiting { ticket: Ticket::new(priority, 1), grant: oneshot::channel().0 };
        self.state.queues[priority as usize].push_back(waiting);
    }

    fn let_in(&mut self) {
        while let Some(priority) = self.state.next(self.now) {
            self.state.queues[priority as usize].pop_front();
            self.state.start(priority, 1, self.now);
            let ends = self.now + ALONE * (self.under_way.len() as u32 + 1);
            self.under_way.push((ends, priority));
        }
    }

    fn end_one(&mut self) {
        let first = (0..self.under_way.len()).min_by_key(|at| self.under_way[*at].0).unwrap();
        let (ends, priority) = self.under_way.swap_remove(first);
        self.now = ends;
        self.state.end(priority);
        if priority == Priority::Guest {
            let took = self.now - self.asked;
            self.took.push(took);
            let waiting = !self.state.queues[Priority::Mover as usize].is_empty();
            let others = Others { reading: self.state.steered, waiting };
            self.state.steering.waited(took, others, self.now);
            self.asked = self.now;
        } else {
            self.moved += 1;
        }
        self.ask(priority);
    }
}

/// What 99 of 100 guests' reads took less than, once it has settled, and what the mover read.
fn p99(movers: usize, target: Duration) -> (Duration, usize) {
    let mut world = World::new(movers, target);
    while world.took.len() < READS {
        world.let_in();
        world.end_one();
    }
    let mut took = world.took.split_off(READS / 4);
    took.sort_unstable();
    (took[took.len() * 99 / 100], world.moved)
}

/// N9 of the design, where nothing but the mover's reads gets in the guest's way.
#[test]
fn a_mover_lets_a_guest_wait_at_most_twice_as_long() {
    let (alone, _) = p99(0, Duration::from_millis(2));
    assert_eq!(alone, ALONE);
    let (free, _) = p99(MOVERS, Duration::from_secs(3600));
    assert!(free > 10 * alone, "unsteered: {free:?}");
    let (steered, moved) = p99(MOVERS, Duration::from_micros(1));
    println!("alone {alone:?}, unsteered {free:?}, steered {steered:?}");
    assert!(steered <= 2 * alone, "{steered:?}");
    assert!(moved > READS / 4, "the mover starves: {moved} reads beside {READS}");
}

/// Within its target nothing is held back.
#[test]
fn a_mover_is_held_back_as_far_as_the_target_asks() {
    for millis in [1, 2, 5] {
        let target = Duration::from_millis(millis);
        let mut world = World::new(MOVERS, target);
        while world.took.len() < READS {
            world.let_in();
            world.end_one();
        }
        let mut took = world.took.split_off(READS / 4);
        took.sort_unstable();
        let p95 = took[took.len() * 95 / 100];
        assert!(p95 <= target + 2 * ALONE, "{target:?}: {p95:?}");
        assert!(p95 * 2 >= target, "{target:?}: {p95:?}, it could read more");
    }
}
