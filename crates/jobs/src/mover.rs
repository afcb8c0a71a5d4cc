//! Reads the whole of a VM's disks in the background: into the cache, or to a directory.
//!
//! # Bounds
//!
//! [`MOVER_PIECE`] bytes times [`crate::MoverConfig::parallel`] in flight, twice while verifying: 32 MiB by
//! default. One bit per block of a disk to remember what was written: 512 KiB per TiB.

mod blocks;
mod copy;
mod image;
mod order;
mod resume;
mod sample;
mod stored;
mod tables;
mod verify;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rekindle_block::BlockIdx;
use rekindle_cache::{Cache, Priority};
use rekindle_disk::{ChangeTracker, Disk};
use rekindle_repo::{DiskMap, MapEntry};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::env::Env;
use crate::progress::{Limiter, Meter};
use crate::{Compared, JobError, Phase, Verification, failure};
pub(crate) use blocks::BlockSet;
pub(crate) use image::{Image, ImageId};
use order::Order;
pub(crate) use resume::Resume;
pub(crate) use sample::Sample;

/// Bytes that are moved at a time: a multiple of every block size.
pub const MOVER_PIECE: u64 = 4 << 20;

/// A disk, and the file that it is copied to.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) disk: Arc<Disk>,
    pub(crate) map: DiskMap,
    pub(crate) image: Arc<Image>,
    pub(crate) cache: Arc<Cache>,
}

/// The mover of one job.
pub(crate) struct Mover<'a> {
    meter: &'a Meter,
    limiter: Arc<Limiter>,
    low_priority: &'a Handle,
    parallel: usize,
    settle_below: u64,
    max_passes: usize,
    note_every: Duration,
}

impl<'a> Mover<'a> {
    pub(crate) fn new(env: &'a Env, meter: &'a Meter) -> Self {
        let config = &env.config.mover;
        Self {
            meter,
            limiter: Arc::new(Limiter::new(env.job_limit.clone())),
            low_priority: &env.low_priority,
            parallel: config.parallel.max(1),
            settle_below: config.settle_below_bytes,
            max_passes: config.max_passes,
            note_every: config.note_every,
        }
    }

    /// Copies all disks while their guest runs: the recovery point, then what the guest wrote over
    /// it, then what it wrote meanwhile, until little is left. The files are durable afterwards.
    pub(crate) async fn copy(
        &self,
        sources: &[Source],
        trackers: &[ChangeTracker],
        mut resume: Resume,
    ) -> Result<(), JobError> {
        let working = self.meter.begin(Phase::Copy, to_do(sources).await?);
        for (at, source) in sources.iter().enumerate() {
            copy::point(self, source, at, &mut resume).await?;
            copy::ranges(self, source, &copy::written_to(source)).await?;
        }
        drop(working);
        self.copy_changes(sources, trackers).await?;
        for source in sources {
            copy::sync(source).await?;
        }
        Ok(())
    }

    /// Pass after pass over what changed, as long as each leaves less to the next.
    async fn copy_changes(
        &self,
        sources: &[Source],
        trackers: &[ChangeTracker],
    ) -> Result<(), JobError> {
        let mut before = u64::MAX;
        for _ in 0..self.max_passes {
            let changed: Vec<Vec<Range<u64>>> = trackers.iter().map(ChangeTracker::take).collect();
            let bytes = changed.iter().flatten().map(|range| range.end - range.start).sum();
            let _working = self.meter.begin(Phase::Copy, bytes);
            for (source, ranges) in sources.iter().zip(&changed) {
                copy::ranges(self, source, ranges).await?;
            }
            if bytes <= self.settle_below || bytes >= before {
                break;
            }
            before = bytes;
        }
        Ok(())
    }

    /// Reads the copies back and compares: what the guest never wrote with the recovery point's own
    /// hashes, the rest with the disk; all of them, or a sample. Blocks of the rest that differ are returned, per disk: the
    /// guest must have written to them meanwhile.
    pub(crate) async fn verify(
        &self,
        sources: &[Source],
        how: Verification,
    ) -> Result<(Vec<Vec<BlockIdx>>, Compared), JobError> {
        let how = how.seeded()?;
        let mut samples = Vec::with_capacity(sources.len());
        for (at, source) in sources.iter().enumerate() {
            samples.push(sample(&source.disk, at, how).await?.map(Arc::new));
        }
        let of_bytes = sources.iter().map(|source| source.disk.size()).sum();
        let each = sources.iter().zip(&samples);
        let of = |(source, sample): (&Source, &Option<Arc<Sample>>)| {
            sample.as_ref().map_or(source.disk.size(), |sample| sample.bytes())
        };
        let bytes: u64 = each.map(of).sum();
        let _working = self.meter.begin(Phase::Verify, to_compare(sources).await?.min(bytes));
        let mut suspects = Vec::with_capacity(sources.len());
        for (source, sample) in sources.iter().zip(samples) {
            suspects.push(verify::disk(self, source, sample).await?);
        }
        Ok((suspects, Compared { how, bytes, of_bytes }))
    }

    /// The last pass: writes are held. Copies what changed since the pass before, or all that was
    /// ever written when that is not known, makes it durable, and compares it.
    pub(crate) async fn settle(
        &self,
        sources: &[Source],
        trackers: &[ChangeTracker],
        suspects: &[Vec<BlockIdx>],
    ) -> Result<(), JobError> {
        let known = trackers.len() == sources.len();
        let rest: Vec<Vec<Range<u64>>> = match known {
            true => trackers.iter().map(ChangeTracker::take).collect(),
            false => sources.iter().map(copy::written_to).collect(),
        };
        let bytes: u64 = rest.iter().flatten().map(|range| range.end - range.start).sum();
        let _working = self.meter.begin(Phase::Settle, bytes.saturating_mul(2));
        for (at, (source, ranges)) in sources.iter().zip(&rest).enumerate() {
            verify::explain(source, suspects.get(at).map_or(&[], Vec::as_slice), ranges)?;
            copy::ranges(self, source, ranges).await?;
            copy::sync(source).await?;
            verify::ranges(self, source, ranges).await?;
        }
        Ok(())
    }

    /// Does `work` on every piece of `range`, several at a time, and shows how many bytes it did. The
    /// first error ends it.
    async fn each_piece<T, F>(
        &self,
        range: Range<u64>,
        work: impl Fn(Range<u64>) -> F,
    ) -> Result<Vec<T>, JobError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Done<T>, JobError>> + Send + 'static,
    {
        let mut running = JoinSet::new();
        let mut results = Vec::new();
        for piece in pieces(range) {
            let bytes = piece.end - piece.start;
            while running.len() >= self.parallel {
                results.extend(finish_one(&mut running, self.meter).await?);
            }
            let (limiter, work) = (self.limiter.clone(), work(piece));
            let moved = failure::part(async move {
                limiter.take(bytes).await;
                work.await
            });
            running.spawn_on(moved, self.low_priority);
        }
        while !running.is_empty() {
            results.extend(finish_one(&mut running, self.meter).await?);
        }
        Ok(results)
    }
}

/// What is compared of the disk with the number `at`; `None` for all of it.
pub(crate) async fn sample(
    disk: &Disk,
    at: usize,
    how: Verification,
) -> Result<Option<Sample>, JobError> {
    let Some((sampling, seed)) = how.sampling() else { return Ok(None) };
    let read = |range: Range<u64>| async move {
        let read = disk.read(range, Priority::Mover).await;
        Ok(read.map_err(|e| failure::disk("read the partition table", e))?.concat())
    };
    let tables = tables::tables(disk.size(), read).await?;
    let written = disk.written(0).map(|written| written.range);
    let always = tables.into_iter().chain(written);
    Ok(Some(Sample::choose(disk.size(), disk.block_size(), (sampling, seed, at), always)))
}

/// What came of a piece.
struct Done<T> {
    result: T,
    /// Bytes of it that took work: no zeros of the recovery point.
    bytes: u64,
}

async fn finish_one<T: 'static>(
    running: &mut JoinSet<Result<Done<T>, JobError>>,
    meter: &Meter,
) -> Result<Option<T>, JobError> {
    let Some(joined) = running.join_next().await else { return Ok(None) };
    let done = failure::joined(std::future::ready(joined)).await?;
    meter.add(done.bytes);
    Ok(Some(done.result))
}

/// Bytes of disks that take work: what the recovery point stores and what the guest wrote. Zeros take
/// none, so that what is left is told from what was done.
async fn to_do(sources: &[Source]) -> Result<u64, JobError> {
    let mut bytes = 0u64;
    for source in sources {
        let written = copy::written_to(source).into_iter().map(|range| range.end - range.start);
        bytes =
            bytes.saturating_add(stored::bytes(&source.map).await?).saturating_add(written.sum());
    }
    Ok(bytes)
}

/// Bytes of disks that are no zeros of the recovery point, with what the guest wrote over what is stored once: what a copy
/// takes where holes take nothing.
pub(crate) async fn data_bytes(disks: &[Arc<Disk>], maps: &[DiskMap]) -> Result<u64, JobError> {
    let mut bytes = 0u64;
    for (disk, map) in disks.iter().zip(maps) {
        bytes = bytes.saturating_add(data_of(disk, map).await?);
    }
    Ok(bytes)
}

async fn data_of(disk: &Disk, map: &DiskMap) -> Result<u64, JobError> {
    let (mut bytes, unit) = (stored::bytes(map).await?, map.block_size());
    for range in copy::written(disk, unit.bytes()) {
        for idx in indices(unit.touched(range)) {
            if stored::entry(map, idx).await? == MapEntry::Zero {
                bytes = bytes.saturating_add(unit.bytes());
            }
        }
    }
    Ok(bytes.min(disk.size()))
}

/// `range`, cut where pieces end.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = ((at / MOVER_PIECE + 1) * MOVER_PIECE).min(range.end);
        (at < range.end).then(|| std::mem::replace(&mut at, end)..end)
    })
}

/// Bytes of disks that are compared.
async fn to_compare(sources: &[Source]) -> Result<u64, JobError> {
    let mut bytes = 0u64;
    for source in sources {
        bytes = bytes.saturating_add(data_of(&source.disk, &source.map).await?);
    }
    Ok(bytes)
}

/// Reads a VM's blocks into the cache's ring, as far as it has room: what is pruned before it is
/// used was read for nothing. What lies around the guest's first touches goes first. Blocks that are
/// in the cache, from before a restart perhaps, are not read again.
pub(crate) async fn warm(
    env: &Env,
    disks: &[Arc<Disk>],
    maps: &[DiskMap],
    meter: &Meter,
) -> Result<(), JobError> {
    let mover = Mover::new(env, meter);
    let mut to_do = 0u64;
    for map in maps {
        to_do = to_do.saturating_add(stored::bytes(map).await?);
    }
    let _working = meter.begin(Phase::Warm, to_do);
    let mut room = env.cache.stats().ring_capacity_now;
    let mut orders: Vec<Order> = maps.iter().map(|map| Order::new(map.size())).collect();
    while let Some((at, range)) = next(&mut orders, disks) {
        if room == 0 {
            return Ok(());
        }
        let (disk, map) = (disks[at].clone(), maps[at].clone());
        let work = move |piece| warm_piece(disk.clone(), map.clone(), piece);
        for stored in stored::runs(&maps[at], range).await? {
            let warmed: u64 = mover.each_piece(stored, &work).await?.into_iter().sum();
            room = room.saturating_sub(warmed);
        }
    }
    Ok(())
}

/// What is read next, and of which disk.
fn next(orders: &mut [Order], disks: &[Arc<Disk>]) -> Option<(usize, Range<u64>)> {
    for (order, disk) in orders.iter_mut().zip(disks) {
        let block = disk.block_size().bytes();
        order.see(disk.touched(order.seen()).into_iter().map(|idx| idx.0 * block));
    }
    let hot = |(at, order): (usize, &mut Order)| Some((at, order.hot()?));
    let rest = |(at, order): (usize, &mut Order)| Some((at, order.rest()?));
    let found = orders.iter_mut().enumerate().find_map(hot);
    found.or_else(|| orders.iter_mut().enumerate().find_map(rest))
}

async fn warm_piece(
    disk: Arc<Disk>,
    map: DiskMap,
    piece: Range<u64>,
) -> Result<Done<u64>, JobError> {
    let warmed = disk.warm_run(map.block_size().touched(piece), Priority::Mover).await;
    let bytes = warmed.map_err(|e| failure::disk("read the recovery point", e))?;
    Ok(Done { result: bytes, bytes })
}

/// Every block of a range of blocks.
fn indices(range: Range<BlockIdx>) -> impl Iterator<Item = BlockIdx> {
    (range.start.0..range.end.0).map(BlockIdx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_tile_a_range() {
        for (start, end) in [(0, 0), (0, 1), (5, MOVER_PIECE + 1), (MOVER_PIECE, 3 * MOVER_PIECE)] {
            let mut at = start;
            for piece in pieces(start..end) {
                assert_eq!(piece.start, at);
                assert!(piece.end > piece.start);
                assert_eq!(piece.start / MOVER_PIECE, (piece.end - 1) / MOVER_PIECE);
                at = piece.end;
            }
            assert_eq!(at, end.max(start));
        }
    }
}
