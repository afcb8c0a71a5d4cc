use std::{collections::BTreeSet, sync::Arc};

use axum::{Extension, Json, extract::State, http::StatusCode};
use rekindle_cache::CacheStats;
use rekindle_jobs::{LimitsView, SpaceView};
use rekindle_nfs::ExportView;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{Console, Problem, Setting, TargetView, auth::Caller};

#[derive(Serialize, JsonSchema)]
pub(crate) struct Targets {
    targets: Vec<TargetView>,
}

/// `GET /api/v1/targets`
pub(crate) async fn targets(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<Targets> {
    let mut targets = console.targets.clone();
    targets.retain(|target| caller.scope.has_target_named(&target.name));
    Json(Targets { targets })
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Exports {
    exports: Vec<ExportView>,
}

/// `GET /api/v1/exports`: to a part of the appliance, those that its jobs use.
pub(crate) async fn exports(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<Exports> {
    let mut exports = console.nfs.exports().list();
    if !caller.scope.is_all() {
        let jobs = console.jobs.list().into_iter().filter(|job| caller.scope.has_job(job));
        let paths: BTreeSet<_> = jobs.filter_map(|job| job.export.map(|one| one.path)).collect();
        exports.retain(|export| paths.contains(&export.path));
    }
    Json(Exports { exports })
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct CacheView {
    cache: CacheStats,
    overlay: OverlayView,
    mover: LimitsView,
    up_seconds: u64,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct OverlayView {
    total_bytes: u64,
    free_bytes: u64,
    #[serde(flatten)]
    space: SpaceView,
}

/// `GET /api/v1/cache`
pub(crate) async fn cache(State(console): State<Arc<Console>>) -> Result<Json<CacheView>, Problem> {
    let (cache, disks) = (Arc::clone(&console.cache), Arc::clone(&console.disks));
    let read = move || (cache.stats(), disks.space());
    let (cache, space) =
        tokio::task::spawn_blocking(read).await.map_err(|e| Problem::internal(&e))?;
    let space = space.map_err(|e| Problem::internal(&e))?;
    let overlay = OverlayView {
        total_bytes: space.total,
        free_bytes: space.free,
        space: console.jobs.space(),
    };
    let (mover, up_seconds) = (console.jobs.limits(), console.started.elapsed().as_secs());
    Ok(Json(CacheView { cache, overlay, mover, up_seconds }))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Settings {
    settings: Vec<Setting>,
}

/// `GET /api/v1/settings`
pub(crate) async fn settings(State(console): State<Arc<Console>>) -> Json<Settings> {
    Json(Settings { settings: console.configured.clone() })
}

/// `GET /readyz`
pub(crate) async fn ready(State(console): State<Arc<Console>>) -> Result<&'static str, Problem> {
    let why = if console.shutdown.is_cancelled() {
        "the appliance is stopping"
    } else if console.nfs.bound().borrow().is_none() {
        "the NFS server does not listen"
    } else {
        return Ok("ready\n");
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why))
}
