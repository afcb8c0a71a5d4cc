use std::sync::Arc;

use rekindle_repo::{CheckProgress, CheckReport, CheckScope};

use super::work::{self, HowFar};
use crate::{
    cli::OpenArgs,
    client::bytes,
    exit::{Failure, Kind},
};

/// `repo check`: reads everything in a repository and verifies it.
pub(super) fn check(args: &OpenArgs, json: bool) -> Result<(), Failure> {
    let which = &args.repository;
    let repository = super::open(args)?;
    let progress = Arc::new(CheckProgress::default());
    let watched = Arc::clone(&progress);
    let how_far = move || HowFar { done: watched.done(), total: watched.total() };
    let report = work::run("check", !json, how_far, move |cancel| {
        rekindle_repo::check(&repository, &CheckScope::All, &progress, cancel)
    })?;
    print(&report, json)?;
    if report.is_sound() {
        return Ok(());
    }
    Err(Failure::said(
        Kind::Failed,
        format!("{which} is damaged in {} places", report.problem_count),
    ))
}

fn print(report: &CheckReport, json: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?;
        println!("{text}");
        return Ok(());
    }
    for problem in &report.problems {
        match &problem.point {
            Some(point) => println!("point {point}: {}", problem.detail),
            None => println!("{}", problem.detail),
        }
    }
    println!(
        "{} points, {} blocks in {}: {} problems",
        report.points,
        report.blocks,
        bytes(report.stored_bytes),
        report.problem_count,
    );
    Ok(())
}
