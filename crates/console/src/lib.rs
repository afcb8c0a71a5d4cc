//! HTTP: JSON API, pages, events, health and metrics.
//!
//! # Layout
//!
//! ```text
//! listen ─ page::secure ─ deadline ─┬─ /healthz, the page's files, log-in     open
//!                                   └─ auth::guard ─┬─ /api/v1/…  api/         token or session
//!                                                   └─ /metrics, /readyz
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
//!
//! # Locking
//!
//! Sessions and log-in attempts have a lock each, held for a map operation and never across an await.
//!
//! # Crash
//!
//! Nothing here is durable. Sessions end with the process.
//!
//! # Cancellation
//!
//! A client that goes away ends its call, except that a recovery, finish or cancel that was begun
//! goes on to its end.
//!
//! # Bounds
//!
//! Connections 256, body 64 KiB, a call 30 s, event streams 64, sessions 64, remembered addresses
//! of failed log-ins 1024, points in one answer 5000, repository listings at once 2.

mod api;
mod auth;
mod listen;
mod metrics;
mod page;
mod problem;
mod routes;
mod translate;

use std::{collections::BTreeMap, io, sync::Arc, time::Instant};

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
pub async fn serve(
    listener: TcpListener,
    deps: ConsoleDeps,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let console = Arc::new(Console::new(deps, shutdown.clone()));
    let service =
        routes::router(console).into_make_service_with_connect_info::<listen::ClientAddress>();
    axum::serve(listen::BoundedListener::new(listener), service)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}
