//! A repository in a bucket.
//!
//! # Consistency
//!
//! Objects are created with `If-None-Match: *` and never changed. A store that ignores the condition is found out when
//! the first writer begins (`write.rs`); there the names alone, which are random, keep writers apart.
//!
//! # Failure
//!
//! Retry lives here: [`request`]. A request is made again, after a pause with full jitter, until its deadline; a GET that
//! is slow is asked a second time meanwhile ([`hedge`]); while nothing answers, requests fail at once ([`breaker`]).
//! Bytes that fail their check are fetched again before they count as damaged.
//!
//! # Cancellation
//!
//! Work goes on in the bucket's own runtime, whose connections no other task delays; whoever asked may go away.
//!
//! # Bounds
//!
//! 64 requests at a time. A reader asks for at most 16 MiB at once (a manifest; 4 MiB of blocks or of a map, and 16 times that of blocks in all), an ingest or check besides for one
//! pack's index, which is at most 192 MiB and no longer than its pack; an object being written holds at most 5 parts
//! of 8 MiB. 32 MiB of the files of others that are read here as images (`file.rs`).

mod archive;
mod breaker;
mod file;
mod hedge;
mod location;
mod read;
mod request;
mod uploads;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_sdk_s3::Client;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub(crate) use archive::{PackState, Thawed};
pub(crate) use breaker::Outage;
pub(crate) use file::{Chunks, S3File};
pub use location::{S3Credentials, S3Location};
pub(crate) use read::ListedFile;
pub(crate) use write::{S3Object, S3Writer};

use crate::RepoError;
use crate::store::LocalDir;
use breaker::Breaker;
use hedge::Hedge;

/// Requests under way: times the largest body of 16 MiB, 1 GiB; guests' are 256 KiB.
const REQUESTS_MAX: usize = 64;
/// Reads of several blocks whose bytes are held: times 4 MiB, 64 MiB.
const RUNS_MAX: usize = 16;
/// A GET of more than this is as slow as it is long, and is compared with its like.
const LARGE: u64 = 1 << 20;

pub(crate) struct S3Bucket {
    location: S3Location,
    client: Client,
    permits: Semaphore,
    breaker: Breaker,
    /// For GETs of up to 1 MiB, and for larger ones.
    hedges: [Hedge; 2],
    runs: Arc<Semaphore>,
    /// A directory that has some of its objects too.
    hot: OnceLock<Arc<LocalDir>>,
    counts: Counts,
    /// Nothing is ever written to it: what lies there is others'.
    read_only: bool,
    runtime: Handle,
    /// Kept alive; `None` only while it is dropped.
    owned: Option<Runtime>,
}

/// Counts a map that is being copied, until dropped.
pub(crate) struct Copying(Arc<S3Bucket>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.counts.copying.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Work in a bucket's runtime. It goes on when this is dropped.
pub(crate) struct Running<T>(JoinHandle<Result<T, RepoError>>);

impl<T> Running<T> {
    pub(crate) async fn result(self) -> Result<T, RepoError> {
        match self.0.await {
            Ok(result) => result,
            Err(error) => Err(RepoError::Unavailable {
                what: "finish a request".into(),
                source: error.into(),
            }),
        }
    }
}

/// What a bucket was asked and answered since it was opened.
#[derive(Debug, Default)]
struct Counts {
    gets: Count,
    got_bytes: Count,
    hedged: Count,
    failed: Count,
    damaged: Count,
    puts: Count,
    put_bytes: Count,
    copying: AtomicU64,
    hot: Count,
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a store was asked and answered since its repository was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct S3Stats {
    /// GETs that were answered.
    pub gets: u64,
    /// Bytes in them.
    pub got_bytes: u64,
    /// GETs that were slow and asked a second time.
    pub hedged: u64,
    /// Attempts that failed and were or will be made again.
    pub failed_attempts: u64,
    /// Answers whose bytes failed their check and were fetched again.
    pub damaged_answers: u64,
    /// Objects and parts that were written.
    pub puts: u64,
    /// Bytes in them.
    pub put_bytes: u64,
    /// Whether requests fail at once because the store does not answer.
    pub circuit_open: bool,
    /// Maps of disks that are being copied to this machine.
    pub maps_copying: u64,
    /// Reads that the hot copy answered.
    pub hot_reads: u64,
}

impl std::fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Bucket").field("location", &self.location).finish_non_exhaustive()
    }
}

impl S3Bucket {
    /// Blocks, also inside a runtime. Sends no request.
    pub(crate) fn open(location: &S3Location) -> Result<Arc<Self>, RepoError> {
        Self::open_for(location, false)
    }

    /// The same for a place that is only ever read.
    pub(crate) fn open_read_only(location: &S3Location) -> Result<Arc<Self>, RepoError> {
        Self::open_for(location, true)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn open_for(location: &S3Location, read_only: bool) -> Result<Arc<Self>, RepoError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|e| RepoError::io("start the S3 client", e))?;
        let place = location.clone();
        let client = wait_for(runtime.handle(), async move { place.client().await })??;
        Ok(Arc::new(Self {
            location: location.clone(),
            client,
            permits: Semaphore::new(REQUESTS_MAX),
            breaker: Breaker::default(),
            hedges: Default::default(),
            runs: Arc::new(Semaphore::new(RUNS_MAX)),
            hot: OnceLock::new(),
            counts: Counts::default(),
            read_only,
            runtime: runtime.handle().clone(),
            owned: Some(runtime),
        }))
    }

    pub(crate) fn stats(&self) -> S3Stats {
        let counts = &self.counts;
        S3Stats {
            gets: counts.gets.get(),
            got_bytes: counts.got_bytes.get(),
            hedged: counts.hedged.get(),
            failed_attempts: counts.failed.get(),
            damaged_answers: counts.damaged.get(),
            puts: counts.puts.get(),
            put_bytes: counts.put_bytes.get(),
            circuit_open: self.breaker.is_open(),
            maps_copying: counts.copying.load(Ordering::Relaxed),
            hot_reads: counts.hot.get(),
        }
    }

    pub(crate) fn room_for_runs(&self) -> &Arc<Semaphore> {
        &self.runs
    }

    pub(crate) fn show_copying(self: &Arc<Self>) -> Copying {
        self.counts.copying.fetch_add(1, Ordering::Relaxed);
        Copying(self.clone())
    }

    /// The hot copy, if there is one.
    pub(crate) fn hot(&self) -> Option<&Arc<LocalDir>> {
        self.hot.get()
    }

    /// Has reads prefer what `dir` has. Only the first is taken.
    pub(crate) fn use_hot(&self, dir: Arc<LocalDir>) {
        let _ = self.hot.set(dir);
    }

    pub(crate) fn note_hot_read(&self) {
        self.counts.hot.add(1);
    }

    fn hedge(&self, bytes: u64) -> &Hedge {
        &self.hedges[usize::from(bytes > LARGE)]
    }

    pub(crate) fn outage(&self) -> Option<Outage> {
        self.breaker.outage()
    }

    /// Does `work` in the bucket's runtime. What is returned is small, whatever the work is: it becomes a part of
    /// every future above.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RepoError>> + Send + 'static,
    ) -> Running<T> {
        Running(self.runtime.spawn(work))
    }

    /// The same for a thread that may block.
    pub(crate) fn run_blocking<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RepoError>> + Send + 'static,
    ) -> Result<T, RepoError> {
        wait_for(&self.runtime, work)?
    }
}

/// Waits by a channel and not by `block_on`, which panics where another runtime is entered.
fn wait_for<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, RepoError> {
    let (done, result) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        // A send fails only when the waiting thread is gone.
        let _ = done.send(work.await);
    });
    result.recv().map_err(|error| RepoError::Unavailable {
        what: "finish a request".into(),
        source: error.into(),
    })
}

impl Drop for S3Bucket {
    /// A runtime must not be waited for where it is dropped: that may be inside another.
    fn drop(&mut self) {
        if let Some(runtime) = self.owned.take() {
            runtime.shutdown_background();
        }
    }
}
