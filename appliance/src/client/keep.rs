use rekindle_jobs::{JobView, KeepReport, UpkeepEnd, UpkeepView};
use serde_json::json;

use super::{
    because,
    http::{self, Daemon},
    run,
    table::{self, bytes},
    upkeep,
};
use crate::{
    cli::{FinishArgs, KeepArgs},
    exit::{Failure, Kind},
};

/// `keep`: what a guest wrote becomes a recovery point; the job stays as it is.
pub(crate) fn keep(args: &KeepArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let body = because(json!({ "tags": args.tag }), args.reason.as_deref());
    let report = run(kept(&daemon, &args.id, &body, !args.daemon.json))?;
    if args.daemon.json {
        return table::json(&report);
    }
    print_counts(&report);
    Ok(())
}

/// The first half of `finish ID keep`: nothing is thrown away before the point is there.
pub(super) fn before_discard(daemon: &Daemon, args: &FinishArgs) -> Result<(), Failure> {
    let body = because(json!({}), args.reason.as_deref());
    let report = run(kept(daemon, &args.id, &body, !args.daemon.json))?;
    if !args.daemon.json {
        print_counts(&report);
    }
    Ok(())
}

/// Begins it, and waits until the point is there.
async fn kept(
    daemon: &Daemon,
    id: &str,
    body: &serde_json::Value,
    told: bool,
) -> Result<KeepReport, Failure> {
    let job = http::job_path(id)?;
    let view: JobView = daemon.get(&job, &[]).await?;
    let repository = upkeep::path(&view.repository)?;
    let begun: UpkeepView = daemon.post(&format!("{job}/keep"), Some(body), None).await?;
    let ended = upkeep::ended(daemon, &repository, &begun, told).await?.keep;
    match ended {
        Some(UpkeepEnd { report: Some(report), .. }) if report.job == view.id => Ok(report),
        Some(UpkeepEnd { error: Some(error), .. }) => {
            Err(Failure::said(Kind::Failed, format!("{} ({})", error.message, error.code)))
        }
        Some(_) | None => {
            Err(Failure::from(anyhow::anyhow!("the appliance does not tell how it ended")))
        }
    }
}

pub(super) fn print_counts(report: &KeepReport) {
    println!(
        "point {} of job {}: {} read, {} new, stored as {}; {} are of the point before",
        report.point,
        report.job,
        bytes(report.read_bytes),
        bytes(report.written_bytes),
        bytes(report.stored_bytes),
        bytes(report.unchanged_bytes),
    );
}
