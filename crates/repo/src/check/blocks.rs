use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::findings::Look;
use super::run::Run;
use crate::RepoError;
use crate::map::BlockRef;
use crate::store::Store;

/// Threads that read: as many as there are cores, and on S3, where most of the time is spent waiting, so many.
const THREADS_S3: usize = 16;
const MAX_THREADS: usize = 16;

impl Run<'_> {
    /// Reads and verifies blocks on several threads.
    pub(super) fn blocks(&self, blocks: &[BlockRef]) -> Result<(), RepoError> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.block(block) {
                    next.store(blocks.len(), Ordering::Relaxed);
                    *failure.lock() = Some(error);
                }
            }
        };
        let threads = match &self.store {
            Store::Local(_) => thread::available_parallelism().map_or(1, usize::from),
            Store::S3(_) => THREADS_S3,
        };
        thread::scope(|scope| {
            for _ in 1..threads.min(MAX_THREADS).min(blocks.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn block(&self, block: &BlockRef) -> Result<(), RepoError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(RepoError::Cancelled);
        }
        if let Look::Done = self.findings.lock().look(block) {
            return Ok(());
        }
        self.pace.wait(block.stored_len.into(), &|| self.cancel.load(Ordering::Relaxed))?;
        let (store, seal) = (&self.store, self.repository.seal());
        let read = store.read_block_blocking(seal, block);
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
