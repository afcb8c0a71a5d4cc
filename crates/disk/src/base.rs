use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rekindle_block::{Block, BlockIdx, BlockSize};
use rekindle_cache::{Cache, Priority};
use rekindle_repo::{BlockRef, DiskMap, MapEntry, RepoError};

use crate::DiskError;
use crate::layer::{Found, Layer, push_cached};
use crate::segments::{Segments, push_zeros};

/// Blocks of one run that are waited for at once: with blocks of 256 KiB one read of a repository.
const RUN_AT_ONCE: usize = 16;

/// What lies under the overlay. It never changes.
#[derive(Clone)]
pub enum Base {
    /// A disk of a recovery point, its blocks through the cache.
    Point {
        /// Which block is where.
        map: DiskMap,
        /// Blocks at hand.
        cache: Arc<Cache>,
    },
    /// What a disk had when it was frozen, over what it lay over.
    Layered {
        /// The frozen layers.
        layer: Arc<Layer>,
        /// What lies under all of them; no layer.
        bottom: Box<Base>,
    },
    /// Zeros.
    Empty {
        /// Bytes of them.
        size: u64,
    },
    /// For tests: bytes that their place decides.
    #[cfg(feature = "testing")]
    Pattern {
        /// Which pattern.
        seed: u8,
        /// Bytes in the disk.
        size: u64,
    },
}

/// The byte at `offset` of [`Base::Pattern`] `seed`. No two words are alike.
#[cfg(feature = "testing")]
pub fn pattern_byte(seed: u8, offset: u64) -> u8 {
    let word = (offset / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(seed);
    (word >> (8 * (offset % 8))) as u8
}

impl Base {
    /// What lies under all frozen layers.
    pub(crate) fn bottom(&self) -> &Self {
        match self {
            Self::Layered { bottom, .. } => bottom,
            other => other,
        }
    }

    /// Bytes in it. A disk that is larger has zeros behind.
    pub fn size(&self) -> u64 {
        match self {
            Self::Point { map, .. } => map.size(),
            Self::Layered { layer, .. } => layer.size(),
            Self::Empty { size } => *size,
            #[cfg(feature = "testing")]
            Self::Pattern { size, .. } => *size,
        }
    }

    /// The unit in which it is best read.
    pub fn block_size(&self) -> BlockSize {
        match self {
            Self::Point { map, .. } => map.block_size(),
            Self::Layered { bottom, .. } => bottom.block_size(),
            Self::Empty { .. } => BlockSize::default(),
            #[cfg(feature = "testing")]
            Self::Pattern { .. } => BlockSize::default(),
        }
    }

    /// Bytes `range` of it, which must lie in it. Waits for the device or the repository.
    pub async fn read(&self, range: Range<u64>, priority: Priority) -> Result<Segments, DiskError> {
        let mut out = Segments::new();
        for part in self.parts(range) {
            out.extend(self.read_part(part, priority).await?);
        }
        Ok(out)
    }

    /// Cuts `range` where a block ends: each part can be read by itself.
    pub(crate) fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let block = self.block_size().bytes();
        let mut at = range.start;
        std::iter::from_fn(move || {
            let end = ((at / block + 1) * block).min(range.end);
            (at < range.end).then(|| std::mem::replace(&mut at, end)..end)
        })
    }

    /// Appends `range` if all of it is at hand. Never waits.
    #[inline]
    pub(crate) fn try_read(&self, range: Range<u64>, out: &mut Segments) -> bool {
        let inside = range.start.min(self.size())..range.end.min(self.size());
        let beyond = (range.end - range.start) - (inside.end - inside.start);
        let read = match self {
            Self::Point { map, cache } => {
                self.parts(inside).all(|part| peek(map, cache, part, out))
            }
            Self::Layered { layer, bottom } => try_read_layers(layer, bottom, inside, out),
            Self::Empty { .. } => {
                push_zeros(out, inside.end - inside.start);
                true
            }
            #[cfg(feature = "testing")]
            Self::Pattern { seed, .. } => {
                out.push(inside.map(|at| pattern_byte(*seed, at)).collect::<Vec<_>>().into());
                true
            }
        };
        push_zeros(out, beyond);
        read
    }

    /// Appends `part`, one of [`Base::parts`], waiting for the repository if need be.
    pub(crate) async fn read_part(
        &self,
        part: Range<u64>,
        priority: Priority,
    ) -> Result<Segments, DiskError> {
        let mut out = Segments::new();
        if self.try_read(part.clone(), &mut out) {
            return Ok(out);
        }
        match self {
            Self::Layered { layer, bottom } => read_layers(layer, bottom, part, priority).await,
            bottom => bottom.read_bottom(part, priority).await,
        }
    }

    /// The same of what is no layer.
    async fn read_bottom(
        &self,
        part: Range<u64>,
        priority: Priority,
    ) -> Result<Segments, DiskError> {
        let mut out = Segments::new();
        if self.try_read(part.clone(), &mut out) {
            return Ok(out);
        }
        out.clear();
        if let Self::Point { map, cache } = self {
            let idx = map.block_size().block_at(part.start);
            let inside = part.start..part.end.min(map.size());
            let len = inside.end - inside.start;
            match block(map, cache, idx, priority).await? {
                None => push_zeros(&mut out, len),
                Some(block) => out.push(slice_of(&block, in_block(map, &inside))?),
            }
            push_zeros(&mut out, part.end - part.start - len);
        }
        Ok(out)
    }

    /// Brings blocks into the cache that are wanted together: what lies side by side in the repository is one read of it.
    /// Says how many bytes they have: none those that are zeros.
    pub(crate) async fn warm_run(
        &self,
        blocks: Range<BlockIdx>,
        priority: Priority,
    ) -> Result<u64, DiskError> {
        let Self::Point { map, cache } = self.bottom() else { return Ok(0) };
        let (mut wanted, mut bytes): (Vec<(u64, BlockRef)>, u64) = (Vec::new(), 0);
        for idx in blocks.start.0..blocks.end.0 {
            let at = idx.saturating_mul(map.block_size().bytes());
            let entry = map.entry(BlockIdx(idx)).await;
            if let MapEntry::Stored(block) = entry.map_err(|e| from_repo(Arc::new(e), at))? {
                bytes += u64::from(block.plain_len());
                if !cache.has(&block.hash()) {
                    wanted.push((at, block));
                }
            }
        }
        let run = map.run(wanted.iter().map(|(_, block)| *block).collect());
        let read = |(number, (at, block)): (usize, (u64, BlockRef))| {
            let run = run.clone();
            let fetch = async move { run.block(number).await };
            async move {
                let read = cache.get(&block.hash(), block.plain_len(), priority, fetch).await;
                read.map(drop).map_err(|e| from_repo(e, at))
            }
        };
        let all = wanted.into_iter().enumerate().map(read);
        stream::iter(all).buffer_unordered(RUN_AT_ONCE).try_collect::<()>().await?;
        Ok(bytes)
    }

    /// Asks the cache to leave `bytes` more of the file system to the overlays. Says whether it could.
    pub(crate) async fn make_room(&self, bytes: u64) -> bool {
        match self.bottom() {
            Self::Point { cache, .. } => cache.give_back(bytes).await > 0,
            Self::Layered { .. } | Self::Empty { .. } => false,
            #[cfg(feature = "testing")]
            Self::Pattern { .. } => false,
        }
    }
}

/// Appends `range`, which lies in the layer, if all of it is at hand.
fn try_read_layers(
    layer: &Arc<Layer>,
    bottom: &Base,
    range: Range<u64>,
    out: &mut Segments,
) -> bool {
    let mut at = range.start;
    while at < range.end {
        let (found, end) = layer.find(at, range.end);
        let read = match found {
            Found::Base => bottom.try_read(at..end, out),
            Found::Data(overlay) => push_cached(overlay, at, end - at, out),
            Found::Zero => {
                push_zeros(out, end - at);
                true
            }
        };
        if !read {
            return false;
        }
        at = end;
    }
    true
}

/// The same, waiting for the device or the repository.
async fn read_layers(
    layer: &Arc<Layer>,
    bottom: &Base,
    part: Range<u64>,
    priority: Priority,
) -> Result<Segments, DiskError> {
    let (mut out, mut at) = (Segments::new(), part.start);
    while at < part.end {
        let (found, end) = layer.find(at, part.end);
        match found {
            Found::Base => out.extend(bottom.read_bottom(at..end, priority).await?),
            Found::Zero => push_zeros(&mut out, end - at),
            Found::Data(overlay) => out.push(overlay.clone().read(at..end).await?),
        }
        at = end;
    }
    Ok(out)
}

fn in_block(map: &DiskMap, range: &Range<u64>) -> Range<usize> {
    let start = (range.start % map.block_size().bytes()) as usize;
    start..start + (range.end - range.start) as usize
}

/// Appends a part of one block if it is at hand.
#[inline]
fn peek(map: &DiskMap, cache: &Cache, part: Range<u64>, out: &mut Segments) -> bool {
    match map.try_entry(map.block_size().block_at(part.start)) {
        Some(MapEntry::Zero) => {
            push_zeros(out, part.end - part.start);
            true
        }
        Some(MapEntry::Stored(block)) => match cache.peek(&block.hash(), in_block(map, &part)) {
            Some(bytes) => {
                out.push(bytes);
                true
            }
            None => false,
        },
        None => false,
    }
}

async fn block(
    map: &DiskMap,
    cache: &Arc<Cache>,
    idx: BlockIdx,
    priority: Priority,
) -> Result<Option<Block>, DiskError> {
    let corrupt_at = idx.0.saturating_mul(map.block_size().bytes());
    match map.entry(idx).await.map_err(|e| from_repo(Arc::new(e), corrupt_at))? {
        MapEntry::Zero => Ok(None),
        MapEntry::Stored(block) => {
            let reader = map.clone();
            let fetch = async move { reader.read_block(&block).await };
            let read = cache.get(&block.hash(), block.plain_len(), priority, fetch).await;
            read.map(Some).map_err(|e| from_repo(e, corrupt_at))
        }
    }
}

/// `map` and block agree on a block's length, or the repository is damaged.
fn slice_of(block: &Block, range: Range<usize>) -> Result<Bytes, DiskError> {
    if range.end > block.bytes().len() {
        return Err(DiskError::Corrupt(format!("length of block {}", block.hash())));
    }
    Ok(block.bytes().slice(range))
}

/// The only place where a repository's error becomes a disk's.
fn from_repo(error: Arc<RepoError>, at: u64) -> DiskError {
    match &*error {
        RepoError::Corrupt { .. } => {
            DiskError::Corrupt(format!("recovery point at byte {at}: {error}"))
        }
        RepoError::Unavailable { .. }
        | RepoError::Cold { .. }
        | RepoError::Full
        | RepoError::NotFound { .. }
        | RepoError::Refused { .. }
        | RepoError::Locked { .. }
        | RepoError::Cancelled => {
            DiskError::Unavailable { verb: "read recovery point", source: error }
        }
    }
}
