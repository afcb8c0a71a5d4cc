use std::ops::Range;
use std::sync::Arc;

use rekindle_block::{Block, BlockHash, BlockIdx, BlockSize, is_zero};
use rekindle_disk::Segments;
use rekindle_repo::MapEntry;

use super::{BlockSet, Done, Mover, Sample, Source, copy, indices, stored};
use crate::{JobError, failure};

/// What a block of a copy must be.
enum Expected {
    /// So many bytes of this hash, zeros behind.
    Point {
        hash: BlockHash,
        len: usize,
    },
    Zero,
    /// These bytes of the recovery point, zeros behind.
    Bytes(Block),
    /// These bytes.
    Disk(Segments),
}

/// Compares a whole copy, or a sample of it. Returns blocks that the guest has written to and that differ.
pub(super) async fn disk(
    mover: &Mover<'_>,
    source: &Source,
    sample: Option<Arc<Sample>>,
) -> Result<Vec<BlockIdx>, JobError> {
    let size = source.map.block_size();
    let written = source.disk.written(0).map(|written| written.range);
    let written = Arc::new(BlockSet::touched(size, written));
    let end = source.disk.size();
    let copied = source.clone();
    let work = move |piece: Range<u64>| {
        let (source, written, sample) = (copied.clone(), written.clone(), sample.clone());
        async move {
            let Some(sample) = sample else {
                return compare(&source, piece, |idx| written.contains(idx)).await;
            };
            let mut all = Done { result: Vec::new(), bytes: 0 };
            for part in sample.ranges(piece) {
                let done = compare(&source, part, |idx| written.contains(idx)).await?;
                all.result.extend(done.result);
                all.bytes += done.bytes;
            }
            Ok(all)
        }
    };
    let found = mover.each_piece(0..end, work).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Compares these ranges with the disk, whose guest's writes are held. Nothing may differ.
pub(super) async fn ranges(
    mover: &Mover<'_>,
    source: &Source,
    ranges: &[Range<u64>],
) -> Result<(), JobError> {
    for range in ranges {
        let copied = source.clone();
        let work = move |piece: Range<u64>| {
            let source = copied.clone();
            async move { compare(&source, piece, |_| true).await }
        };
        let differ = mover.each_piece(range.clone(), work).await?;
        if let Some(idx) = differ.into_iter().flatten().next() {
            return Err(differs(idx, source.map.block_size()));
        }
    }
    Ok(())
}

/// Blocks that differed must have been written to since, and so be in what is copied now.
pub(super) fn explain(
    source: &Source,
    suspects: &[BlockIdx],
    ranges: &[Range<u64>],
) -> Result<(), JobError> {
    let size = source.map.block_size();
    let changed = BlockSet::touched(size, ranges.iter().cloned());
    match suspects.iter().find(|idx| !changed.contains(**idx)) {
        Some(idx) => Err(differs(*idx, size)),
        None => Ok(()),
    }
}

fn differs(idx: BlockIdx, size: BlockSize) -> JobError {
    JobError::Corrupt {
        what: "verify the destination".into(),
        source: anyhow::anyhow!("it differs at byte {}", idx.0 * size.bytes()),
    }
}

/// Reads a piece of the copy back and compares it, block by block. A block of the recovery point
/// that differs is an error; blocks that the guest has written to are returned.
async fn compare(
    source: &Source,
    piece: Range<u64>,
    by_disk: impl Fn(BlockIdx) -> bool,
) -> Result<Done<Vec<BlockIdx>>, JobError> {
    let size = source.map.block_size();
    let mut blocks = Vec::new();
    for idx in indices(size.touched(piece.clone())) {
        let start = (idx.0 * size.bytes()).max(piece.start);
        let range = start..((idx.0 + 1) * size.bytes()).min(piece.end);
        let expected = match by_disk(idx) {
            true => Expected::Disk(copy::read_merged(source, range.clone()).await?),
            false => match stored::entry(&source.map, idx).await? {
                MapEntry::Zero => Expected::Zero,
                // It is called by its place: nobody has hashed it.
                MapEntry::Stored(block) if block.hash().is_place() => {
                    let read = source.map.read_block(&block).await;
                    Expected::Bytes(read.map_err(|e| failure::repo("read the recovery point", e))?)
                }
                MapEntry::Stored(block) => {
                    Expected::Point { hash: block.hash(), len: block.plain_len() as usize }
                }
            },
        };
        blocks.push((idx, range, expected));
    }
    let image = source.image.clone();
    failure::blocking(move || {
        let (mut differ, mut bytes) = (Vec::new(), 0);
        for (idx, range, expected) in blocks {
            if !matches!(expected, Expected::Zero) {
                bytes += range.end - range.start;
            }
            let hole = matches!(expected, Expected::Zero) && image.is_hole(&range);
            let same = hole || expected.holds(&image.read_back(range).map_err(read_failed)?);
            match expected {
                Expected::Point { .. } | Expected::Zero | Expected::Bytes(_) if !same => {
                    return Err(differs(idx, size));
                }
                Expected::Disk(_) if !same => differ.push(idx),
                Expected::Point { .. }
                | Expected::Zero
                | Expected::Bytes(_)
                | Expected::Disk(_) => {}
            }
        }
        Ok(Done { result: differ, bytes })
    })
    .await
}

fn read_failed(error: std::io::Error) -> JobError {
    JobError::io("read the destination back", error)
}

impl Expected {
    fn holds(&self, found: &[u8]) -> bool {
        match self {
            Self::Zero => is_zero(found),
            Self::Point { hash, len } => {
                let (block, behind) = found.split_at((*len).min(found.len()));
                BlockHash::of(block) == *hash && is_zero(behind)
            }
            Self::Bytes(block) => {
                let (head, behind) = found.split_at(block.bytes().len().min(found.len()));
                head == block.bytes() && is_zero(behind)
            }
            Self::Disk(segments) => {
                let mut rest = found;
                segments.iter().all(|bytes| {
                    let (head, tail) = rest.split_at(bytes.len().min(rest.len()));
                    rest = tail;
                    head == bytes.as_ref()
                }) && rest.is_empty()
            }
        }
    }
}
