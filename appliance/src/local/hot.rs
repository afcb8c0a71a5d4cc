use std::collections::BTreeSet;

use rekindle_repo::{HotLimits, HotReport, PointManifest, Repository};

use super::tier::print_json;
use crate::{
    cli::ColdArgs,
    client::bytes,
    config::{self, HotCopySection},
    exit::Failure,
};

/// What a hot copy may take.
pub(crate) fn limits(hot: &HotCopySection) -> HotLimits {
    HotLimits { max_bytes: hot.max_bytes, max_bytes_per_second: hot.max_bytes_per_second }
}

/// `repo move --tier hot`
pub(super) fn copy(
    args: &ColdArgs,
    repository: &Repository,
    point: &PointManifest,
) -> Result<(), Failure> {
    let hot = configured(args)?.ok_or_else(|| {
        Failure::refused(
            "no hot_copy is configured for the repository (name it as the configuration does)",
        )
    })?;
    repository.keep_hot_in(&hot.dir)?;
    let none = BTreeSet::new();
    let report = rekindle_repo::copy_hot(repository, point, limits(&hot), &none, &|| false)?;
    if args.json {
        return print_json(&report);
    }
    let HotReport { copied_bytes, there_bytes, dropped } = report;
    let (copied, there) = (bytes(copied_bytes), bytes(there_bytes));
    println!("{}: {copied} copied, {there} were there", point.id);
    for point in dropped {
        println!("{point} went to make room");
    }
    Ok(())
}

/// Takes the point out of the hot copy, if there is one.
pub(super) fn drop(
    args: &ColdArgs,
    repository: &Repository,
    point: &PointManifest,
) -> Result<(), Failure> {
    if configured(args)?.is_some_and(|hot| hot.dir.exists()) {
        rekindle_repo::drop_hot(repository, &point.id)?;
    }
    Ok(())
}

/// Has the repository know what is in its hot copy, if there is one.
pub(super) fn use_if_there(args: &ColdArgs, repository: &Repository) -> Result<(), Failure> {
    match configured(args)?.filter(|hot| hot.dir.exists()) {
        Some(hot) => Ok(repository.keep_hot_in(&hot.dir)?),
        None => Ok(()),
    }
}

/// The hot copy of the repository, if it is named as the configuration does.
fn configured(args: &ColdArgs) -> Result<Option<HotCopySection>, Failure> {
    let entries = config::load(&args.open.config)?.repositories();
    let entry = entries.into_iter().find(|entry| entry.name == args.open.repository);
    Ok(entry.and_then(|entry| entry.hot_copy))
}
