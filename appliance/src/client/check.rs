use rekindle_jobs::UpkeepView;
use rekindle_repo::CheckReport;
use serde_json::json;

use super::{
    http::Daemon,
    run,
    table::{self, bytes, printable},
    upkeep::{self, path},
};
use crate::{
    cli::CheckArgs,
    exit::{Failure, Kind},
};

/// `repo check`, by the appliance.
pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let daemon = Daemon::new(&args.daemon)?;
    let body = json!({
        "point": args.point,
        "depth": if args.structure { "structure" } else { "data" },
        "max_mb_per_second": args.max_mb_per_second,
        "from_start": args.from_start,
    });
    let path = path(&args.open.repository)?;
    let ended = run(async {
        let begun: UpkeepView = daemon.post(&format!("{path}/check"), Some(&body), None).await?;
        upkeep::ended(&daemon, &path, &begun, !args.daemon.json).await?.check.ok_or_else(forgot)
    })?;
    if let Some(error) = &ended.error {
        let said = format!("{} ({})", error.message, error.code);
        return Err(Failure::said(Kind::Failed, said));
    }
    let report = ended.report.ok_or_else(forgot)?;
    print_check(&args.open.repository, &report, args.daemon.json)
}

fn forgot() -> Failure {
    Failure::from(anyhow::anyhow!("the appliance does not tell how it ended"))
}

/// What a check found. Damage is a failure.
pub(crate) fn print_check(
    repository: &str,
    report: &CheckReport,
    json: bool,
) -> Result<(), Failure> {
    match json {
        true => table::json(report)?,
        false => print(report),
    }
    if let Some(reason) = &report.not_kept {
        eprintln!("rekindle: what was found is not kept with the points: {reason}");
    }
    if report.is_sound() {
        return Ok(());
    }
    let said = format!("{repository} is damaged in {} places", report.problem_count);
    Err(Failure::said(Kind::Failed, said))
}

fn print(report: &CheckReport) {
    for problem in &report.problems {
        let detail = printable(&problem.detail);
        match &problem.point {
            Some(point) => println!("point {point}: {detail}"),
            None => println!("{detail}"),
        }
    }
    if let Some(since) = report.resumed_from {
        println!("went on from where the check of {since} was stopped");
    }
    print_counts(report);
}

pub(super) fn print_counts(report: &CheckReport) {
    println!(
        "{}: {} points, {} blocks in {}: {} problems, {} points damaged",
        report.depth.as_str(),
        report.points,
        report.blocks,
        bytes(report.stored_bytes),
        report.problem_count,
        report.damaged_points,
    );
    if report.cold_packs > 0 {
        println!("{} packs are cold and were not read", report.cold_packs);
    }
}
