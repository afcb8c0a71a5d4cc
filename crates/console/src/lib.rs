//! HTTP: JSON API, pages, events, health and metrics.
//!
//! # Layout
//!
//! ```text
//! listen ─ tls ─ page::secure ─ deadline ─┬─ /healthz, the page's files, log-in     open
//!          └─ plain: go to https          └─ auth::guard ─┬─ /api/v1/…  api/         token or session
//!                                                         └─ /metrics, /readyz
//! ```
//! The shell decides nothing: a call is parsed, handed to `jobs`, `repo`, `cache` or `nfs`, and its
//! answer is written. `translate` is the one place where their errors become HTTP.
//!
//! # Invariants
//!
//! 1. Only `/healthz`, the page's files (which hold no data) and the log-in answer without the
//!    admin token or a session.
//! 2. A session changes something only from our own page: custom header, same origin, and a cookie
//!    that is `HttpOnly` and `SameSite=Strict`.
//! 3. No token, cookie or password is in a log line, a page or an answer.
//! 4. Every error is a problem document (RFC 9457) with a stable `code`.
//! 5. No inline script, no framing, nothing from another origin.
//! 6. With a certificate nothing is said or taken in the clear but "use https". A certificate that is
//!    replaced is shown from the next handshake on; a bad one never replaces a good one.
//!
//! # Locking
//!
//! Sessions and log-in attempts have a lock each, held for a map operation and never across an await.
//!
//! # Crash
//!
//! Sessions end with the process. Our own certificate and its key are one file, whole or not there.
//!
//! # Cancellation
//!
//! A client that goes away ends its call, except that a recovery, finish or cancel that was begun
//! goes on to its end.
//!
//! # Bounds
//!
//! Connections 256, handshake 10 s, head 32 KiB, 64 lines and 30 s, body 64 KiB, a call 30 s, event streams 64, sessions 64, remembered addresses
//! of failed log-ins 1024, points in one answer 5000, repository listings at once 2.

mod api;
mod auth;
mod listen;
mod metrics;
mod page;
mod plain;
mod problem;
mod routes;
mod tls;
mod translate;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use rekindle_cache::Cache;
use rekindle_disk::Disks;
use rekindle_jobs::Jobs;
use rekindle_nfs::NfsServer;
use rekindle_repo::Repository;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

pub use auth::{AdminToken, TOKEN_MIN_CHARS, WeakToken};
pub use metrics::describe as describe_metrics;
pub use problem::Problem;
pub use routes::{describe as describe_api, openapi};
pub use tls::{Fingerprint, Tls, TlsError, TlsFiles, make_self_signed};

/// Event streams open at once. Each is a task and about 16 KiB of buffers: 1 MiB in all.
const STREAMS: usize = 64;
/// Repositories listed at once, for all callers.
const LISTINGS: usize = 2;

/// What the console shows and steers.
pub struct ConsoleDeps {
    /// Recoveries.
    pub jobs: Arc<Jobs>,
    /// Repositories by their configured name.
    pub repositories: BTreeMap<String, Repository>,
    /// The block cache.
    pub cache: Arc<Cache>,
    /// Disks, for the space that guests' writes have.
    pub disks: Arc<Disks>,
    /// The NFS server and its exports.
    pub nfs: NfsServer,
    /// Configured targets.
    pub targets: Vec<TargetView>,
    /// What opens the console.
    pub token: AdminToken,
    /// The certificate; without one the console speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

/// A configured target, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// The name that a recovery gives.
    pub name: String,
    /// `vsphere`.
    pub kind: String,
    /// The endpoint's address.
    pub url: String,
    /// The host that VMs run on, when it is configured.
    pub host: Option<String>,
}

pub(crate) struct Console {
    jobs: Arc<Jobs>,
    repositories: BTreeMap<String, Repository>,
    cache: Arc<Cache>,
    disks: Arc<Disks>,
    nfs: NfsServer,
    targets: Vec<TargetView>,
    token: AdminToken,
    tls: Option<Arc<Tls>>,
    sessions: auth::Sessions,
    attempts: auth::Attempts,
    streams: Arc<Semaphore>,
    listings: Semaphore,
    started: Instant,
    shutdown: CancellationToken,
}

impl Console {
    fn new(deps: ConsoleDeps, shutdown: CancellationToken) -> Self {
        Self {
            jobs: deps.jobs,
            repositories: deps.repositories,
            cache: deps.cache,
            disks: deps.disks,
            nfs: deps.nfs,
            targets: deps.targets,
            token: deps.token,
            tls: deps.tls,
            sessions: auth::Sessions::default(),
            attempts: auth::Attempts::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            listings: Semaphore::new(LISTINGS),
            started: Instant::now(),
            shutdown,
        }
    }
}

/// Answers on `listener` until `shutdown`; then event streams end, calls under way are answered,
/// and it returns. The caller bounds how long it waits for that.
pub async fn serve(listener: TcpListener, deps: ConsoleDeps, shutdown: CancellationToken) {
    let tls = deps.tls.clone();
    let console = Arc::new(Console::new(deps, shutdown.clone()));
    listen::serve(listener, routes::router(console), tls, shutdown).await;
}
