use std::{thread, time::Duration};

use rekindle_repo::{
    MoveReport, PointId, PointManifest, Readiness, RepoError, Repository, Retrieval, ThawOptions,
    Tier,
};
use serde::Serialize;

use crate::{
    cli::{ColdArgs, RetrievalArg, TierArg},
    client::{bytes, seconds},
    exit::Failure,
};

/// How often a thaw that is waited for is asked after, at first and at most.
const ASK_AFTER: Duration = Duration::from_secs(1);
const ASK_AT_MOST: Duration = Duration::from_secs(300);

/// `repo tier`: how soon a point can be recovered.
pub(super) fn tier(args: &ColdArgs) -> Result<(), Failure> {
    let (repository, point) = open(args)?;
    show(&rekindle_repo::readiness(&repository, &point)?, args.json)
}

/// `repo thaw`: has the store bring a cold point to where it can be read.
pub(super) fn thaw(
    args: &ColdArgs,
    retrieval: RetrievalArg,
    days: u32,
    wait: bool,
) -> Result<(), Failure> {
    let (repository, point) = open(args)?;
    let retrieval = match retrieval {
        RetrievalArg::Expedited => Retrieval::Expedited,
        RetrievalArg::Standard => Retrieval::Standard,
        RetrievalArg::Bulk => Retrieval::Bulk,
    };
    let mut readiness = rekindle_repo::thaw(&repository, &point, ThawOptions { retrieval, days })?;
    let mut pause = ASK_AFTER;
    while wait && !readiness.ready {
        if !args.json {
            println!("{} of {} packs are being thawed", readiness.thawing, readiness.packs);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(ASK_AT_MOST);
        readiness = rekindle_repo::readiness(&repository, &point)?;
    }
    show(&readiness, args.json)
}

/// `repo move`: brings a point's packs to another tier.
pub(super) fn move_to(args: &ColdArgs, tier: TierArg) -> Result<(), Failure> {
    let (repository, point) = open(args)?;
    let tier = match tier {
        TierArg::Hot => return super::hot::copy(args, &repository, &point),
        TierArg::Warm => Tier::Warm,
        TierArg::Glacier => Tier::Glacier,
        TierArg::DeepArchive => Tier::DeepArchive,
    };
    let report = rekindle_repo::move_point(&repository, &point, tier)?;
    if tier == Tier::Warm {
        super::hot::drop(args, &repository, &point)?;
    }
    if args.json {
        return print_json(&report);
    }
    let MoveReport { moved, moved_bytes, there, shared } = report;
    println!(
        "{}: {moved} packs ({}) moved to {}, {there} were there, {shared} stay for other points",
        point.id,
        bytes(moved_bytes),
        tier.name(),
    );
    Ok(())
}

fn open(args: &ColdArgs) -> Result<(Repository, PointManifest), Failure> {
    let repository = super::open(&args.open)?;
    super::hot::use_if_there(args, &repository)?;
    let point = super::block_on(find(&repository, &args.point))??;
    Ok((repository, point))
}

/// The point of that id, else the newest of the VM of that name.
async fn find(repository: &Repository, which: &str) -> Result<PointManifest, RepoError> {
    if let Ok(id) = which.parse::<PointId>() {
        match repository.point(&id).await {
            Err(RepoError::NotFound { .. }) => {}
            found => return found,
        }
    }
    repository.latest(which).await
}

fn show(readiness: &Readiness, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(readiness);
    }
    println!(
        "{}: {} packs, {}; {}",
        readiness.tier.name(),
        readiness.packs,
        bytes(readiness.pack_bytes),
        if readiness.ready { "ready" } else { "not ready" },
    );
    if readiness.cold_bytes > 0 {
        println!(
            "{} frozen, {} being thawed, {} thawed",
            readiness.frozen, readiness.thawing, readiness.thawed
        );
    }
    if let Some(until) = readiness.thawed_until {
        println!("thawed until {until}");
    }
    for estimate in &readiness.estimates {
        let way = format!("{:?}", estimate.retrieval).to_lowercase();
        let within = seconds(estimate.seconds);
        println!("{way:<10} within {within}, about {:.2} USD (Amazon's list prices)", estimate.usd);
    }
    Ok(())
}

pub(super) fn print_json(what: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(what).map_err(anyhow::Error::from)?);
    Ok(())
}
