use std::collections::{BTreeMap, HashMap};

use super::Policy;

/// The one that was read the longest ago goes.
pub(super) struct Lru {
    held: usize,
    now: u64,
    read_at: HashMap<u32, u64>,
    order: BTreeMap<u64, u32>,
}

impl Lru {
    pub(super) fn new(held: usize) -> Self {
        Self { held, now: 0, read_at: HashMap::new(), order: BTreeMap::new() }
    }
}

impl Policy for Lru {
    fn read(&mut self, block: u32) -> bool {
        self.now += 1;
        self.order.insert(self.now, block);
        if let Some(before) = self.read_at.insert(block, self.now) {
            self.order.remove(&before);
            return true;
        }
        if self.order.len() > self.held {
            let (_, oldest) = self.order.pop_first().unwrap();
            self.read_at.remove(&oldest);
        }
        false
    }
}
