//! Boot profiles at work: replayed once a recovery's disks are open, recorded in its first minutes.
//!
//! # Bounds
//!
//! A replay has 32 blocks under way, each with a place in the cache's schedule, and ends when the ring
//! is full. A recording holds what [`rekindle_disk::TOUCHES_MAX`] says, per disk.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, stream};
use rekindle_block::BlockIdx;
use rekindle_cache::Priority;
use rekindle_disk::{Disk, Recording};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use crate::env::Env;
use crate::journal::{Record, unavailable};
use crate::live::Point;
use crate::profile::{Profile, Seen};
use crate::profiles::{key, of_sibling, stored};
use crate::{JobError, Mode, failure};

/// Blocks of a replay under way at once.
const REPLAYS_AT_ONCE: usize = 32;
/// Blocks that are brought by one read at most: 2 MiB with blocks of 256 KiB.
const RUN_MAX: u64 = 8;
/// Fewer first touches than these are no boot: somebody looked at a file.
const TOUCHES_MIN: usize = 4;

/// A boot under way. Dropped, the replay ends, and what was recorded so far is kept.
pub(crate) struct Boot {
    _end: DropGuard,
    /// They go on after the first minutes: the mover follows what the guest touches.
    _recordings: Arc<Vec<Recording>>,
}

/// A VM's disks, with the names of their profiles.
struct Vm {
    env: Arc<Env>,
    point: Arc<Point>,
    disks: Vec<Arc<Disk>>,
    keys: Vec<String>,
}

impl Boot {
    /// Begins to record what the guest touches, and to bring what it touched before. `None` for a
    /// job whose guest does not boot from its disks.
    pub(crate) fn start(
        env: &Arc<Env>,
        record: &Record,
        point: &Arc<Point>,
        disks: &[Arc<Disk>],
    ) -> Option<Self> {
        let boots = match record.request.mode {
            Mode::LiveRecovery | Mode::LiveMount => true,
            Mode::DiskOnly | Mode::FullRestore => false,
        };
        if !boots || env.config.boot_profile.is_zero() {
            return None;
        }
        let vm = &point.manifest.vm.id;
        let vm = Arc::new(Vm {
            env: env.clone(),
            point: point.clone(),
            disks: disks.to_vec(),
            keys: record.disks.iter().map(|disk| key(vm, &disk.key)).collect(),
        });
        let end = env.closing.child_token();
        let recordings: Vec<Recording> = disks.iter().map(|disk| disk.record_touches()).collect();
        let recordings = Arc::new(recordings);
        let (replayed, ended) = (vm.clone(), end.clone());
        let replay = async move {
            let replay = replayed.replay();
            match ended.run_until_cancelled(replay).await {
                None | Some(Ok(())) => {}
                // Guests read what they need all the same.
                Some(Err(error)) => tracing::warn!("does not replay the boot profile: {error}"),
            }
        };
        env.background.spawn(replay.in_current_span());
        env.background.spawn(vm.record(recordings.clone(), end.clone()).in_current_span());
        Some(Self { _end: end.drop_guard(), _recordings: recordings })
    }
}

impl Vm {
    /// Brings what the guest touched first in earlier runs into the cache, in that order.
    async fn replay(&self) -> Result<(), JobError> {
        let mut wanted: Vec<(u32, usize, BlockIdx)> = Vec::new();
        for at in 0..self.disks.len() {
            let profile = self.profile(at).await?;
            wanted.extend(profile.blocks().map(|(when, block)| (when, at, block)));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        wanted.retain(|(_, at, block)| block.0 < self.disks[*at].blocks());
        let room = AtomicU64::new(self.env.cache.stats().ring_capacity_now);
        let under_way = Semaphore::new(REPLAYS_AT_ONCE);
        let bring = |(at, run): (usize, Range<BlockIdx>)| {
            let (disk, room, under_way) = (&self.disks[at], &room, &under_way);
            async move {
                // Fails only for a closed semaphore, and this is never closed.
                let _places = under_way.acquire_many((run.end.0 - run.start.0) as u32).await.ok();
                if room.load(Ordering::Relaxed) == 0 {
                    return Ok(0);
                }
                let bytes = disk.warm_run(run, Priority::Profile).await?;
                let less = |room: u64| Some(room.saturating_sub(bytes));
                let _ = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                Ok(bytes)
            }
        };
        let (blocks, mut bytes) = (wanted.len(), 0);
        let mut brought = stream::iter(runs(wanted)).map(bring).buffer_unordered(REPLAYS_AT_ONCE);
        while let Some(more) = brought.next().await {
            bytes += more.map_err(|e| failure::disk("read the recovery point", e))?;
        }
        tracing::info!(blocks, bytes, "boot profile replayed");
        Ok(())
    }

    /// The profile of the disk, or else of the disk that is most like it; an empty one if there is
    /// neither.
    async fn profile(&self, at: usize) -> Result<Profile, JobError> {
        let own = self.load(self.keys[at].clone()).await?;
        if let Some(own) = own.filter(|profile| !profile.is_empty()) {
            return Ok(own);
        }
        let (env, own) = (self.env.clone(), self.keys[at].clone());
        let siblings =
            failure::blocking(move || env.profiles.siblings(&own).map_err(unavailable)).await?;
        match of_sibling(&siblings, &self.point.maps[at]).await {
            Some(sibling) => {
                tracing::info!(
                    disk = self.keys[at],
                    sibling,
                    "no boot profile yet: has a sibling's"
                );
                Ok(self.load(sibling).await?.unwrap_or_default())
            }
            None => Ok(Profile::default()),
        }
    }

    async fn load(&self, key: String) -> Result<Option<Profile>, JobError> {
        let env = self.env.clone();
        failure::blocking(move || env.profiles.get(&key).map_err(unavailable)).await
    }

    /// Keeps what the guest touches until the time is over or the boot ends.
    async fn record(self: Arc<Self>, recordings: Arc<Vec<Recording>>, end: CancellationToken) {
        let minutes = self.env.config.boot_profile;
        // Either way what was recorded is kept.
        let _ = end.run_until_cancelled(tokio::time::sleep(minutes)).await;
        let touches: Vec<_> = recordings.iter().map(Recording::touches).collect();
        drop(recordings);
        if touches.iter().map(Vec::len).sum::<usize>() < TOUCHES_MIN {
            return;
        }
        for ((key, map), touches) in self.keys.iter().zip(&self.point.maps).zip(touches) {
            let mut run = Vec::with_capacity(touches.len());
            for touch in touches {
                if let Some(hash) = stored(map, touch.block).await {
                    run.push(Seen { block: touch.block, hash, after: touch.after });
                }
            }
            let (env, key) = (self.env.clone(), key.clone());
            let kept =
                failure::blocking(move || env.profiles.merge(&key, &run).map_err(unavailable))
                    .await;
            if let Err(error) = kept {
                tracing::warn!("does not keep the boot profile: {error}");
            }
        }
    }
}

/// Neighbours together, as early as the first of them is wanted.
fn runs(mut wanted: Vec<(u32, usize, BlockIdx)>) -> Vec<(usize, Range<BlockIdx>)> {
    wanted.sort_unstable();
    let mut left: BTreeSet<(usize, u64)> = wanted.iter().map(|(_, at, idx)| (*at, idx.0)).collect();
    let mut runs = Vec::new();
    for (_, at, BlockIdx(block)) in wanted {
        if !left.remove(&(at, block)) {
            continue;
        }
        let mut run = block..block + 1;
        while run.end - run.start < RUN_MAX && left.remove(&(at, run.end)) {
            run.end += 1;
        }
        while run.end - run.start < RUN_MAX && run.start > 0 && left.remove(&(at, run.start - 1)) {
            run.start -= 1;
        }
        runs.push((at, BlockIdx(run.start)..BlockIdx(run.end)));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_brought_together_when_the_first_of_them_is_wanted() {
        let wanted = |blocks: &[(u32, usize, u64)]| {
            let wanted = blocks.iter().map(|(when, at, block)| (*when, *at, BlockIdx(*block)));
            let runs = runs(wanted.collect()).into_iter();
            runs.map(|(at, run)| (at, run.start.0..run.end.0)).collect::<Vec<_>>()
        };
        assert_eq!(
            wanted(&[(5, 0, 7), (1, 0, 8), (2, 1, 9), (9, 0, 9), (3, 0, 100), (4, 0, 0)]),
            [(0, 7..10), (1, 9..10), (0, 100..101), (0, 0..1)]
        );
        let many: Vec<_> = (0..20).map(|block| (0, 0, block)).collect();
        assert_eq!(wanted(&many), [(0, 0..8), (0, 8..16), (0, 16..20)]);
        assert_eq!(wanted(&[(0, 0, 3), (1, 0, 3)]), [(0, 3..4)]);
    }
}
