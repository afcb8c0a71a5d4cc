use std::collections::{HashSet, VecDeque};

use rekindle_block::BlockHash;

/// Names that are remembered at most, of 8 bytes each, in a queue and a set: 32 MiB.
const GHOSTS_MAX: usize = 1 << 20;

/// Names of blocks that left the small circle unused, the last ones: who is missed again so soon goes to the large one.
#[derive(Default)]
pub(super) struct Ghosts {
    /// Oldest first, also those that were taken since.
    order: VecDeque<u64>,
    there: HashSet<u64>,
}

/// Eight bytes of the name: two blocks that share them cost one a place in the wrong circle.
fn short(name: &BlockHash) -> u64 {
    name.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Ghosts {
    /// Remembers `names`; of all of them the last `most`.
    pub(super) fn add<'a>(&mut self, names: impl Iterator<Item = &'a BlockHash>, most: usize) {
        for name in names.map(short) {
            if self.there.insert(name) {
                self.order.push_back(name);
            }
        }
        while self.order.len() > most.min(GHOSTS_MAX) {
            if let Some(oldest) = self.order.pop_front() {
                self.there.remove(&oldest);
            }
        }
    }

    /// Whether the name is remembered. It is not afterwards.
    pub(super) fn take(&mut self, name: &BlockHash) -> bool {
        self.there.remove(&short(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> BlockHash {
        BlockHash::of(&number.to_le_bytes())
    }

    fn add(ghosts: &mut Ghosts, numbers: std::ops::Range<u64>, most: usize) {
        let names: Vec<_> = numbers.map(name).collect();
        ghosts.add(names.iter(), most);
    }

    #[test]
    fn the_last_names_are_remembered_once() {
        let mut ghosts = Ghosts::default();
        add(&mut ghosts, 0..10, 4);
        assert!((0..6).all(|number| !ghosts.take(&name(number))));
        assert!((6..10).all(|number| ghosts.take(&name(number))));
        assert!((6..10).all(|number| !ghosts.take(&name(number))));
        assert!(ghosts.order.len() <= 4);
    }

    #[test]
    fn it_is_bounded() {
        let mut ghosts = Ghosts::default();
        for from in (0..3 * GHOSTS_MAX as u64).step_by(4096) {
            add(&mut ghosts, from..from + 4096, usize::MAX);
            assert!(ghosts.take(&name(from)));
            assert!(ghosts.order.len() <= GHOSTS_MAX && ghosts.there.len() <= GHOSTS_MAX);
        }
    }
}
