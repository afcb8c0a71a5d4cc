use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rekindle_block::BlockHash;

use crate::RepoError;
use crate::codec::Codec;
use crate::id::PackId;
use crate::map::BlockRef;
use crate::pack::read::read_index;
use crate::prune::condemned;
use crate::seal::Seal;
use crate::store::Store;

/// Blocks that are remembered: 7 million of 29 bytes in a table filled to 7/8 are 243 MB, and 1.7 TiB of
/// different data. Blocks of older packs beyond are written again: that costs space, not correctness.
const MAX_KNOWN: usize = 7_000_000;

/// Which blocks the repository has, by the first half of their hash. 128 bits do not collide by chance; if
/// they did, reading the block would be an error and not another block, as reads check the whole hash.
#[derive(Default)]
pub(super) struct Known {
    places: HashMap<[u8; 16], Place>,
    packs: Vec<PackId>,
}

/// Where a block lies: 12 bytes.
#[derive(Clone, Copy)]
struct Place {
    /// Its number in [`Known::packs`].
    pack: u32,
    offset: u32,
    /// `codec << 24 | stored length`, as in a map.
    word: u32,
}

impl Known {
    /// Reads the indices of all packs but those that a prune has condemned, newest first, until the bound is reached. A damaged pack is passed
    /// over with a warning: what is in it is written again.
    pub(super) fn load(store: &Store, seal: &Seal, cancel: &AtomicBool) -> Result<Self, RepoError> {
        let mut known = Self::default();
        let condemned = condemned::packs(store, seal)?;
        let packs = store.list_packs_blocking()?.into_iter();
        for pack in packs.filter(|pack| !condemned.contains(pack)) {
            if cancel.load(Ordering::Relaxed) {
                return Err(RepoError::Cancelled);
            }
            match read_index(store, seal, pack) {
                Ok(blocks) => blocks.iter().for_each(|block| known.insert(block)),
                Err(error @ RepoError::Corrupt { .. }) => {
                    tracing::warn!(%pack, "not reusing the blocks of a damaged pack: {error}");
                }
                Err(error) => return Err(error),
            }
            if known.places.len() >= MAX_KNOWN {
                break;
            }
        }
        Ok(known)
    }

    pub(super) fn insert(&mut self, block: &BlockRef) {
        if self.places.len() >= MAX_KNOWN {
            return;
        }
        if self.packs.last() != Some(&block.pack) {
            self.packs.push(block.pack);
        }
        let place = Place {
            pack: (self.packs.len() - 1) as u32,
            offset: block.offset,
            word: u32::from(block.codec.number()) << 24 | block.stored_len,
        };
        self.places.entry(key(&block.hash)).or_insert(place);
    }

    /// The stored block of that hash and length.
    pub(super) fn get(&self, hash: &BlockHash, plain_len: u32) -> Option<BlockRef> {
        let place = self.places.get(&key(hash))?;
        let (codec, stored_len) =
            (Codec::from_number((place.word >> 24) as u8)?, place.word & 0xff_ffff);
        // A block of another length cannot have the same hash; a forged index can say so.
        codec.allows(stored_len, plain_len).then(|| BlockRef {
            hash: *hash,
            pack: self.packs[place.pack as usize],
            offset: place.offset,
            stored_len,
            plain_len,
            codec,
        })
    }
}

fn key(hash: &BlockHash) -> [u8; 16] {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}
