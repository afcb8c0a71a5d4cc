use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use rekindle_image::{Checksums, SourceFile};

use super::source::refuse;
use crate::RepoError;

/// Compares the files of an OVF package with the checksums in its manifest, on a thread beside the ingest: what both
/// read comes from the device once, as far as the page cache reaches. Dropped, it ends.
pub(super) struct Verification<'scope> {
    stop: &'scope AtomicBool,
    thread: Option<ScopedJoinHandle<'scope, Result<(), RepoError>>>,
}

impl<'scope> Verification<'scope> {
    /// Begins with `files`, until `stop` or `cancel` is set; without checksums there is nothing to compare.
    pub(super) fn start(
        scope: &'scope Scope<'scope, '_>,
        package: Option<(Checksums, Vec<SourceFile>)>,
        stop: &'scope AtomicBool,
        cancel: &'scope AtomicBool,
    ) -> Self {
        let goes_on = || !stop.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed);
        let thread = package.map(|(checksums, files)| {
            scope.spawn(move || {
                files.iter().try_for_each(|file| match checksums.check(file, goes_on) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(RepoError::Cancelled),
                    Err(error) => Err(refuse(error)),
                })
            })
        });
        Self { stop, thread }
    }

    /// The error, as soon as one was found.
    pub(super) fn check_so_far(&mut self) -> Result<(), RepoError> {
        match self.thread.as_ref().is_some_and(ScopedJoinHandle::is_finished) {
            true => self.finish(),
            false => Ok(()),
        }
    }

    /// Waits until all files were compared.
    pub(super) fn finish(&mut self) -> Result<(), RepoError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| {
            let source = anyhow::anyhow!("the thread panicked");
            Err(RepoError::Unavailable { what: "verify checksums".into(), source })
        })
    }
}

impl Drop for Verification<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
