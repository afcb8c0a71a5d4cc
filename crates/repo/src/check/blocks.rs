use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use rekindle_block::Block;

use super::findings::Look;
use super::run::Run;
use crate::RepoError;
use crate::codec::open_block;
use crate::map::BlockRef;
use crate::run::{Part, parts};
use crate::store::{Store, pack_object};

/// Threads that read: as many as there are cores, and on S3, where most of the time is spent waiting, so many. Each holds
/// [`crate::RUN_BYTES`] at most.
const THREADS_S3: usize = 16;
const MAX_THREADS: usize = 16;

impl Run<'_> {
    /// Reads and verifies blocks on several threads. What lies side by side in a pack beyond the network is one read.
    pub(super) fn blocks(&self, blocks: &[BlockRef]) -> Result<(), RepoError> {
        let mut needed = self.needed(blocks);
        needed.sort_unstable_by_key(|block| (block.pack, block.offset));
        needed.dedup_by_key(|block| (block.pack, block.offset, block.hash));
        let parts = match &self.store {
            Store::Local(_) => needed.iter().enumerate().map(Part::of_one).collect(),
            Store::S3(_) => parts(&needed),
        };
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.part(part, &needed[part.blocks.clone()]) {
                    next.store(parts.len(), Ordering::Relaxed);
                    *failure.lock() = Some(error);
                }
            }
        };
        let threads = match &self.store {
            Store::Local(_) => thread::available_parallelism().map_or(1, usize::from),
            Store::S3(_) => THREADS_S3,
        };
        thread::scope(|scope| {
            for _ in 1..threads.min(MAX_THREADS).min(parts.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    /// Those that were not read yet.
    fn needed(&self, blocks: &[BlockRef]) -> Vec<BlockRef> {
        let mut findings = self.findings.lock();
        let needed = blocks.iter().filter(|block| matches!(findings.look(block), Look::Needed));
        needed.copied().collect()
    }

    fn part(&self, part: &Part, blocks: &[BlockRef]) -> Result<(), RepoError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(RepoError::Cancelled);
        }
        // Its pack may have turned out to be cold meanwhile.
        let blocks = self.needed(blocks);
        if blocks.is_empty() {
            return Ok(());
        }
        self.pace
            .wait(part.range.end - part.range.start, &|| self.cancel.load(Ordering::Relaxed))?;
        let whole = match blocks.len() {
            1 => None,
            _ => match self.store.read_range_blocking(
                &pack_object(part.pack),
                part.range.clone(),
                Ok,
            ) {
                Err(error @ (RepoError::Unavailable { .. } | RepoError::Cancelled)) => {
                    return Err(error);
                }
                Err(RepoError::Cold { .. }) => {
                    self.findings.lock().is_cold(part.pack);
                    return Ok(());
                }
                // Each tells by itself what is wrong with it.
                read => read.ok(),
            },
        };
        blocks.iter().try_for_each(|block| {
            let stored = whole.as_ref().and_then(|whole| whole.get(part.place_of(block)));
            self.block(block, stored)
        })
    }

    /// Verifies a block, `stored` or read by itself. What was hurt on its way is read again before it counts as damaged.
    fn block(&self, block: &BlockRef, stored: Option<&[u8]>) -> Result<(), RepoError> {
        let (store, seal) = (&self.store, self.repository.seal());
        let opened = stored.and_then(|stored| open_block(seal, block, stored.to_vec()).ok());
        let read: Result<Block, _> = match opened {
            Some(block) => Ok(block),
            None => store.read_block_blocking(seal, block),
        };
        let mut findings = self.findings.lock();
        match read {
            Ok(_) => findings.is_sound(block),
            Err(RepoError::Cold { .. }) => findings.is_cold(block.pack),
            Err(error @ (RepoError::Corrupt { .. } | RepoError::NotFound { .. })) => {
                findings.is_bad(block, error.to_string());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
