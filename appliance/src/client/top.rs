//! An appliance at a glance, again and again: what its guests ask for, how long they wait, and what room is left.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::{Duration, Instant},
};

use anyhow::Context;
use rekindle_cache::CacheStats;
use rekindle_jobs::{JobState, JobView};
use rekindle_nfs::{DiskLatencyView, ExportView, LATENCY_BOUNDS_MICROS, LatencyView};
use serde::Deserialize;
use serde_json::json;

use super::{
    http::{self, Daemon},
    job,
    table::{Table, bytes, printable, seconds},
};
use crate::{
    cli::TopArgs,
    exit::{Failure, Kind},
};

/// Where a terminal begins to show a screen, all of it empty.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// What is known at one moment.
struct Look {
    at: Instant,
    exports: Vec<ExportView>,
    cache: Cache,
    jobs: Vec<JobView>,
}

#[derive(Deserialize)]
struct Exports {
    exports: Vec<ExportView>,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<JobView>,
}

#[derive(Clone, Deserialize)]
struct Cache {
    cache: CacheStats,
    overlay: Overlay,
    up_seconds: u64,
}

#[derive(Clone, Deserialize)]
struct Overlay {
    left_bytes: u64,
    written_bytes: u64,
    written_bytes_per_second: u64,
    seconds_until_full: Option<u64>,
    alarm_percent: u8,
}

pub(crate) fn top(args: &TopArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    super::run(watch(&daemon, args))
}

/// Ends after so many screens, if that was asked for; an appliance that is away for a while is waited for.
async fn watch(daemon: &Daemon, args: &TopArgs) -> Result<(), Failure> {
    let mut before = look(daemon).await?;
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
        let now = match look(daemon).await {
            Ok(now) => now,
            Err(failure) if failure.kind == Kind::Unavailable => {
                show(args, &away(args, &failure))?;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let shows = Shown::new(&before, &now);
        let text = if args.daemon.json { format!("{}\n", shows.json()) } else { shows.text() };
        show(args, &text)?;
        before = now;
        shown += 1;
    }
    Ok(())
}

/// What is shown while the appliance does not answer.
fn away(args: &TopArgs, failure: &Failure) -> String {
    let text = format!("{:#}", failure.cause);
    if args.daemon.json { format!("{}\n", json!({"error": text})) } else { format!("{text}\n") }
}

fn show(args: &TopArgs, text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let clear = if out.is_terminal() && !args.daemon.json { CLEAR } else { "" };
    let written = out.write_all(format!("{clear}{text}").as_bytes()).and_then(|()| out.flush());
    Ok(written.context("write to standard output")?)
}

async fn look(daemon: &Daemon) -> Result<Look, Failure> {
    let Exports { exports } = daemon.get("exports", &[]).await?;
    let cache = daemon.get("cache", &[]).await?;
    let Jobs { jobs } = http::decode(daemon.list("jobs", &[], "jobs").await?)?;
    Ok(Look { at: Instant::now(), exports, cache, jobs })
}

/// What happened between two looks.
struct Shown<'a> {
    now: &'a Look,
    vms: Vec<Vm<'a>>,
    /// Share of the reads, movers' and those ahead of guests too, that the cache had, in percent; none without reads.
    hit_percent: Option<f64>,
    misses_per_second: f64,
    read_bytes_per_second: f64,
    write_bytes_per_second: f64,
}

struct Vm<'a> {
    job: &'a JobView,
    clients: usize,
    held_reads: u64,
    reads: Calls,
    writes: Calls,
}

/// The READs or the WRITEs of a VM.
struct Calls {
    per_second: f64,
    /// The bound that 99 of 100 are below; none without calls, and [`f64::INFINITY`] above the last bound.
    p99_ms: Option<f64>,
}

impl<'a> Shown<'a> {
    fn new(before: &Look, now: &'a Look) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let (was, is) = (&before.cache.cache, &now.cache.cache);
        let since = |of: fn(&CacheStats) -> u64| of(is).saturating_sub(of(was)) as f64;
        let (hits, misses) = (
            since(|cache| cache.ram_hits) + since(|cache| cache.ring_hits),
            since(|cache| cache.misses),
        );
        let bytes = |of: fn(&ExportView) -> u64| {
            let [was, is] = [before, now].map(|look| look.exports.iter().map(of).sum::<u64>());
            is.saturating_sub(was) as f64 / seconds
        };
        let vms = now
            .jobs
            .iter()
            .filter(|job| !job.state.is_final() && job.state != JobState::Kept)
            .map(|job| Vm::new(job, before, now, seconds))
            .collect();
        Self {
            now,
            vms,
            hit_percent: (hits + misses > 0.0).then(|| 100.0 * hits / (hits + misses)),
            misses_per_second: misses / seconds,
            read_bytes_per_second: bytes(|export| export.read_bytes),
            write_bytes_per_second: bytes(|export| export.write_bytes),
        }
    }

    fn text(&self) -> String {
        let Cache { cache, overlay, up_seconds } = &self.now.cache;
        let all = |of: fn(&Vm<'_>) -> f64| self.vms.iter().map(of).sum::<f64>();
        let hits = self.hit_percent.map_or("-".to_owned(), |percent| format!("{percent:.1} %"));
        let full = match overlay.seconds_until_full {
            Some(left) => format!(", full in {}", seconds(left)),
            None => String::new(),
        };
        let alarm = match overlay.alarm_percent {
            0 => String::new(),
            percent => format!(" - ALARM: less than {percent} % left"),
        };
        let mut text = String::new();
        // A String takes all that is written to it.
        let _ = writeln!(
            text,
            "up {}   READ {:.0}/s {}/s   WRITE {:.0}/s {}/s",
            seconds(*up_seconds),
            all(|vm| vm.reads.per_second),
            bytes(self.read_bytes_per_second as u64),
            all(|vm| vm.writes.per_second),
            bytes(self.write_bytes_per_second as u64),
        );
        let _ = writeln!(
            text,
            "cache   {} of hits, {:.0} misses/s, {} in RAM, {} in the ring of {}; {} reads of repositories under way, {} wait",
            hits,
            self.misses_per_second,
            bytes(cache.ram_bytes),
            bytes(cache.ring_bytes),
            bytes(cache.ring_capacity_now),
            cache.reads_under_way,
            cache.reads_waiting,
        );
        let _ = writeln!(
            text,
            "writes  {} taken, {} left, {}/s{full}{alarm}",
            bytes(overlay.written_bytes),
            bytes(overlay.left_bytes),
            bytes(overlay.written_bytes_per_second),
        );
        text.push('\n');
        text + &self.table()
    }

    fn table(&self) -> String {
        let mut table = Table::new([
            "VM", "STATE", "CLIENTS", "READ/s", "p99 ms", "WRITE/s", "p99 ms", "HELD", "JOB",
            "NOTE",
        ]);
        for vm in &self.vms {
            let [read, read_p99] = vm.reads.cells();
            let [write, write_p99] = vm.writes.cells();
            table.row([
                vm.job.name.clone(),
                vm.job.state.as_str().to_owned(),
                vm.clients.to_string(),
                read,
                read_p99,
                write,
                write_p99,
                vm.held_reads.to_string(),
                vm.job.id.to_string(),
                printable(&job::note(vm.job)),
            ]);
        }
        if self.vms.is_empty() { "No recovery is under way.\n".to_owned() } else { table.text() }
    }

    /// The same as one line of JSON.
    fn json(&self) -> serde_json::Value {
        let vms = self.vms.iter().map(|vm| {
            json!({
                "job": vm.job.id, "name": vm.job.name, "state": vm.job.state, "clients": vm.clients,
                "held_reads": vm.held_reads, "reads": vm.reads.json(), "writes": vm.writes.json(),
            })
        });
        let overlay = &self.now.cache.overlay;
        json!({
            "up_seconds": self.now.cache.up_seconds,
            "cache_hit_percent": self.hit_percent,
            "cache_misses_per_second": self.misses_per_second,
            "read_bytes_per_second": self.read_bytes_per_second,
            "write_bytes_per_second": self.write_bytes_per_second,
            "written_bytes": overlay.written_bytes,
            "left_bytes": overlay.left_bytes,
            "seconds_until_full": overlay.seconds_until_full,
            "alarm_percent": overlay.alarm_percent,
            "vms": vms.collect::<Vec<_>>(),
        })
    }
}

impl<'a> Vm<'a> {
    fn new(job: &'a JobView, before: &Look, now: &Look, seconds: f64) -> Self {
        let (was, is) = (export_of(job, before), export_of(job, now));
        // VMs on one datastore share its export, but not their disks.
        let disks = format!("{}.", job.id);
        let calls = |look: Option<&ExportView>, of: fn(&DiskLatencyView) -> &LatencyView| {
            let all = look.into_iter().flat_map(|export| &export.latency);
            all.filter(|one| one.disk.starts_with(&disks)).map(of).sum::<LatencyView>()
        };
        let between = |of: fn(&DiskLatencyView) -> &LatencyView| {
            Calls::between(&calls(was, of), &calls(is, of), seconds)
        };
        Self {
            job,
            clients: is.map_or(0, |export| export.mounted_by.len()),
            held_reads: is.map_or(0, |export| export.held_reads),
            reads: between(|disk| &disk.reads),
            writes: between(|disk| &disk.writes),
        }
    }
}

fn export_of<'a>(job: &JobView, look: &'a Look) -> Option<&'a ExportView> {
    let path = &job.export.as_ref()?.path;
    look.exports.iter().find(|export| &export.path == path)
}

impl Calls {
    fn between(was: &LatencyView, is: &LatencyView, seconds: f64) -> Self {
        let mut calls: Vec<u64> =
            is.buckets.iter().zip(was.buckets).map(|(is, was)| is.saturating_sub(was)).collect();
        let count: u64 = calls.iter().sum();
        calls.iter_mut().fold(0, |below, one| {
            *one += below;
            *one
        });
        let bound = |at: usize| {
            LATENCY_BOUNDS_MICROS.get(at).map_or(f64::INFINITY, |&us| us as f64 / 1000.0)
        };
        let p99 = calls.iter().position(|&below| below * 100 >= count * 99).map(bound);
        Self { per_second: count as f64 / seconds, p99_ms: p99.filter(|_| count > 0) }
    }

    fn cells(&self) -> [String; 2] {
        let p99 = match self.p99_ms {
            None => "-".to_owned(),
            Some(ms) if ms.is_infinite() => "> 30000".to_owned(),
            Some(ms) => format!("<= {ms}"),
        };
        [format!("{:.0}", self.per_second), p99]
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "per_second": self.per_second,
            "p99_ms_at_most": self.p99_ms.filter(|ms| ms.is_finite()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(buckets: &[(usize, u64)]) -> LatencyView {
        let mut view = LatencyView::default();
        for (bucket, count) in buckets {
            view.buckets[*bucket] = *count;
        }
        view
    }

    #[test]
    fn the_p99_is_the_bound_that_99_of_100_are_below() {
        let p99 = |was: &[_], is: &[_]| Calls::between(&view(was), &view(is), 2.0).p99_ms;
        assert_eq!(p99(&[(0, 5)], &[(0, 5)]), None, "no calls");
        assert_eq!(p99(&[], &[(0, 99), (3, 1)]), Some(0.1));
        assert_eq!(p99(&[], &[(0, 98), (3, 2)]), Some(1.0));
        assert_eq!(p99(&[(0, 1000)], &[(0, 1000), (3, 2)]), Some(1.0), "only what is new counts");
        assert_eq!(p99(&[], &[(14, 1)]), Some(f64::INFINITY));
        let calls = Calls::between(&view(&[(0, 10)]), &view(&[(0, 20)]), 2.0);
        assert_eq!(calls.cells(), ["5", "<= 0.1"]);
        let restarted = Calls::between(&view(&[(0, 10)]), &view(&[(0, 2)]), 2.0);
        assert_eq!(
            restarted.cells(),
            ["0", "-"],
            "an appliance that was started anew counts from zero"
        );
    }
}
