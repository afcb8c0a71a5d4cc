use std::collections::VecDeque;
use std::ops::Range;

use super::MOVER_PIECE;

/// Pieces in a row that are read before is looked again what the guest touches: 64 MiB.
const ROW: u64 = 16;

/// In which order the pieces of a disk are read: what lies around the guest's touches, as they come,
/// then the rest. Each once. One bit a piece: 32 KiB per TiB.
pub(crate) struct Order {
    size: u64,
    pieces: u64,
    taken: Vec<u64>,
    /// Pieces that were touched and not taken yet: as many as there are touches at most.
    hot: VecDeque<u64>,
    /// Touches that were seen.
    seen: usize,
    /// All before it are taken.
    next: u64,
}

impl Order {
    /// The order for a disk of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let pieces = size.div_ceil(MOVER_PIECE);
        let taken = vec![0; pieces.div_ceil(64) as usize];
        Self { size, pieces, taken, hot: VecDeque::new(), seen: 0, next: 0 }
    }

    /// How many touches it knows of.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// Takes note of touches, as first bytes of what was touched.
    pub(crate) fn see(&mut self, touches: impl Iterator<Item = u64>) {
        for at in touches {
            self.seen += 1;
            let piece = at / MOVER_PIECE;
            if piece < self.pieces && !self.is_taken(piece) && self.hot.back() != Some(&piece) {
                self.hot.push_back(piece);
            }
        }
    }

    /// Bytes around a touch.
    pub(crate) fn hot(&mut self) -> Option<Range<u64>> {
        while let Some(piece) = self.hot.pop_front() {
            if self.take(piece) {
                return Some(self.bytes(piece..piece + 1));
            }
        }
        None
    }

    /// Bytes of the rest, in order.
    pub(crate) fn rest(&mut self) -> Option<Range<u64>> {
        while self.next < self.pieces && self.is_taken(self.next) {
            self.next += 1;
        }
        let start = self.next;
        while self.next < self.pieces && self.next - start < ROW && self.take(self.next) {
            self.next += 1;
        }
        (start < self.next).then(|| self.bytes(start..self.next))
    }

    fn bytes(&self, pieces: Range<u64>) -> Range<u64> {
        pieces.start * MOVER_PIECE..(pieces.end * MOVER_PIECE).min(self.size)
    }

    fn is_taken(&self, piece: u64) -> bool {
        self.taken[(piece / 64) as usize] & (1 << (piece % 64)) != 0
    }

    /// False if it was taken before.
    fn take(&mut self, piece: u64) -> bool {
        let free = !self.is_taken(piece);
        self.taken[(piece / 64) as usize] |= 1 << (piece % 64);
        free
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_guest_touches_goes_first() {
        let mut order = Order::new(100 * MOVER_PIECE + 1);
        assert_eq!(order.rest(), Some(0..ROW * MOVER_PIECE));
        order.see([90, 5, 90, 40].into_iter().map(|piece| piece * MOVER_PIECE + 7));
        assert_eq!(order.seen(), 4);
        assert_eq!(order.hot(), Some(90 * MOVER_PIECE..91 * MOVER_PIECE));
        assert_eq!(order.hot(), Some(40 * MOVER_PIECE..41 * MOVER_PIECE), "5 was read before");
        assert_eq!(order.hot(), None);
        let mut last = order.rest();
        while let Some(next) = order.rest() {
            last = Some(next);
        }
        assert_eq!(last.unwrap().end, 100 * MOVER_PIECE + 1);
    }

    proptest! {
        /// Every byte is read once, whatever the guest touches meanwhile.
        #[test]
        fn each_piece_is_read_once(
            pieces in 0u64..200,
            rest in 0u64..MOVER_PIECE,
            touches in proptest::collection::vec((0u64..250, any::<bool>()), 0..100),
        ) {
            let size = pieces * MOVER_PIECE + rest;
            let mut order = Order::new(size);
            let mut read = Vec::new();
            for (touch, look) in touches {
                order.see(std::iter::once(touch * MOVER_PIECE));
                if look {
                    read.extend(order.hot().or_else(|| order.rest()));
                }
            }
            while let Some(range) = order.hot().or_else(|| order.rest()) {
                read.push(range);
            }
            read.sort_by_key(|range| range.start);
            let mut at = 0;
            for range in read {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > at);
                at = range.end;
            }
            prop_assert_eq!(at, size);
        }
    }
}
