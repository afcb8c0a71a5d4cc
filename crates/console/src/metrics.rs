//! `/metrics`: what is measured, as Prometheus reads it.
//!
//! The layers below keep their own counters and show them as views. A scrape takes those views and
//! writes them out, so the API and the metrics cannot disagree. `table` names every metric, with its
//! kind and what it means; a number that is not in it is not shown, and a test finds it.
//!
//! # Bounds
//!
//! Labels have the values that there are: exports, unfinished jobs and repositories. With
//! the 32 recoveries of the default that is some 1 500 lines; ended jobs have none.

mod scrape;
mod table;

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use rekindle_jobs::{JobState, JobView};
use rekindle_nfs::{DiskLatencyView, ExportView, LatencyView};
use rekindle_repo::Reach;
use rekindle_state::BackupFile;

use crate::{Console, Problem};
use scrape::{Scrape, whole};
pub use table::describe;

/// `GET /metrics`
pub(crate) async fn metrics(State(console): State<Arc<Console>>) -> Result<Response, Problem> {
    let taken = Arc::clone(&console);
    let text = tokio::task::spawn_blocking(move || scrape(&taken))
        .await
        .map_err(|e| Problem::internal(&e))?
        .map_err(|e| Problem::internal(&e))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn scrape(console: &Console) -> anyhow::Result<String> {
    let mut scrape = Scrape::default();
    scrape.set("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    scrape.set("up_seconds", &[], whole(console.started.elapsed().as_secs()));
    let space = console.disks.space()?;
    scrape.set("overlay_free_bytes", &[], whole(space.free));
    scrape.set("overlay_total_bytes", &[], whole(space.total));
    scrape.view("overlay", &[], &console.jobs.space())?;
    scrape.view("mover", &[], &console.jobs.limits())?;
    scrape.view("cache", &[], &console.cache.stats())?;
    scrape.view("journal", &[], &console.disks.stats())?;
    scrape.view("nfs", &[], &console.nfs.stats())?;
    for channel in console.notifier.channels() {
        scrape.view("notify", &[("channel", channel.name.as_str())], &channel)?;
    }
    let backups = console.backups.as_ref().map(|backups| backups.known());
    let now = Timestamp::now();
    let newest =
        |files: &Vec<BackupFile>| files.iter().map(|file| file.made_at).find(|at| *at <= now);
    if let Some(made_at) = backups.as_ref().and_then(newest) {
        scrape.set("state_backup_made_at_seconds", &[], made_at.as_second());
    }
    repositories(console, &mut scrape)?;
    let jobs = console.jobs.list();
    states(&jobs, &mut scrape);
    movers(&jobs, &mut scrape);
    exports(&console.nfs.exports().list(), &jobs, &mut scrape)?;
    scrape.text()
}

fn repositories(console: &Console, scrape: &mut Scrape) -> anyhow::Result<()> {
    for (name, attached) in &console.repositories {
        let labels = [("repository", name.as_str())];
        let ready = attached.attachment().state == Reach::Ready;
        scrape.set("repository_ready", &labels, ready.into());
        let open = attached.get().ok();
        if let Some(stats) = open.and_then(|repository| repository.s3_stats()) {
            scrape.view("repository", &labels, &stats)?;
        }
    }
    Ok(())
}

fn states(jobs: &[JobView], scrape: &mut Scrape) {
    for state in JobState::ALL {
        let count = jobs.iter().filter(|job| job.state == state).count();
        scrape.set("jobs", &[("state", state.as_str())], whole(count as u64));
    }
}

fn movers(jobs: &[JobView], scrape: &mut Scrape) {
    for job in jobs.iter().filter(|job| !job.state.is_final()) {
        let labels = [("job", job.id.as_str()), ("vm", job.name.as_str())];
        if let Some(pause) = job.pause_ms {
            scrape.set("job_pause_milliseconds", &labels, whole(pause));
        }
        let Some(progress) = &job.progress else { continue };
        scrape.set("mover_done_bytes", &labels, whole(progress.done_bytes));
        scrape.set("mover_to_do_bytes", &labels, whole(progress.total_bytes));
        scrape.set("mover_bytes_per_second", &labels, whole(progress.rate_bytes_per_second));
    }
}

fn exports(exports: &[ExportView], jobs: &[JobView], scrape: &mut Scrape) -> anyhow::Result<()> {
    scrape.set("exports", &[], whole(exports.len() as u64));
    for export in exports {
        let labels = [("export", export.name.as_str())];
        scrape.view("export", &labels, export)?;
        scrape.set("export_clients", &labels, whole(export.mounted_by.len() as u64));
    }
    let disks: Vec<_> = exports.iter().flat_map(|export| &export.latency).collect();
    for job in jobs.iter().filter(|job| !job.state.is_final()) {
        let labels = [("job", job.id.as_str()), ("vm", job.name.as_str())];
        // A job's disks are named after it, with a number behind a dot.
        let own = |disk: &&&DiskLatencyView| {
            disk.disk.rsplit_once('.').is_some_and(|(owner, _)| owner == job.id.as_str())
        };
        let of = |pick: fn(&DiskLatencyView) -> &LatencyView| {
            disks.iter().filter(own).map(|disk| pick(disk)).sum::<LatencyView>()
        };
        if disks.iter().any(|disk| own(&disk)) {
            scrape.histogram("vm_read_seconds", &labels, of(|disk| &disk.reads));
            scrape.histogram("vm_write_seconds", &labels, of(|disk| &disk.writes));
        }
    }
    Ok(())
}
