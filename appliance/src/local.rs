//! Commands that need no running appliance: repositories and ingest.

mod check;
mod ingest;
mod work;

use std::path::Path;

use anyhow::Context;
use rekindle_block::BlockSize;
use rekindle_repo::{CreateOptions, RepoError, Repository};
use serde_json::json;

pub(crate) use ingest::ingest;

use crate::{
    cli::{ConfigArgs, RepoCommand},
    client::bytes,
    config::{self, Config, RepositoryEntry},
    exit::{Failure, Kind},
    logging,
    serve::make_state_dir,
};

pub(crate) fn repo(what: RepoCommand) -> Result<(), Failure> {
    logging::command();
    match what {
        RepoCommand::Add { path, block_bytes, json } => add(&path, block_bytes, json),
        RepoCommand::Ls { config, json } => list(&config, json),
        RepoCommand::Check { repository, config, json } => check::check(&repository, &config, json),
        RepoCommand::Prune => Err(Failure::refused("pruning is not in this version")),
    }
}

fn add(path: &Path, block_bytes: u32, json: bool) -> Result<(), Failure> {
    let path = std::path::absolute(path).context("make the path absolute")?;
    let block_size = BlockSize::new(block_bytes).map_err(|e| Failure::new(Kind::Refused, e))?;
    let repository = Repository::create(&path, &CreateOptions { block_size })?;
    if json {
        println!("{}", json!({ "path": path, "id": repository.id(), "block_bytes": block_bytes }));
        return Ok(());
    }
    println!("made repository {} in {}", repository.id(), path.display());
    println!("add it to the configuration, then restart the appliance:\n");
    println!("[[repository]]\nname = \"NAME\"\npath = \"{}\"", path.display());
    Ok(())
}

fn list(args: &ConfigArgs, json: bool) -> Result<(), Failure> {
    let config = config::load(args)?;
    let mut shown = Vec::new();
    for entry in config.repositories() {
        let found = block_on(summary(&entry))?;
        shown.push(match found {
            Ok(found) => found,
            Err(error) => json!({ "error": error.to_string() }),
        });
        let last = shown.len() - 1;
        shown[last]["name"] = entry.name.into();
        shown[last]["path"] = json!(entry.path);
    }
    if json {
        println!("{}", json!({ "repositories": shown }));
        return Ok(());
    }
    for one in shown {
        let name = one["name"].as_str().unwrap_or_default();
        let path = one["path"].as_str().unwrap_or_default();
        match one["error"].as_str() {
            Some(error) => println!("{name}  {path}  {error}"),
            None => println!(
                "{name}  {path}  {} points of {} VMs, {} damaged, {} stored",
                one["points"],
                one["vms"],
                one["damaged"],
                bytes(one["stored_bytes"].as_u64().unwrap_or_default()),
            ),
        }
    }
    Ok(())
}

async fn summary(entry: &RepositoryEntry) -> Result<serde_json::Value, RepoError> {
    let repository = Repository::open(&entry.path)?;
    let listing = repository.points().await?;
    let disks = listing.points.iter().flat_map(|point| &point.disks);
    let vms: std::collections::BTreeSet<_> =
        listing.points.iter().map(|point| point.vm.id.as_str()).collect();
    Ok(json!({
        "id": repository.id(),
        "points": listing.points.len(),
        "vms": vms.len(),
        "damaged": listing.damaged.len(),
        "stored_bytes": disks.map(|disk| disk.stored_bytes).sum::<u64>(),
    }))
}

/// Opens a repository by directory or configured name.
fn open(which: &str, args: &ConfigArgs) -> Result<Repository, Failure> {
    if which.contains('/') || Path::new(which).is_dir() {
        return Ok(Repository::open(Path::new(which))?);
    }
    let config = config::load(args)?;
    let entry = config.repositories().into_iter().find(|entry| entry.name == which);
    let entry = entry.ok_or_else(|| {
        let known: Vec<_> = config.repositories().into_iter().map(|entry| entry.name).collect();
        let text = format!(
            "there is no repository {which:?}: name one of {}, or a directory (with a slash in it)",
            known.join(", ")
        );
        Failure::said(Kind::NotFound, text)
    })?;
    open_entry(&config, &entry)
}

/// Opens a configured repository. The default one is made when it is missing.
pub(crate) fn open_entry(config: &Config, entry: &RepositoryEntry) -> Result<Repository, Failure> {
    let missing = !entry.path.join("repository.json").exists();
    if config.has_default_repository() && missing {
        make_state_dir(&config.state_dir)?;
        return Ok(Repository::create(&entry.path, &CreateOptions::default())?);
    }
    Ok(Repository::open(&entry.path)?)
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    Ok(runtime.block_on(work))
}
