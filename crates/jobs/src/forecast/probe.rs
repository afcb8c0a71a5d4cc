//! A look at how fast a repository answers.

use std::time::{Duration, Instant};

use rekindle_block::BlockIdx;
use rekindle_repo::{DiskMap, MapEntry};
use tokio::task::JoinSet;

/// Blocks that are read: at the usual 256 KiB each, 4 MiB.
const BLOCKS: u64 = 16;
/// Entries that are looked at for them.
const LOOKS: u64 = 256;
/// How long it may take; what has come by then counts.
const WITHIN: Duration = Duration::from_secs(3);

/// Bytes per second of the repository, from some blocks all over a disk, `parallel` at a time. `None`
/// if none could be read in time, or the disk is empty.
pub(crate) async fn probe(map: &DiskMap, parallel: usize) -> Option<u64> {
    let began = Instant::now();
    let mut bytes = 0u64;
    let read = read(map, parallel, &mut bytes);
    // Late or not, what was read was read in that time.
    let _ = tokio::time::timeout(WITHIN, read).await;
    let micros = began.elapsed().as_micros().max(1);
    (bytes > 0).then(|| u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX))
}

async fn read(map: &DiskMap, parallel: usize, bytes: &mut u64) {
    let all = map.block_size().count(map.size());
    let stride = all.div_ceil(LOOKS).max(1);
    let mut found = 0;
    let mut reads = JoinSet::new();
    for at in (0..all).step_by(usize::try_from(stride).unwrap_or(usize::MAX)) {
        if found == BLOCKS {
            break;
        }
        let Ok(MapEntry::Stored(block)) = map.entry(BlockIdx(at)).await else { continue };
        found += 1;
        let map = map.clone();
        reads.spawn(async move { map.read_block(&block).await.map(|_| block.plain_len()) });
        if reads.len() >= parallel.max(1) {
            take(&mut reads, bytes).await;
        }
    }
    while !reads.is_empty() {
        take(&mut reads, bytes).await;
    }
}

/// A block that cannot be read tells nothing: whoever recovers meets the error.
async fn take<E: 'static>(reads: &mut JoinSet<Result<u32, E>>, bytes: &mut u64) {
    if let Some(Ok(Ok(len))) = reads.join_next().await {
        *bytes += u64::from(len);
    }
}
