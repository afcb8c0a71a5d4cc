use std::collections::VecDeque;
use std::ops::Range;

use parking_lot::Mutex;

use crate::RepoError;
use crate::store::{Coming, Store};

/// Bytes of a map that are read at once from beyond the network.
const PIECE: u64 = 4 << 20;
/// Pieces that are asked for before they are wanted.
const AHEAD: u64 = 3;
/// Pieces that are held: 32 MiB. A directory lies behind its leaves, which are 12 MiB at most.
const HELD: usize = 8;

/// A map as one reads it who goes through all of it: in a few large pieces, some of them ahead of the reader.
pub(super) struct Pieces {
    object: String,
    map_bytes: u64,
    held: Mutex<VecDeque<(u64, Coming)>>,
}

impl Pieces {
    pub(super) fn new(object: &str, map_bytes: u64) -> Self {
        Self { object: object.to_owned(), map_bytes, held: Mutex::default() }
    }

    /// Bytes `range` of the map as they came; `None` where a read costs little and pieces are of no use. Blocks.
    pub(super) fn read(
        &self,
        store: &Store,
        range: Range<u64>,
    ) -> Result<Option<Vec<u8>>, RepoError> {
        if range.is_empty() || range.end > self.map_bytes {
            return Ok(None);
        }
        // Whoever else goes through the same map waits for the same pieces.
        let mut held = self.held.lock();
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let (first, last) = (range.start / PIECE, (range.end - 1) / PIECE);
        for number in first..=(last + AHEAD).min((self.map_bytes - 1) / PIECE) {
            if !self.ask(store, &mut held, number) {
                return Ok(None);
            }
        }
        for number in first..=last {
            let Some((_, piece)) = held.iter_mut().find(|(other, _)| *other == number) else {
                return Ok(None);
            };
            let piece = match piece.bytes() {
                Ok(piece) => piece,
                Err(error) => {
                    held.retain(|(other, _)| *other != number);
                    return Err(error);
                }
            };
            let start = number * PIECE;
            let inside = range.start.max(start) - start..range.end.min(start + PIECE) - start;
            match piece.get(inside.start as usize..inside.end as usize) {
                Some(part) => bytes.extend_from_slice(part),
                None => return Ok(None),
            }
        }
        Ok(Some(bytes))
    }

    /// Asks for a piece, or finds it, and keeps it for longest. False if the store is at hand.
    fn ask(&self, store: &Store, held: &mut VecDeque<(u64, Coming)>, number: u64) -> bool {
        let found = held.iter().position(|(other, _)| *other == number);
        let piece = match found.and_then(|at| held.remove(at)) {
            Some((_, piece)) => piece,
            None => {
                let start = number * PIECE;
                let range = start..(start + PIECE).min(self.map_bytes);
                match store.begin_range(&self.object, range) {
                    Some(piece) => piece,
                    None => return false,
                }
            }
        };
        held.push_back((number, piece));
        while held.len() > HELD {
            held.pop_front();
        }
        true
    }
}
