use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rekindle_repo::{
    Changes, IngestOptions, IngestProgress, IngestReport, MAX_CHANGES_BYTES, PointId, Repository,
};
use serde_json::json;

use super::{
    vsphere,
    work::{self, HowFar},
};
use crate::{
    cli::{IngestArgs, OpenArgs},
    client::bytes,
    config::{self, RepositoryEntry},
    exit::{Failure, Kind},
    logging,
};

/// `ingest`: a VM's files become a recovery point.
pub(crate) fn ingest(args: &IngestArgs) -> Result<(), Failure> {
    logging::command();
    let source = args.source.as_ref().map(|source| there_is(source)).transpose()?;
    let config = config::load(&args.config)?;
    let from = args.from.clone();
    let (repository, configured) = repository(args)?;
    let options = IngestOptions {
        name: args.name.clone(),
        tags: args.tags.clone(),
        changes: changes(args)?,
        compression_level: args.compression_level.or(configured.compression_level),
        abandoned_after: configured.grace,
        ..IngestOptions::default()
    };
    let progress = Arc::new(IngestProgress::default());
    let watched = Arc::clone(&progress);
    let how_far = move || {
        let counts = watched.counts();
        HowFar { done: counts.done, total: counts.total }
    };
    let started = Instant::now();
    let report = work::run("ingest", !args.json, how_far, move |cancel| match (&source, &from) {
        (_, Some(from)) => vsphere::take(&config, from, (&repository, &options), &progress, cancel),
        (Some(source), None) => {
            Ok(rekindle_repo::ingest(&repository, source, &options, &progress, cancel)?)
        }
        (None, None) => Err(Failure::refused("there is nothing to ingest")),
    })?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&report, seconds)
    } else {
        print(&report, seconds)
    }
    Ok(())
}

/// Says early, and with the name as it was given, that there is nothing to read.
fn there_is(source: &Path) -> Result<PathBuf, Failure> {
    match source.try_exists() {
        Ok(true) => Ok(source.to_owned()),
        Ok(false) => {
            let text = format!("{} does not exist", source.display());
            Err(Failure::said(Kind::NotFound, text))
        }
        Err(e) => Err(Failure::refused(format!("cannot read {}: {e}", source.display()))),
    }
}

/// What changed since which point, if that was said.
fn changes(args: &IngestArgs) -> Result<Option<Changes>, Failure> {
    let Some(parent) = &args.parent else { return Ok(None) };
    let parent: PointId = parent.parse().map_err(|e| Failure::refused(format!("--parent: {e}")))?;
    let Some(file) = &args.changed else {
        return Ok(args.dirty_bitmap.as_ref().map(|name| Changes::dirty_bitmap(parent, name)));
    };
    let unread = |e| Failure::refused(format!("cannot read {}: {e}", file.display()));
    let mut json = Vec::new();
    let source = std::fs::File::open(file).map_err(unread)?;
    source.take(MAX_CHANGES_BYTES + 1).read_to_end(&mut json).map_err(unread)?;
    Ok(Some(Changes::parse(parent, &json)?))
}

/// What the configuration says of ingests into a repository.
#[derive(Default)]
struct Configured {
    compression_level: Option<i32>,
    grace: Option<Duration>,
}

impl From<&RepositoryEntry> for Configured {
    fn from(entry: &RepositoryEntry) -> Self {
        let grace = Duration::from_secs(3600 * u64::from(entry.upkeep().grace_hours));
        Self { compression_level: entry.compression_level, grace: Some(grace) }
    }
}

/// The repository that is named, or the only one there is; and what is configured for it.
fn repository(args: &IngestArgs) -> Result<(Repository, Configured), Failure> {
    if let Some(which) = &args.repository {
        let open = OpenArgs {
            repository: which.clone(),
            passkey: args.passkey.clone(),
            config: args.config.clone(),
        };
        let entries = config::load(&args.config)?.repositories();
        let entry = entries.iter().find(|entry| entry.name == *which);
        return Ok((super::open(&open)?, entry.map(Configured::from).unwrap_or_default()));
    }
    let config = config::load(&args.config)?;
    match config.repositories().as_slice() {
        [only] => Ok((super::open_one(&config, only, &args.passkey)?, Configured::from(only))),
        several => {
            let names: Vec<_> = several.iter().map(|entry| entry.name.as_str()).collect();
            let text = format!("name the repository with --repository: {}", names.join(" or "));
            Err(Failure::refused(text))
        }
    }
}

fn print_json(report: &IngestReport, seconds: f64) {
    let point = &report.point;
    let disks: Vec<_> = point
        .disks
        .iter()
        .map(|disk| {
            json!({
                "key": disk.key,
                "file_name": disk.file_name,
                "format": disk.source_format,
                "size_bytes": disk.size_bytes,
                "stored_bytes": disk.stored_bytes,
            })
        })
        .collect();
    let shown = json!({
        "point": point.id.to_string(),
        "vm": { "id": point.vm.id.to_string(), "name": point.vm.name },
        "created_at": point.created_at,
        "tags": point.tags,
        "disks": disks,
        "counts": report.counts,
        "seconds": seconds,
    });
    println!("{shown:#}");
}

fn print(report: &IngestReport, seconds: f64) {
    let (point, counts) = (&report.point, &report.counts);
    println!("recovery point {} of {}", point.id, point.vm.name);
    println!(
        "{} of disks in {seconds:.1} s: {} zero, {} unchanged, {} known already, {} new stored in {}",
        bytes(counts.total),
        bytes(counts.zero),
        bytes(counts.unchanged),
        bytes(counts.deduplicated),
        bytes(counts.written),
        bytes(counts.stored),
    );
}
