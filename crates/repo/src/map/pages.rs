use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::ENTRY_BYTES;

/// Pages one disk holds in memory: 200 of 24 KiB are 4.9 MiB. As leaves they reach 25 GiB at 256 KiB
/// blocks; a page beyond costs a guest one more read of 24 KiB.
pub(crate) const PAGES_HELD: usize = 200;

/// Which page: a directory of leaves, or a leaf of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PageKey {
    Directory(u64),
    Leaf(u64),
}

/// A page whose hash was checked.
pub(crate) struct Page {
    bytes: Box<[u8]>,
    /// Set by readers, cleared by the hand of the clock. A hint: no ordering needed.
    used: AtomicBool,
}

impl Page {
    pub(crate) fn new(bytes: Box<[u8]>) -> Self {
        // A new page has one round of the hand to be read again, so that a scan flushes only itself.
        Self { bytes, used: AtomicBool::new(false) }
    }

    /// The entry at `slot`; zeros behind the page's end.
    pub(crate) fn entry(&self, slot: usize) -> [u8; ENTRY_BYTES] {
        let at = slot * ENTRY_BYTES;
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; ENTRY_BYTES])
    }

    fn touch(&self) {
        // Written only when it changes, so that readers share the cache line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// The pages of one disk that are in memory. Second chance: a page that was read since the hand last
/// passed stays.
#[derive(Default)]
pub(crate) struct Pages {
    held: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    pages: HashMap<PageKey, Arc<Page>>,
    clock: Vec<PageKey>,
    hand: usize,
}

impl Pages {
    /// Reads one entry of a page in memory, without copying the page or its reference.
    pub(crate) fn entry(&self, key: PageKey, slot: usize) -> Option<[u8; ENTRY_BYTES]> {
        let held = self.held.read();
        let page = held.pages.get(&key)?;
        page.touch();
        Some(page.entry(slot))
    }

    pub(crate) fn insert(&self, key: PageKey, page: Arc<Page>) {
        let mut held = self.held.write();
        if held.pages.insert(key, page).is_some() {
            return;
        }
        if held.clock.len() < PAGES_HELD {
            held.clock.push(key);
        } else {
            let at = held.next_unused();
            let old = std::mem::replace(&mut held.clock[at], key);
            held.pages.remove(&old);
        }
    }
}

impl Held {
    /// Ends within two rounds: the first clears what it passes, and readers are locked out.
    fn next_unused(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.clock.len();
            let used = self.pages.get(&self.clock[at]).map(|page| &page.used);
            if !used.is_some_and(|used| used.swap(false, Ordering::Relaxed)) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64) -> Arc<Page> {
        Arc::new(Page::new(number.to_le_bytes().repeat(6).into()))
    }

    #[test]
    fn the_bound_holds_and_what_is_read_stays() {
        let pages = Pages::default();
        for number in 0..PAGES_HELD as u64 * 5 {
            pages.insert(PageKey::Leaf(number), page(number));
            pages.insert(PageKey::Leaf(number), page(number));
            assert!(pages.entry(PageKey::Leaf(0), 0).is_some(), "read each time, at {number}");
            let held = pages.held.read();
            assert!(held.pages.len() <= PAGES_HELD && held.clock.len() == held.pages.len());
        }
        assert!(pages.entry(PageKey::Leaf(1), 0).is_none(), "never read again");
        assert_eq!(pages.entry(PageKey::Leaf(0), 1), Some([0; ENTRY_BYTES]), "short page");
    }
}
