//! Blocks that are wanted at the same moment: what lies side by side in a pack beyond the network is one read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rekindle_block::Block;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};

use crate::codec::open_block;
use crate::id::PackId;
use crate::images::ImageDisk;
use crate::seal::Seal;
use crate::store::{Store, blocking, pack_object};
use crate::{BlockRef, RepoError};

/// Bytes of a pack that are read at once at most.
pub const RUN_BYTES: u64 = 4 << 20;
/// Bytes between two blocks that are read along: they cost less than a second request.
const GAP_BYTES: u64 = 64 << 10;

/// Blocks of one disk that are wanted together, each of which is asked for by itself. Nothing is read before the first
/// of a part is asked for; the others then wait for the same read.
pub struct BlockRun {
    source: Source,
    blocks: Vec<BlockRef>,
    parts: Vec<Shared>,
}

enum Source {
    Stored(Store, Seal),
    /// An image that is read where it lies: each block by itself.
    Image(Arc<ImageDisk>),
}

/// Neighbours in a pack.
pub(crate) struct Part {
    pub(crate) pack: PackId,
    pub(crate) range: Range<u64>,
    /// Which of the blocks.
    pub(crate) blocks: Range<usize>,
}

/// A part that is read when the first of its blocks is asked for.
struct Shared {
    part: Part,
    read: OnceCell<Read>,
}

/// What became of a part's read.
enum Read {
    Bytes {
        bytes: Bytes,
        _room: OwnedSemaphorePermit,
    },
    /// The store does not answer.
    Away(RepoError),
    /// Each block is to be read by itself: there is no room for all, or something is wrong with one.
    Singly,
}

impl BlockRun {
    /// `blocks` are wanted in this order, which is best that of their disk.
    pub(crate) fn new(store: Store, seal: Seal, blocks: Vec<BlockRef>) -> Arc<Self> {
        let parts = if store.room_for_runs().is_some() { parts(&blocks) } else { Vec::new() };
        let parts = parts.into_iter().map(|part| Shared { part, read: OnceCell::new() }).collect();
        Arc::new(Self { source: Source::Stored(store, seal), blocks, parts })
    }

    /// Blocks of an image.
    pub(crate) fn of_image(disk: Arc<ImageDisk>, blocks: Vec<BlockRef>) -> Arc<Self> {
        Arc::new(Self { source: Source::Image(disk), blocks, parts: Vec::new() })
    }

    /// The block of that number, read, opened, decompressed and verified.
    pub async fn block(&self, number: usize) -> Result<Block, RepoError> {
        let Some(block) = self.blocks.get(number).copied() else {
            return Err(RepoError::refused("there is no such block in the run"));
        };
        let (store, seal) = match &self.source {
            Source::Stored(store, seal) => (store, seal),
            Source::Image(disk) => return disk.read_block(&block).await,
        };
        if let Some(block) = store.read_hot(seal, &block).await {
            return Ok(block);
        }
        let shared = self.parts.iter().find(|shared| shared.part.blocks.contains(&number));
        if let Some(Shared { part, read: shared }) = shared.filter(|one| one.part.blocks.len() > 1)
        {
            match shared.get_or_init(|| read(store, part)).await {
                Read::Away(why) => return Err(why.same()),
                Read::Singly => {}
                Read::Bytes { bytes, .. } => {
                    let seal = seal.clone();
                    let stored = bytes.slice(part.place_of(&block));
                    let opened = blocking(move || open_block(&seal, &block, stored.to_vec())).await;
                    // What was hurt on its way is fetched again before it counts as damaged.
                    if !matches!(opened, Err(RepoError::Corrupt { .. })) {
                        return opened;
                    }
                }
            }
        }
        store.read_block(seal, &block).await
    }
}

async fn read(store: &Store, part: &Part) -> Read {
    let room = store.room_for_runs().map(|room| room.clone().try_acquire_owned());
    let Some(Ok(_room)) = room else { return Read::Singly };
    match store.read_range(&pack_object(part.pack), part.range.clone(), Ok).await {
        Ok(bytes) => Read::Bytes { bytes: bytes.into(), _room },
        Err(why @ RepoError::Unavailable { .. }) => Read::Away(why),
        Err(_) => Read::Singly,
    }
}

impl Part {
    /// A block by itself, with its number.
    pub(crate) fn of_one((number, block): (usize, &BlockRef)) -> Self {
        Self { pack: block.pack, range: block.stored_range(), blocks: number..number + 1 }
    }

    /// Where the block lies in what is read.
    pub(crate) fn place_of(&self, block: &BlockRef) -> Range<usize> {
        let stored = block.stored_range();
        (stored.start - self.range.start) as usize..(stored.end - self.range.start) as usize
    }

    fn takes(&self, block: &BlockRef) -> bool {
        let (last, next) = (self.range.end, block.stored_range());
        block.pack == self.pack
            && (last..=last + GAP_BYTES).contains(&next.start)
            && next.end - self.range.start <= RUN_BYTES
    }
}

/// Cuts blocks into those that are read at once.
pub(crate) fn parts(blocks: &[BlockRef]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        match parts.last_mut().filter(|part| part.takes(block)) {
            Some(part) => {
                part.range.end = block.stored_range().end;
                part.blocks.end = number + 1;
            }
            None => parts.push(Part::of_one((number, block))),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rekindle_block::BlockHash;

    use super::*;
    use crate::codec::Codec;

    fn block(pack: u64, offset: u32, stored_len: u32) -> BlockRef {
        let hash = BlockHash::of(&offset.to_le_bytes());
        let (pack, codec) = (PackId(pack), Codec::Zstd);
        BlockRef { hash, pack, offset, stored_len, plain_len: 1 << 18, codec }
    }

    /// How many blocks are in each part.
    fn cut(blocks: &[BlockRef]) -> Vec<usize> {
        parts(blocks).into_iter().map(|part| part.blocks.len()).collect()
    }

    #[test]
    fn neighbours_are_one_read_and_others_are_not() {
        let gap = GAP_BYTES as u32;
        assert_eq!(cut(&[block(1, 16, 100), block(1, 116, 50), block(1, 166, 7)]), [3]);
        assert_eq!(cut(&[block(1, 16, 100), block(2, 116, 50)]), [1, 1], "another pack");
        assert_eq!(cut(&[block(1, 16, 10), block(1, 26 + gap, 10)]), [2], "a small gap");
        assert_eq!(cut(&[block(1, 16, 10), block(1, 27 + gap, 10)]), [1, 1], "a large one");
        assert_eq!(cut(&[block(1, 116, 10), block(1, 16, 10)]), [1, 1], "backwards");
        assert_eq!(cut(&[block(1, 16, 10), block(1, 16, 10)]), [1, 1], "twice");
        let full: Vec<_> = (0..33).map(|n| block(1, n << 17, 1 << 17)).collect();
        assert_eq!(cut(&full), [32, 1], "bounded");
    }

    proptest! {
        /// Whatever the blocks: each is in one part, which has its bytes and is no larger than it may be.
        #[test]
        fn parts_tile_the_blocks(places in proptest::collection::vec((0u64..3, 0u32..1 << 27, 1u32..1 << 18), 0..100)) {
            let blocks: Vec<_> = places.iter().map(|(pack, at, len)| block(*pack, *at, *len)).collect();
            let mut next = 0;
            for part in parts(&blocks) {
                prop_assert_eq!(part.blocks.start, next);
                next = part.blocks.end;
                prop_assert!(part.range.end - part.range.start <= RUN_BYTES);
                for block in &blocks[part.blocks.clone()] {
                    prop_assert_eq!(block.pack, part.pack);
                    let place = part.place_of(block);
                    prop_assert!(place.end as u64 <= part.range.end - part.range.start);
                    prop_assert_eq!(place.len(), block.stored_len as usize);
                }
            }
            prop_assert_eq!(next, blocks.len());
        }
    }
}
