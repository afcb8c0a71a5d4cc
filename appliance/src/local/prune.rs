use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rekindle_repo::{PruneOptions, PruneProgress};

use super::work::{self, HowFar};
use crate::{
    cli::{OpenArgs, PruneArgs},
    client, config,
    exit::Failure,
};

/// `repo prune`: by the appliance, or from here if nobody else uses the repository.
pub(super) fn prune(args: &PruneArgs) -> Result<(), Failure> {
    if !args.without_appliance {
        return client::prune(args);
    }
    let open = OpenArgs {
        repository: args.repository.clone(),
        passkey: args.passkey.clone(),
        config: args.config.clone(),
    };
    let repository = super::open(&open)?;
    let options = options(args)?;
    let progress = Arc::new(PruneProgress::default());
    let watched = Arc::clone(&progress);
    let how_far = move || HowFar { done: watched.done(), total: watched.total() };
    let report = work::run("prune", !args.daemon.json, how_far, move |cancel| {
        rekindle_repo::prune(&repository, &options, &BTreeSet::new, &progress, cancel)
    })?;
    client::print_report(&report, args.daemon.json)
}

fn options(args: &PruneArgs) -> Result<PruneOptions, Failure> {
    let entries = config::load(&args.config)?.repositories();
    let entry = entries.iter().find(|entry| entry.name == args.repository);
    let configured = entry.map(|entry| entry.upkeep()).unwrap_or_default();
    let hours = args.grace_hours.unwrap_or(configured.grace_hours);
    Ok(PruneOptions {
        retention: args.keep.retention().unwrap_or(configured.retention),
        drop: args.drop.iter().cloned().collect(),
        spare: args.spare.iter().cloned().collect(),
        grace: SignedDuration::from_hours(hours.into()),
        now: Timestamp::now(),
        dry_run: args.dry_run,
    })
}
