use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rekindle_cache::Cache;
use rekindle_disk::{Disk, Disks};
use rekindle_nfs::Exports;
use rekindle_repo::{Attached, Repository};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Gate;
use crate::budget::Moves;
use crate::hours::JobLimit;
use crate::inboxes::Inboxes;
use crate::journal::{HostMount, Journal, Record};
use crate::live::Live;
use crate::origins::Origins;
use crate::passkeys::Passkeys;
use crate::profiles::Profiles;
use crate::room::Rooms;
use crate::shares::Shares;
use crate::space::{Found, SpaceView};
use crate::target::Link;
use crate::writes::Writes;
use crate::{JobError, JobId, JobsConfig, JobsDeps};

/// What all jobs work with.
pub(crate) struct Env {
    pub(crate) config: JobsConfig,
    pub(crate) journal: Journal,
    pub(crate) disks: Arc<Disks>,
    pub(crate) exports: Exports,
    pub(crate) cache: Arc<Cache>,
    pub(crate) repositories: BTreeMap<String, Attached>,
    pub(crate) links: BTreeMap<String, Link>,
    pub(crate) gate: Gate,
    pub(crate) moves: Moves,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) passkeys: Passkeys,
    /// Users of exports, by the export's name.
    pub(crate) exported: Shares<String>,
    /// Users of datastores.
    pub(crate) mounted: Shares<HostMount>,
    pub(crate) overlays: Overlays,
    pub(crate) profiles: Profiles,
    pub(crate) writes: Writes,
    pub(crate) origins: Origins,
    pub(crate) inboxes: Inboxes,
    /// Tasks that outlive their jobs for a moment, to keep what they know.
    pub(crate) background: TaskTracker,
    /// Where movers and upkeep run.
    pub(crate) low_priority: Handle,
    /// What each job's mover may read.
    pub(crate) job_limit: JobLimit,
    /// What was found at the last look.
    pub(crate) space: Mutex<SpaceView>,
    /// The appliance stops.
    pub(crate) closing: CancellationToken,
    left: Mutex<Vec<Live>>,
}

impl Env {
    pub(crate) fn new(
        deps: JobsDeps,
        journal: Journal,
        profiles: Profiles,
        writes: Writes,
        origins: Origins,
    ) -> Self {
        let links = deps.targets.into_iter().map(|(name, target)| (name, Link::new(target)));
        Self {
            config: deps.config,
            journal,
            disks: deps.disks,
            exports: deps.exports,
            cache: deps.cache,
            repositories: deps.repositories,
            links: links.collect(),
            gate: Gate::default(),
            moves: Moves::default(),
            rooms: Arc::default(),
            passkeys: Passkeys::default(),
            exported: Shares::default(),
            mounted: Shares::default(),
            overlays: Overlays::default(),
            profiles,
            writes,
            origins,
            inboxes: Inboxes::default(),
            background: TaskTracker::new(),
            low_priority: deps.low_priority,
            job_limit: JobLimit::default(),
            space: Mutex::default(),
            closing: CancellationToken::new(),
            left: Mutex::default(),
        }
    }

    /// Keeps what a job held when the appliance stopped: guests' writes that were held stay so
    /// for as long as NFS answers.
    pub(crate) fn keep(&self, live: Live) {
        self.left.lock().push(live);
    }

    /// The repository, if it is open.
    pub(crate) fn repository(&self, name: &str) -> Result<Repository, JobError> {
        self.attached(name)?.get().map_err(|e| crate::failure::repo("open the repository", e))
    }

    pub(crate) fn attached(&self, name: &str) -> Result<&Attached, JobError> {
        let found = self.repositories.get(name);
        found.ok_or_else(|| JobError::NotFound { what: "repository", name: name.to_owned() })
    }

    /// Whether a recovery from the repository needs a passkey. One that is not open yet may be sealed.
    pub(crate) fn needs_passkey(&self, name: &str) -> bool {
        match self.config.needs_passkey.get(name) {
            Some(needed) => *needed,
            None => self.repository(name).map_or(true, |repository| repository.is_sealed()),
        }
    }

    pub(crate) fn link(&self, target: &str) -> Result<&Link, JobError> {
        let found = self.links.get(target);
        found.ok_or_else(|| JobError::NotFound { what: "target", name: target.to_owned() })
    }

    /// The directory of an export.
    pub(crate) fn export_dir(&self, export: &str) -> PathBuf {
        self.config.exports_dir.join(export)
    }

    /// The VM's folder.
    pub(crate) fn folder(&self, record: &Record) -> PathBuf {
        self.export_dir(&record.place.export).join(&record.place.folder)
    }

    /// Looks at the space for guests' writes.
    pub(crate) fn look_at_space(&self) -> Result<Found, JobError> {
        let space = self.disks.space();
        let space = space.map_err(|e| crate::failure::disk("look at the free space", e))?;
        let ring = match self.config.ring_gives_way {
            true => self.cache.stats().ring_bytes,
            false => 0,
        };
        let written = self.overlays.all_used();
        let reserved = self.gate.promised(self.overlays.used_by_each());
        Ok(Found { free: space.free, ring, written, reserved })
    }

    /// Bytes that overlays may take: what is free where they live, and what the cache's ring gives
    /// back there.
    pub(crate) fn free(&self) -> Result<u64, JobError> {
        Ok(self.look_at_space()?.left())
    }
}

/// Which disks each job has attached, to tell how much of its reserve it has used.
#[derive(Default)]
pub(crate) struct Overlays(Mutex<BTreeMap<JobId, Vec<Weak<Disk>>>>);

impl Overlays {
    pub(crate) fn set(&self, job: &JobId, disks: &[Arc<Disk>]) {
        self.0.lock().insert(job.clone(), disks.iter().map(Arc::downgrade).collect());
    }

    pub(crate) fn forget(&self, job: &JobId) {
        self.0.lock().remove(job);
    }

    /// Bytes that all jobs' overlays take.
    pub(crate) fn all_used(&self) -> u64 {
        self.each().values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Bytes that the job's overlays take.
    pub(crate) fn used(&self, job: &JobId) -> u64 {
        self.used_by_each()(job)
    }

    /// The same for whichever job, as it is now.
    pub(crate) fn used_by_each(&self) -> impl Fn(&JobId) -> u64 + use<> {
        let each = self.each();
        move |job| each.get(job).copied().unwrap_or_default()
    }

    /// Bytes that each job's overlays take. What lies under disks of several is the oldest one's.
    fn each(&self) -> BTreeMap<JobId, u64> {
        let (all, mut seen) = (self.0.lock(), BTreeSet::new());
        let own = |(job, disks): (&JobId, &Vec<Weak<Disk>>)| {
            let parts = disks.iter().filter_map(Weak::upgrade).flat_map(|disk| disk.used_parts());
            let new = parts.filter(|(number, _)| seen.insert(*number));
            (job.clone(), new.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(bytes)))
        };
        all.iter().map(own).collect()
    }
}
