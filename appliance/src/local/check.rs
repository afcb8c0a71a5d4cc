use std::sync::Arc;

use rekindle_repo::{CheckDepth, CheckOptions, CheckProgress, CheckScope};

use super::work::{self, HowFar};
use crate::{cli::CheckArgs, client, exit::Failure};

/// What a MB of a rate is.
const MB: u64 = 1_000_000;

/// `repo check`: reads a repository again and verifies it, from here or by the appliance.
pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    if args.by_appliance {
        return client::check(args);
    }
    let repository = super::open(&args.open)?;
    let options = CheckOptions {
        scope: args.point.clone().map_or(CheckScope::All, CheckScope::Point),
        depth: if args.structure { CheckDepth::Structure } else { CheckDepth::Data },
        max_bytes_per_second: args.max_mb_per_second.map(|rate| u64::from(rate) * MB),
        keep: !args.keep_nothing,
        resume: !args.from_start,
    };
    let progress = Arc::new(CheckProgress::default());
    let watched = Arc::clone(&progress);
    let how_far = move || HowFar { done: watched.done(), total: watched.total() };
    let report = work::run("check", !args.daemon.json, how_far, move |cancel| {
        rekindle_repo::check(&repository, &options, &progress, cancel)
    })?;
    client::print_check(&args.open.repository, &report, args.daemon.json)
}
