use std::collections::{HashMap, HashSet, VecDeque};

use super::Policy;

/// Reads of a block that are counted.
const COUNTED: u8 = 3;

/// Two FIFOs: new blocks pass a small one, a tenth, and get into the main one if they are read again meanwhile, or come back soon
/// after they left. In the main one a block that was read goes round again.
pub(super) struct S3Fifo {
    held: usize,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Reads since it came in, or went round.
    reads: HashMap<u32, u8>,
    left: VecDeque<u32>,
    ghosts: HashSet<u32>,
}

impl S3Fifo {
    pub(super) fn new(held: usize) -> Self {
        Self {
            held,
            small: VecDeque::new(),
            main: VecDeque::new(),
            reads: HashMap::new(),
            left: VecDeque::new(),
            ghosts: HashSet::new(),
        }
    }

    fn small_held(&self) -> usize {
        (self.held / 10).max(1)
    }

    fn make_room(&mut self) {
        while self.small.len() + self.main.len() >= self.held {
            if self.small.len() >= self.small_held() || self.main.is_empty() {
                self.evict_small();
            } else {
                self.evict_main();
            }
        }
    }

    fn evict_small(&mut self) {
        let Some(block) = self.small.pop_front() else { return };
        if self.reads[&block] > 0 {
            self.reads.insert(block, 0);
            self.main.push_back(block);
            return;
        }
        self.reads.remove(&block);
        self.remember(block);
    }

    fn evict_main(&mut self) {
        let Some(block) = self.main.pop_front() else { return };
        match self.reads[&block] {
            0 => drop(self.reads.remove(&block)),
            read => {
                self.reads.insert(block, read - 1);
                self.main.push_back(block);
            }
        }
    }

    /// As many names as the main one holds blocks.
    fn remember(&mut self, block: u32) {
        if self.ghosts.insert(block) {
            self.left.push_back(block);
        }
        if self.left.len() > self.held - self.small_held() {
            let oldest = self.left.pop_front().unwrap();
            self.ghosts.remove(&oldest);
        }
    }
}

impl Policy for S3Fifo {
    fn read(&mut self, block: u32) -> bool {
        if let Some(reads) = self.reads.get_mut(&block) {
            *reads = (*reads + 1).min(COUNTED);
            return true;
        }
        self.make_room();
        self.reads.insert(block, 0);
        if self.ghosts.remove(&block) {
            self.left.retain(|left| *left != block);
            self.main.push_back(block);
        } else {
            self.small.push_back(block);
        }
        false
    }
}
