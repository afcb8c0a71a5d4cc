//! HTTP: JSON API, pages, events, health and metrics.
//!
//! # Layout
//!
//! ```text
//! listen ─ tls ─ page::secure ─ rate ─ deadline ─┬─ /healthz, the page's files, log-in     open
//!          └─ plain: go to https                 └─ auth::guard ─ once ─┬─ /api/v1/…  api/  token or session
//!                                                                       └─ /metrics, /readyz
//! ```
//! `calls` lists every call with what it takes and answers, as types: the router, the guard and the API's
//! document (`openapi`) are made of that one list. What a call is given is held against the document
//! (`given`, `shape`), and in builds for tests so is every answer (`contract`).
//!
//! The shell decides nothing: a call is parsed, handed to `jobs`, `repo`, `cache` or `nfs`, and its
//! answer is written. `translate` is the one place where their errors become HTTP.
//!
//! # Invariants
//!
//! 1. Only `/healthz`, the page's files (which hold no data) and the log-in answer without a token
//!    or a session. What a caller may do is looked up at each call, in one list (`calls`); a call that
//!    is not on it is for admins.
//! 2. A session changes something only from our own page: custom header, same origin, and a cookie
//!    that is `HttpOnly` and `SameSite=Strict`.
//! 3. No token, cookie or password is in a log line, a page or an answer.
//! 4. Every error is a problem document (RFC 9457) with a stable `code`.
//! 5. No inline script, no framing, nothing from another origin.
//! 6. A scope bounds what is listed, shown and started; what is outside it does not exist for the caller.
//! 7. A one-time code is good once, also after a restart.
//! 8. What changes something, and each log-in, is on record before its caller learns how it ended; it is
//!    on record as begun before it is begun. No change, removal or reordering of records is unseen.
//! 9. With a certificate nothing is said or taken in the clear but "use https". A certificate that is
//!    replaced is shown from the next handshake on; a bad one never replaces a good one.
//! 10. What is not as the API's document says is never done, and what is answered is as it says.
//! 11. A call under an `Idempotency-Key` is made once, also if it is sent again after a restart.
//!
//! # Locking
//!
//! Sessions, log-in attempts, lock-outs, rates and users have a lock each, held for a map operation and
//! never across an await. Users have a second one for changes; it and the audit log's are held over a
//! sync, on a blocking thread. Changes of one job or batch through the API take turns, from the look at its
//! version to their end.
//!
//! # Crash
//!
//! Users and tokens are in the state database; a change is durable before it is seen. Sessions and
//! lock-outs end with the process. Our own certificate and its key are one file, whole or not there.
//!
//! # Cancellation
//!
//! A client that goes away ends its call, except that a recovery, finish or cancel that was begun
//! goes on to its end.
//!
//! # Bounds
//!
//! Connections 256, handshake 10 s, head 32 KiB, 64 lines and 30 s, body 64 KiB, a call 30 s, calls of
//! one address 1000 at once and 200 a second, event streams 64, sessions 64, remembered addresses of
//! failed log-ins 1024 and of calls 4096, locked-out names 1024, users 256, tokens 1024, passwords
//! hashed at once 2, audit records 100 000, points in one answer 5000, jobs 1000, answers
//! that are kept 4096 and 32 MiB for a day, each 1 MiB, repository listings at once 2, each 10 s.

mod act;
mod api;
mod audit;
mod auth;
mod calls;
mod contract;
mod given;
mod listen;
mod metrics;
mod once;
mod openapi;
mod page;
mod paging;
mod plain;
mod problem;
mod rate;
mod routes;
mod shape;
mod tag;
mod tls;
mod translate;
mod users;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use rekindle_cache::Cache;
use rekindle_disk::Disks;
use rekindle_jobs::{Batches, Jobs};
use rekindle_nfs::NfsServer;
use rekindle_notify::Notifier;
use rekindle_repo::Attached;
use rekindle_state::Backups;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

pub use audit::{Audit, AuditEnd, AuditPage, AuditRecord, Broken, Chain};
pub use auth::{AdminToken, TOKEN_MIN_CHARS, WeakToken};
pub use calls::describe as describe_api;
pub use metrics::describe as describe_metrics;
pub use once::{ANSWERS_KEYSPACE, Answers};
pub use openapi::openapi;
pub use problem::Problem;
pub use tls::{Fingerprint, Tls, TlsError, TlsFiles, make_self_signed};
pub use users::{Role, Scope, UserError, Users};

/// Event streams open at once. Each is a task and about 16 KiB of buffers: 1 MiB in all.
const STREAMS: usize = 64;
/// Repositories listed at once, for all callers.
const LISTINGS: usize = 2;

/// Passwords hashed at once: 19 MiB each, 38 MiB in all.
const HASHINGS: usize = 2;

/// What the console shows and steers.
pub struct ConsoleDeps {
    /// Recoveries.
    pub jobs: Arc<Jobs>,
    /// Many recoveries by one request.
    pub batches: Arc<Batches>,
    /// Repositories by their configured name.
    pub repositories: BTreeMap<String, Attached>,
    /// The block cache.
    pub cache: Arc<Cache>,
    /// Disks, for the space that guests' writes have.
    pub disks: Arc<Disks>,
    /// The NFS server and its exports.
    pub nfs: NfsServer,
    /// Configured targets.
    pub targets: Vec<TargetView>,
    /// Who is told what happens.
    pub notifier: Arc<Notifier>,
    /// What opens the console.
    pub token: AdminToken,
    /// Who there is.
    pub users: Arc<Users>,
    /// Who did what.
    pub audit: Arc<Audit>,
    /// What calls under an `Idempotency-Key` were answered.
    pub answers: Arc<Answers>,
    /// Backups of the appliance's state, where they are configured.
    pub backups: Option<Arc<Backups>>,
    /// What is configured.
    pub settings: ConsoleSettings,
    /// The same of the whole appliance, to be shown.
    pub configured: Vec<Setting>,
    /// The certificate; without one the console speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

/// What is configured of the console.
#[derive(Clone, Debug, Default)]
pub struct ConsoleSettings {
    /// Whether starting and ending recoveries needs a one-time code, also through the API.
    pub restore_requires_totp: bool,
    /// Whether it needs a reason.
    pub restore_requires_reason: bool,
}

/// One key of the configuration, as it is shown. It names secrets' files and holds none.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Setting {
    /// Section and key.
    pub key: String,
    /// What is in force.
    pub value: serde_json::Value,
    /// Whether it is the default.
    pub default: bool,
}

/// A configured target, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    batches: Arc<Batches>,
    repositories: BTreeMap<String, Attached>,
    cache: Arc<Cache>,
    disks: Arc<Disks>,
    nfs: NfsServer,
    targets: Vec<TargetView>,
    notifier: Arc<Notifier>,
    token: AdminToken,
    tls: Option<Arc<Tls>>,
    sessions: auth::Sessions,
    attempts: auth::Attempts,
    lockouts: auth::Lockouts,
    rates: rate::Rates,
    users: Arc<Users>,
    audit: Arc<Audit>,
    answers: Arc<Answers>,
    backups: Option<Arc<Backups>>,
    lanes: tag::Lanes,
    settings: ConsoleSettings,
    configured: Vec<Setting>,
    hashing: Semaphore,
    streams: Arc<Semaphore>,
    listings: Semaphore,
    started: Instant,
    shutdown: CancellationToken,
}

impl Console {
    fn new(deps: ConsoleDeps, shutdown: CancellationToken) -> Self {
        Self {
            jobs: deps.jobs,
            batches: deps.batches,
            repositories: deps.repositories,
            cache: deps.cache,
            disks: deps.disks,
            nfs: deps.nfs,
            targets: deps.targets,
            notifier: deps.notifier,
            token: deps.token,
            tls: deps.tls,
            sessions: auth::Sessions::default(),
            attempts: auth::Attempts::default(),
            lockouts: auth::Lockouts::default(),
            rates: rate::Rates::default(),
            users: deps.users,
            audit: deps.audit,
            answers: deps.answers,
            backups: deps.backups,
            lanes: tag::Lanes::default(),
            settings: deps.settings,
            configured: deps.configured,
            hashing: Semaphore::new(HASHINGS),
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
