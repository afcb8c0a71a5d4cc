use std::collections::{HashSet, VecDeque};

use super::Policy;

/// The oldest goes, read again or not.
pub(super) struct Fifo {
    held: usize,
    order: VecDeque<u32>,
    there: HashSet<u32>,
}

impl Fifo {
    pub(super) fn new(held: usize) -> Self {
        Self { held, order: VecDeque::new(), there: HashSet::new() }
    }
}

impl Policy for Fifo {
    fn read(&mut self, block: u32) -> bool {
        if !self.there.insert(block) {
            return true;
        }
        self.order.push_back(block);
        if self.order.len() > self.held {
            let oldest = self.order.pop_front().unwrap();
            self.there.remove(&oldest);
        }
        false
    }
}
