use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};
use rekindle_block::BlockIdx;
use rekindle_repo::{DiskMap, MapEntry};

use super::{indices, pieces};
use crate::{JobError, failure};

/// Blocks that are looked up in a row: as many as a page of a map has.
const ROW: u64 = 512;
/// Rows that are looked up at once. A map far away answers some 16 MiB of pages a second.
const ROWS_AT_ONCE: usize = 16;

/// Bytes of the blocks that a recovery point stores of a disk, before compression.
pub(super) async fn bytes(map: &DiskMap) -> Result<u64, JobError> {
    let blocks = map.block_size().count(map.size());
    let rows = stream::iter(0..blocks.div_ceil(ROW));
    let rows = rows.map(|row| row_bytes(map, row * ROW..((row + 1) * ROW).min(blocks)));
    rows.buffer_unordered(ROWS_AT_ONCE)
        .try_fold(0u64, |sum, bytes| async move { Ok(sum.saturating_add(bytes)) })
        .await
}

async fn row_bytes(map: &DiskMap, row: Range<u64>) -> Result<u64, JobError> {
    let mut bytes = 0;
    for idx in row {
        if let MapEntry::Stored(block) = entry(map, BlockIdx(idx)).await? {
            bytes += u64::from(block.plain_len());
        }
    }
    // A disk of 62 TiB has half a million rows, and others want to run.
    tokio::task::yield_now().await;
    Ok(bytes)
}

/// The pieces of `range` that are not all zero, gathered into runs. The others cost neither a task
/// nor a share of any limit, so that an empty disk of 62 TiB takes seconds.
pub(super) async fn runs(map: &DiskMap, range: Range<u64>) -> Result<Vec<Range<u64>>, JobError> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for piece in pieces(range) {
        if all_zero(map, piece.clone()).await? {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == piece.start => run.end = piece.end,
            _ => runs.push(piece),
        }
    }
    Ok(runs)
}

async fn all_zero(map: &DiskMap, piece: Range<u64>) -> Result<bool, JobError> {
    for idx in indices(map.block_size().touched(piece)) {
        if entry(map, idx).await? != MapEntry::Zero {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a block is, from memory if that is known.
pub(super) async fn entry(map: &DiskMap, idx: BlockIdx) -> Result<MapEntry, JobError> {
    if let Some(entry) = map.try_entry(idx) {
        return Ok(entry);
    }
    map.entry(idx).await.map_err(|e| failure::repo("read the disk's map", e))
}
