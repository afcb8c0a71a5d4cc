//! Commands that need no running appliance: repositories and ingest.

mod check;
pub(crate) mod hot;
mod images;
mod ingest;
pub(crate) mod passkey;
mod prune;
mod restore;
mod tier;
pub(crate) mod vsphere;
mod work;

use std::path::Path;

use anyhow::Context;
use rekindle_block::BlockSize;
use rekindle_repo::{CreateOptions, Repository, S3Location};
use serde_json::json;

pub(crate) use ingest::ingest;

use crate::{
    cli::{ConfigArgs, OpenArgs, PasskeyArgs, RepoCommand, S3Args, StateCommand},
    client::{self, bytes},
    config::{self, Config, RepositoryEntry},
    exit::{Failure, Kind},
    logging,
    serve::make_state_dir,
};

/// The appliance's own state.
pub(crate) fn state(what: StateCommand) -> Result<(), Failure> {
    match what {
        StateCommand::Backup(args) => client::back_up_state(&args),
        StateCommand::Ls(args) => client::state_backups(&args),
        StateCommand::Restore(args) => {
            logging::command();
            restore::restore(&args)
        }
    }
}

/// What this host is called.
pub(crate) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

pub(crate) fn repo(what: RepoCommand) -> Result<(), Failure> {
    logging::command();
    match what {
        RepoCommand::Add { place, s3, images: true, json, .. } => {
            images::add(entry_of(&place, &s3)?, json)
        }
        RepoCommand::Add { place, s3, block_bytes, encrypt, label, passkey, json, .. } => {
            let block_size = BlockSize::new(block_bytes);
            let file = passkey.passkey_file;
            let options = CreateOptions {
                block_size: block_size.map_err(|e| Failure::new(Kind::Refused, e))?,
                passkey: encrypt.then(|| passkey::new(file.as_deref(), "Passkey")).transpose()?,
                passkey_label: label,
            };
            let mut entry = entry_of(&place, &s3)?;
            entry.passkey_file = file.filter(|_| encrypt);
            add(&entry, &options, json)
        }
        RepoCommand::Ls { config, json } => list(&config, json),
        RepoCommand::State(args) => crate::client::repositories(&args.daemon),
        RepoCommand::Check(args) => check::check(&args),
        RepoCommand::Tier { point } => tier::tier(&point),
        RepoCommand::Thaw { point, retrieval, days, wait } => {
            tier::thaw(&point, retrieval, days, wait)
        }
        RepoCommand::Move { point, tier } => tier::move_to(&point, tier),
        RepoCommand::Prune(args) => prune::prune(&args),
        RepoCommand::Upkeep(args) => crate::client::upkeep(&args),
        RepoCommand::Passkey { what } => passkey::passkey(&what),
    }
}

fn add(entry: &RepositoryEntry, options: &CreateOptions, json: bool) -> Result<(), Failure> {
    let repository = Repository::create(entry.location()?, options)?;
    let (place, sealed) = (repository.location(), repository.is_sealed());
    if json {
        let (path, block_bytes) = (place.to_string(), options.block_size.bytes());
        let shown = json!({ "path": path, "id": repository.id(), "block_bytes": block_bytes, "sealed": sealed });
        println!("{shown}");
        return Ok(());
    }
    println!("made repository {} in {place}", repository.id());
    println!("add it to the configuration, then restart the appliance:\n");
    let text = toml::to_string(entry).context("write the configuration")?;
    print!("[[repository]]\n{text}");
    if sealed {
        println!("\nwithout a passkey nobody can read it again: keep one elsewhere");
    }
    Ok(())
}

/// The configuration of a repository that is named by its place.
fn entry_of(place: &str, s3: &S3Args) -> Result<RepositoryEntry, Failure> {
    if !place.starts_with("s3://") {
        let path = std::path::absolute(place).context("make the path absolute")?;
        return Ok(RepositoryEntry::local("NAME", path));
    }
    let named: S3Location = place.parse()?;
    Ok(RepositoryEntry {
        path: None,
        bucket: Some(named.bucket),
        prefix: Some(named.prefix).filter(|prefix| !prefix.is_empty()),
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style,
        ca_file: s3.ca_file.clone(),
        credentials_file: s3.credentials_file.clone(),
        profile: s3.profile.clone(),
        ..RepositoryEntry::local("NAME", "".into())
    })
}

fn list(args: &ConfigArgs, json: bool) -> Result<(), Failure> {
    let config = config::load(args)?;
    let mut shown = Vec::new();
    for entry in config.repositories() {
        shown.push(match block_on(summary(&entry))? {
            Ok(found) => found,
            Err(failure) => json!({ "error": format!("{:#}", failure.cause) }),
        });
        let last = shown.len() - 1;
        shown[last]["name"] = entry.name.clone().into();
        let place = entry.location().map(|place| place.to_string());
        shown[last]["path"] = json!(place.unwrap_or_default());
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

async fn summary(entry: &RepositoryEntry) -> Result<serde_json::Value, Failure> {
    let repository = open_configured(entry)?;
    let listing = repository.points().await?;
    let disks = listing.points.iter().flat_map(|point| &point.disks);
    let vms: std::collections::BTreeSet<_> =
        listing.points.iter().map(|point| point.vm.id.as_str()).collect();
    Ok(json!({
        "id": repository.id(),
        "kind": repository.kind(),
        "sealed": repository.is_sealed(),
        "points": listing.points.len(),
        "vms": vms.len(),
        "damaged": listing.damaged.len(),
        "stored_bytes": disks.map(|disk| disk.stored_bytes).sum::<u64>(),
    }))
}

/// Opens a repository by directory or configured name.
fn open(args: &OpenArgs) -> Result<Repository, Failure> {
    let which = args.repository.as_str();
    if which.starts_with("s3://") {
        return passkey::open_at(which.parse::<S3Location>()?, &args.passkey, None);
    }
    if which.contains('/') || Path::new(which).is_dir() {
        return passkey::open_at(Path::new(which), &args.passkey, None);
    }
    let config = config::load(&args.config)?;
    let entry = config.repositories().into_iter().find(|entry| entry.name == which);
    let entry = entry.ok_or_else(|| {
        let known: Vec<_> = config.repositories().into_iter().map(|entry| entry.name).collect();
        let text = format!(
            "there is no repository {which:?}: name one of {}, a directory (with a slash in it), or s3://BUCKET/PREFIX",
            known.join(", ")
        );
        Failure::said(Kind::NotFound, text)
    })?;
    open_one(&config, &entry, &args.passkey)
}

/// Opens a configured repository for a command, which may ask for the passkey.
fn open_one(
    config: &Config,
    entry: &RepositoryEntry,
    passkey: &PasskeyArgs,
) -> Result<Repository, Failure> {
    make_default(config, entry)?;
    if entry.has_images() {
        return open_configured(entry);
    }
    passkey::open_at(entry.location()?, passkey, Some(entry))
}

/// Opens a configured repository as the daemon does, which asks nobody. The default one is made when it is missing.
pub(crate) fn open_entry(config: &Config, entry: &RepositoryEntry) -> Result<Repository, Failure> {
    make_default(config, entry)?;
    open_configured(entry)
}

/// Opens what a configuration says is there, and asks nobody.
fn open_configured(entry: &RepositoryEntry) -> Result<Repository, Failure> {
    let place = entry.location()?;
    if entry.has_images() {
        return Ok(Repository::open_images(place)?);
    }
    let passkey = passkey::configured(entry)?;
    Ok(Repository::open_with(place, passkey.as_ref())?)
}

fn make_default(config: &Config, entry: &RepositoryEntry) -> Result<(), Failure> {
    let place = entry.location()?;
    let missing = place.path().is_some_and(|path| !path.join("repository.json").exists());
    if config.has_default_repository() && missing {
        make_state_dir(&config.state_dir)?;
        Repository::create(place, &CreateOptions::default())?;
    }
    Ok(())
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    Ok(runtime.block_on(work))
}
