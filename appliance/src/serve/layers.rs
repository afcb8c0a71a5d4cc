use std::{
    collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration,
};

use anyhow::Context;
use rekindle_cache::{Cache, CacheConfig};
use rekindle_console::{Answers, Audit, Users};
use rekindle_disk::{Disks, DisksConfig};
use rekindle_jobs::{Batches, GateScripts, Jobs, JobsConfig, JobsDeps, MoverConfig};
use rekindle_nfs::{NfsConfig, NfsServer};
use rekindle_notify::{Notifier, Sources};
use rekindle_repo::{Attached, Location, Near};
use rekindle_state::{Backups, Database};
use tokio::runtime::Handle;

use super::{backups, notify, targets};
use crate::{
    config::{self, Config, RepositoryEntry},
    exit::{Failure, Kind},
    local,
};

/// How long the start waits for stores beyond the network. They are opened later if they need longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the daemon is made of, opened from the bottom up.
pub(super) struct Layers {
    pub(super) repositories: BTreeMap<String, Attached>,
    pub(super) cache: Arc<Cache>,
    pub(super) disks: Arc<Disks>,
    pub(super) nfs: NfsServer,
    pub(super) jobs: Arc<Jobs>,
    pub(super) batches: Arc<Batches>,
    pub(super) notifier: Arc<Notifier>,
    pub(super) users: Arc<Users>,
    pub(super) audit: Arc<Audit>,
    pub(super) answers: Arc<Answers>,
    pub(super) backups: Option<Arc<Backups>>,
}

impl Layers {
    /// Opens everything. When it returns, exports and disks are as they were before the last stop
    /// or crash, and nothing listens yet.
    pub(super) async fn open(config: &Config, low_priority: Handle) -> Result<Self, Failure> {
        let dir = &config.state_dir;
        let db = Database::open(&dir.join("db")).context("open the state database")?;
        let audit = Audit::open(&db).context("open the audit log")?;
        let answers = Answers::open(&db).context("read the answers that are kept")?;
        let users = Arc::new(Users::open(&db).context("read the users")?);
        let repositories = repositories(config).await?;
        let targets = targets::open(config)?;
        let notifier =
            Notifier::open(&db, notify::channels(config)?).context("read the outbox of events")?;
        let cache = Cache::open(cache(config)?).context("open the cache")?;
        let disks = Disks::open(&dir.join("overlay"), &db, DisksConfig::default())
            .context("open the overlays")?;
        let nfs = NfsServer::open(&dir.join("nfs"), nfs(config)).context("open the NFS server")?;
        let deps = JobsDeps {
            db: db.clone(),
            disks: disks.clone(),
            exports: nfs.exports(),
            repositories: repositories.clone(),
            cache: cache.clone(),
            targets,
            low_priority,
            config: jobs(config),
        };
        let jobs = Jobs::open(deps).await.context("restore jobs and exports")?;
        let batches = Batches::open(jobs.clone(), &db).context("read the batches")?;
        let backups = backups::open(config, &db);
        Ok(Self {
            repositories,
            cache,
            disks,
            nfs,
            jobs,
            batches,
            notifier,
            users,
            audit,
            answers,
            backups,
        })
    }

    /// What the notifier looks at.
    pub(super) fn sources(&self) -> Sources {
        Sources {
            jobs: self.jobs.clone(),
            batches: self.batches.clone(),
            repositories: self.repositories.clone(),
        }
    }

    /// Leaves the cache warm and the journal empty for the next start. Neither is needed: what was
    /// acknowledged is on disk.
    pub(super) async fn close(self) {
        let disks = self.disks.clone();
        match tokio::task::spawn_blocking(move || disks.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the overlays are not closed cleanly"),
            Err(error) => tracing::warn!(%error, "the overlays are not closed cleanly"),
        }
        self.cache.close().await;
    }
}

/// A directory that cannot be opened is a mistake to be mended first; a store beyond the network may be away, and what
/// is served from elsewhere must not wait for it.
async fn repositories(config: &Config) -> Result<BTreeMap<String, Attached>, Failure> {
    let attach = |entry: &RepositoryEntry| {
        let attached = attach(config, entry).map_err(|mut failure| {
            failure.cause = failure.cause.context(format!("open repository \"{}\"", entry.name));
            failure
        })?;
        Ok((entry.name.clone(), attached))
    };
    let all: BTreeMap<_, _> =
        config.repositories().iter().map(attach).collect::<Result<_, Failure>>()?;
    let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
    for (name, attached) in &all {
        if tokio::time::timeout_at(deadline, attached.tried()).await.is_err() {
            tracing::info!(repository = name, "went on without the repository: no answer yet");
        }
    }
    Ok(all)
}

fn attach(config: &Config, entry: &RepositoryEntry) -> Result<Attached, Failure> {
    if entry.has_images() {
        // Opening it asks nobody.
        return local::open_entry(config, entry).map(Attached::from);
    }
    match entry.location()? {
        Location::Local(_) => local::open_entry(config, entry).map(Attached::from),
        place @ Location::S3(_) => {
            let passkey = local::passkey::configured(entry)?;
            let near = Near {
                maps: Some(config.cache_dir().join("maps")),
                hot: entry.hot_copy.as_ref().map(|hot| hot.dir.clone()),
            };
            Ok(Attached::open(&entry.name, place, passkey, near)?)
        }
    }
}

fn cache(config: &Config) -> Result<CacheConfig, Failure> {
    let key = config::ring_key(config).map_err(|e| Failure::new(Kind::Refused, e))?;
    Ok(CacheConfig {
        root_dir: config.cache_dir(),
        ram_bytes: config.cache.ram_bytes,
        max_bytes: config.cache.max_bytes,
        min_free_percent: config.cache.min_free_percent,
        key,
    })
}

fn nfs(config: &Config) -> NfsConfig {
    NfsConfig {
        listen: config.nfs.listen,
        port: config.nfs.port,
        portmap: config.nfs.portmap,
        portmap_port: config.nfs.portmap_port,
        held_read_seconds: config.nfs.held_read_seconds,
        held_read_answer: config.nfs.held_read_answer,
        ..NfsConfig::default()
    }
}

fn jobs(config: &Config) -> JobsConfig {
    let recovery = &config.recovery;
    let mut jobs = JobsConfig::new(config.state_dir.join("exports"));
    let said = |entry: RepositoryEntry| Some((entry.name, entry.recover_needs_passkey?));
    jobs.needs_passkey = config.repositories().into_iter().filter_map(said).collect();
    let upkeep = |entry: RepositoryEntry| (entry.name.clone(), entry.upkeep());
    jobs.upkeep = config.repositories().into_iter().map(upkeep).collect();
    jobs.own_dirs = vec![config.state_dir.clone(), config.cache_dir()];
    jobs.own_dirs.extend(config.repositories().into_iter().filter_map(|entry| entry.path));
    let hot = config.repositories().into_iter().filter_map(|entry| entry.hot_copy);
    jobs.own_dirs.extend(hot.map(|hot| hot.dir));
    jobs.ring_gives_way = one_file_system(&config.state_dir, &config.cache_dir());
    jobs.server = config.nfs.advertise;
    jobs.reserve_min_bytes = recovery.reserve_min_bytes;
    jobs.reserve_percent_of_vm = recovery.reserve_percent_of_vm;
    jobs.admission = recovery.admission;
    jobs.measured_for = Duration::from_secs(recovery.measured_hours * 3600);
    jobs.max_active = recovery.max_active;
    jobs.max_queued = recovery.max_queued;
    jobs.keep = Duration::from_secs(recovery.keep_seconds);
    jobs.gate_scripts = recovery.gate_scripts_dir.clone().map(GateScripts::new);
    jobs.mount_expires = Duration::from_secs(recovery.mount_expires_seconds);
    jobs.boot_profile = Duration::from_secs(recovery.boot_profile_seconds);
    jobs.mover = MoverConfig {
        warm: config.mover.warm,
        parallel: config.mover.parallel,
        max_bytes_per_second: config.mover.max_bytes_per_second,
        total_max_bytes_per_second: config.mover.total_max_bytes_per_second,
        hours: config.mover.hours.clone(),
        guest_read_p95: Duration::from_millis(config.mover.guest_read_p95_ms),
        settle_below_bytes: config.mover.settle_below_bytes,
        max_passes: config.mover.max_passes,
        max_moves_per_host: config.mover.max_moves_per_host,
        max_moves_per_datastore: config.mover.max_moves_per_datastore,
        ..MoverConfig::default()
    };
    jobs
}

/// Whether two directories share their space. Not, if one cannot be looked at.
fn one_file_system(a: &Path, b: &Path) -> bool {
    let device = |dir: &Path| std::fs::metadata(dir).map(|found| found.dev());
    matches!((device(a), device(b)), (Ok(a), Ok(b)) if a == b)
}
