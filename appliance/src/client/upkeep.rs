use std::time::Duration;

use anyhow::Context;
use rekindle_jobs::{UpkeepEnd, UpkeepView};
use rekindle_repo::{KeptBy, PruneCounts, PruneReport};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    because,
    http::{self, Daemon},
    run,
    table::{self, Table, bytes},
};
use crate::{
    cli::{PruneArgs, UpkeepArgs},
    exit::{Failure, Kind},
};

/// How often the appliance is asked how far it is, at first and at most.
const ASK_AFTER: Duration = Duration::from_millis(100);
const ASK_AT_MOST: Duration = Duration::from_secs(5);

/// `repo prune`, by the appliance.
pub(crate) fn prune(args: &PruneArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let mut body = json!({ "drop": args.drop, "spare": args.spare, "dry_run": args.dry_run });
    if let Some(keep) = args.keep.retention() {
        body["keep"] = serde_json::to_value(keep).context("write the request")?;
    }
    if let Some(hours) = args.grace_hours {
        body["grace_hours"] = hours.into();
    }
    let body = because(body, args.reason.as_deref());
    let path = path(&args.repository)?;
    let ended = run(async {
        let begun: UpkeepView = daemon.post(&format!("{path}/prune"), Some(&body), None).await?;
        let told = !args.daemon.json;
        ended(&daemon, &path, &begun, told)
            .await?
            .prune
            .ok_or_else(|| Failure::from(anyhow::anyhow!("the appliance forgot how it ended")))
    })?;
    print_end(&ended, args.daemon.json)
}

/// `repo upkeep`: what is under way, and how the last time ended.
pub(crate) fn upkeep(args: &UpkeepArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let path = format!("{}/upkeep", path(&args.repository)?);
    let answer: Value = run(async {
        match args.stop {
            true => daemon.call(Method::POST, &format!("{path}/cancel"), None).await,
            false => daemon.call(Method::GET, &path, None).await,
        }
    })?;
    if args.daemon.json {
        return table::json(&answer);
    }
    let view: UpkeepView = http::decode(answer)?;
    match &view.running {
        Some(_) => println!("{}", how_far(&view)),
        None => println!("nothing is under way"),
    }
    match &view.prune {
        None => println!("no prune since the start"),
        Some(UpkeepEnd { ended_at, error: Some(error), .. }) => {
            println!("the last prune failed at {ended_at}: {}", error.message);
        }
        Some(UpkeepEnd { ended_at, report, .. }) => {
            println!("the last prune ended at {ended_at}");
            report.iter().for_each(print_counts);
        }
    }
    match &view.check {
        None => println!("no check since the start"),
        Some(UpkeepEnd { ended_at, error: Some(error), .. }) => {
            println!("the last check failed at {ended_at}: {}", error.message);
        }
        Some(UpkeepEnd { ended_at, report, .. }) => {
            println!("the last check ended at {ended_at}");
            report.iter().for_each(super::check::print_counts);
        }
    }
    match &view.keep {
        None => {}
        Some(UpkeepEnd { ended_at, error: Some(error), .. }) => {
            println!(
                "the last point of what a guest wrote failed at {ended_at}: {}",
                error.message
            );
        }
        Some(UpkeepEnd { report, .. }) => report.iter().for_each(super::keep::print_counts),
    }
    Ok(())
}

pub(super) fn path(repository: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !repository.is_empty() && repository.chars().all(plain) {
        return Ok(format!("repositories/{repository}"));
    }
    let text = format!(
        "{repository:?} is no configured name, by which the running appliance is asked (a prune from here needs --without-appliance)"
    );
    Err(Failure::refused(text))
}

/// Asks until what was `begun` has ended.
pub(super) async fn ended(
    daemon: &Daemon,
    path: &str,
    begun: &UpkeepView,
    told: bool,
) -> Result<UpkeepView, Failure> {
    let since = begun.running.as_ref().map(|running| running.begun_at);
    let (path, mut pause) = (format!("{path}/upkeep"), ASK_AFTER);
    loop {
        let view: UpkeepView = daemon.get(&path, &[]).await?;
        if view.running.as_ref().is_none_or(|running| Some(running.begun_at) != since) {
            return Ok(view);
        }
        sleep(pause).await;
        pause = (pause * 2).min(ASK_AT_MOST);
        if told && pause == ASK_AT_MOST {
            eprintln!("{}", how_far(&view));
        }
    }
}

fn how_far(view: &UpkeepView) -> String {
    let Some(running) = &view.running else { return String::new() };
    let what = running.kind.as_str();
    let (done, total) = (bytes(running.done_bytes), bytes(running.total_bytes));
    format!("{what} since {}: {done} of {total} of disks looked through", running.begun_at)
}

fn print_end(end: &UpkeepEnd<PruneReport>, json: bool) -> Result<(), Failure> {
    if let Some(error) = &end.error {
        let said = format!("{} ({})", error.message, error.code);
        return Err(Failure::said(Kind::Failed, said));
    }
    match &end.report {
        Some(report) => print_report(report, json),
        None => Ok(()),
    }
}

/// What a prune did, or would do.
pub(crate) fn print_report(report: &PruneReport, json: bool) -> Result<(), Failure> {
    if json {
        return table::json(report);
    }
    let mut table = Table::new(["POINT", "VM", "TAKEN", "KEPT BY"]);
    for verdict in &report.verdicts {
        let kept: Vec<_> = verdict.kept_by.iter().copied().map(KeptBy::as_str).collect();
        table.row([
            verdict.point.to_string(),
            verdict.vm_name.clone(),
            verdict.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            if kept.is_empty() { "nothing: it goes".into() } else { kept.join(",") },
        ]);
    }
    table.print();
    print_counts(report);
    Ok(())
}

fn print_counts(report: &PruneReport) {
    if report.dry_run {
        println!("nothing was changed; a prune would do this:");
    }
    for (what, counts) in [
        ("condemned", &report.condemned),
        ("deleted", &report.removed),
        ("taken back", &report.spared),
        ("waiting", &report.waiting),
    ] {
        println!("{what:<11} {}", line(counts));
    }
    if let Some(at) = report.next_at {
        println!("a prune after {at} deletes more");
    }
    if let Some(reason) = &report.held_up {
        println!("nothing was deleted: {reason}");
    }
}

fn line(counts: &PruneCounts) -> String {
    let PruneCounts { points, maps, packs, bytes: size, cold_packs, early_deletion_usd } = counts;
    let mut line = format!("{points} points, {maps} maps, {packs} packs of {}", bytes(*size));
    if *cold_packs > 0 {
        line += &format!(
            "; {cold_packs} of them cold, for whose early deletion Amazon charges about {early_deletion_usd:.2} USD"
        );
    }
    line
}
