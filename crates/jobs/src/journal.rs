use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use rekindle_nfs::ClientNet;
use rekindle_state::{Database, Keyspace, StateError};
use serde::{Deserialize, Serialize};

use crate::target::OriginalVm;
use crate::{
    Compared, Destination, ErrorView, Event, ImageFormat, JobError, JobId, JobState, Mode, Next,
    Outcome, Plan, Planned, RecoveryRequest, Step,
};

/// The format of [`Record`] that this version writes and reads.
const VERSION: u32 = 1;
/// Lines of a timeline that are kept. At about 100 bytes each a record stays below 64 KiB.
const EVENTS_MAX: usize = 256;

/// All that is known of a job. Rewritten as a whole, durably, before and after each step: it *is*
/// the journal entry, and what a restart goes by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) id: JobId,
    pub(crate) request: RecoveryRequest,
    pub(crate) vm: String,
    pub(crate) point: String,
    pub(crate) repository: String,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) disks: Vec<DiskRecord>,
    /// Whether the VM has the firmware's variables.
    pub(crate) nvram: bool,
    /// Who may mount the export on this job's behalf.
    pub(crate) clients: Vec<ClientNet>,
    /// How long it was to take.
    #[serde(default)]
    pub(crate) planned: Option<Planned>,
    /// Bytes that were asked of the overlays' file system.
    pub(crate) reserve: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) serving_since: Option<Timestamp>,
    /// Until when what the guest wrote is kept, once the job serves no more.
    #[serde(default)]
    pub(crate) kept_until: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) plan: Plan,
    pub(crate) times: BTreeMap<Step, StepTimes>,
    pub(crate) outcome: Option<Outcome>,
    /// Where a migration under way leads.
    pub(crate) destination: Option<Destination>,
    pub(crate) migrated_to: Option<String>,
    pub(crate) pause_ms: Option<u64>,
    /// What was compared of the copy.
    #[serde(default)]
    pub(crate) compared: Option<Compared>,
    /// The VM's id at the host, once registered.
    pub(crate) host_vm: Option<String>,
    /// The VM that steps aside for it or has its disks, as it stood when it was found.
    #[serde(default)]
    pub(crate) original: Option<OriginalVm>,
    /// A recovery in place is committed; whether the original is to be removed.
    #[serde(default)]
    pub(crate) commit: Option<bool>,
    /// Whether the VM ran when a migration with a short pause began.
    #[serde(default)]
    pub(crate) ran: Option<bool>,
    /// When its guest was first told to stop for that.
    #[serde(default)]
    pub(crate) stopped_at: Option<Timestamp>,
    /// The target has no licence to migrate storage.
    #[serde(default)]
    pub(crate) unlicensed: bool,
    /// A migration that is to be begun again, in another way.
    #[serde(default)]
    pub(crate) again: Option<Destination>,
    pub(crate) timeline: Vec<Event>,
    pub(crate) error: Option<ErrorView>,
}

/// Where a job's VM is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The export's name; its path is `/` and this.
    pub(crate) export: String,
    /// The VM's folder in it, and the stem of its files.
    pub(crate) folder: String,
    /// Where the host mounts it, on vSphere.
    pub(crate) datastore: Option<HostMount>,
}

/// An export as a host's datastore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct HostMount {
    pub(crate) target: String,
    pub(crate) host: Option<String>,
    pub(crate) datastore: String,
}

impl HostMount {
    /// What jobs share: the mount by target and host. What it is called is the host's business.
    pub(crate) fn share(&self) -> Self {
        Self { datastore: String::new(), ..self.clone() }
    }
}

/// One disk of a job's VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRecord {
    /// Its overlay's name.
    pub(crate) id: String,
    /// Its place in the recovery point.
    pub(crate) index: usize,
    /// Its controller and slot, `scsi0:0`.
    pub(crate) key: String,
    /// The descriptor's file name.
    pub(crate) descriptor: String,
    /// The extent's file name.
    pub(crate) extent: String,
    /// Bytes it had in the recovery point or the VM that it is of, rounded up to a whole sector.
    pub(crate) size: u64,
}

/// When a step was begun, done and taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepTimes {
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) undone_at: Option<Timestamp>,
    pub(crate) error: Option<ErrorView>,
}

/// What a record is made from: all that `start` finds out.
pub(crate) struct Accepted {
    pub(crate) id: JobId,
    pub(crate) request: RecoveryRequest,
    pub(crate) vm: String,
    pub(crate) point: String,
    pub(crate) repository: String,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) disks: Vec<DiskRecord>,
    pub(crate) nvram: bool,
    pub(crate) clients: Vec<ClientNet>,
    pub(crate) planned: Option<Planned>,
    pub(crate) reserve: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) plan: Plan,
}

impl Record {
    pub(crate) fn new(accepted: Accepted) -> Self {
        let at = accepted.created_at;
        let straight = accepted.request.mode == Mode::FullRestore;
        let destination = accepted.request.migrate.clone().filter(|_| straight);
        Self {
            version: VERSION,
            id: accepted.id,
            request: accepted.request,
            vm: accepted.vm,
            point: accepted.point,
            repository: accepted.repository,
            name: accepted.name,
            place: accepted.place,
            disks: accepted.disks,
            nvram: accepted.nvram,
            clients: accepted.clients,
            planned: accepted.planned,
            reserve: accepted.reserve,
            created_at: at,
            expires_at: accepted.expires_at,
            serving_since: None,
            kept_until: None,
            finished_at: None,
            plan: accepted.plan,
            times: BTreeMap::new(),
            outcome: None,
            destination,
            migrated_to: None,
            pause_ms: None,
            compared: None,
            host_vm: None,
            original: None,
            commit: None,
            ran: None,
            stopped_at: None,
            unlicensed: false,
            again: None,
            timeline: vec![Event { at, what: "accepted".into() }],
            error: None,
        }
    }

    /// Whether the job has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    /// The state but for `Stuck`, which is no matter of the journal.
    pub(crate) fn state(&self) -> JobState {
        if self.is_finished() {
            return match self.outcome {
                Some(Outcome::Cancelled) => JobState::Cancelled,
                Some(Outcome::Failed) | None => JobState::Failed,
                Some(Outcome::Migrated | Outcome::Discarded | Outcome::Expired) => {
                    JobState::Completed
                }
            };
        }
        if self.plan.next() == Next::Keep {
            JobState::Kept
        } else if self.plan.is_unwinding() || self.plan.is_shelved() {
            JobState::CleaningUp
        } else if self.plan.is_migrating() {
            JobState::Migrating
        } else if self.plan.is_serving() {
            JobState::Serving
        } else if self.plan.has_done(Step::Admit) {
            JobState::Starting
        } else {
            JobState::Queued
        }
    }

    /// Adds a line to the timeline; the oldest after "accepted" goes when it is full.
    pub(crate) fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        if self.timeline.len() >= EVENTS_MAX {
            self.timeline.remove(1);
        }
        self.timeline.push(Event { at, what: what.into() });
    }

    pub(crate) fn times(&mut self, step: Step) -> &mut StepTimes {
        self.times.entry(step).or_default()
    }

    /// The directory of a migration to one.
    pub(crate) fn directory(&self) -> Option<(&PathBuf, ImageFormat)> {
        self.destination.as_ref().and_then(Destination::directory)
    }

    /// The path under which a host knows the VM's configuration.
    pub(crate) fn vmx_path(&self) -> Option<String> {
        let mount = self.place.datastore.as_ref()?;
        let folder = &self.place.folder;
        Some(format!("[{}] {folder}/{folder}.vmx", mount.datastore))
    }

    /// The directory on another datastore that takes the guest's writes, as the host's API names it.
    pub(crate) fn redo(&self) -> Option<String> {
        let datastore = self.request.redo_datastore.as_ref()?;
        Some(format!("[{datastore}] rekindle-{}", self.id))
    }

    /// The same, as the VM's configuration names it.
    pub(crate) fn redo_path(&self) -> Option<String> {
        let datastore = self.request.redo_datastore.as_ref()?;
        Some(format!("/vmfs/volumes/{datastore}/rekindle-{}", self.id))
    }

    /// Whether a migration that the host cannot do while the VM runs may stop it for a moment.
    pub(crate) fn may_pause(&self) -> bool {
        !self.unlicensed && !self.request.needs_relocation()
    }

    /// The directory on another datastore that a migration with a short pause makes for the VM. It has the job's id in
    /// its name, so that no other is ever touched.
    pub(crate) fn new_home(&self) -> Option<String> {
        let datastore = self.destination.as_ref()?.datastore()?;
        Some(format!("[{datastore}] {}-{}", self.place.folder, self.id))
    }

    fn is_sound(&self) -> bool {
        self.version == VERSION && self.plan.is_sound()
    }
}

/// A request that was accepted under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) job: JobId,
    pub(crate) request: RecoveryRequest,
}

/// The jobs' durable records.
#[derive(Clone)]
pub(crate) struct Journal {
    db: Database,
    jobs: Keyspace<Record>,
    keys: Keyspace<Key>,
    #[cfg(test)]
    pub(crate) crash: crate::tests::CrashPoint,
}

impl Journal {
    pub(crate) fn open(db: &Database) -> Result<Self, JobError> {
        Ok(Self {
            db: db.clone(),
            jobs: db.keyspace("jobs").map_err(unavailable)?,
            keys: db.keyspace("jobs-keys").map_err(unavailable)?,
            #[cfg(test)]
            crash: Default::default(),
        })
    }

    /// All records, oldest first.
    pub(crate) fn load(&self) -> Result<Vec<Record>, JobError> {
        let mut records = Vec::new();
        for (key, record) in self.jobs.scan(b"").map_err(unavailable)? {
            if !record.is_sound() {
                return Err(JobError::Corrupt {
                    what: format!("read the journal of job {}", String::from_utf8_lossy(&key)),
                    source: anyhow::anyhow!("of another version, or its steps do not add up"),
                });
            }
            records.push(record);
        }
        records.sort_by_key(|record| (record.created_at, record.id.clone()));
        Ok(records)
    }

    /// The record of a job, as it was written last.
    pub(crate) fn get(&self, id: &JobId) -> Result<Option<Record>, JobError> {
        self.jobs.get(id.as_str().as_bytes()).map_err(unavailable)
    }

    /// What was accepted under this idempotency key.
    pub(crate) fn key(&self, key: &str) -> Result<Option<Key>, JobError> {
        self.keys.get(key.as_bytes()).map_err(unavailable)
    }

    /// Accepts a job, with its key if it came with one: both or neither.
    pub(crate) fn accept(&self, record: &Record, key: Option<&str>) -> Result<(), JobError> {
        let mut batch = self.db.batch();
        batch.put(&self.jobs, record.id.as_str().as_bytes(), record).map_err(unavailable)?;
        if let Some(key) = key {
            let value = Key { job: record.id.clone(), request: record.request.clone() };
            batch.put(&self.keys, key.as_bytes(), &value).map_err(unavailable)?;
        }
        batch.commit().map_err(unavailable)
    }

    /// Makes the record as it is durable. Blocks.
    pub(crate) fn put(&self, record: &Record) -> Result<(), JobError> {
        self.jobs.put(record.id.as_str().as_bytes(), record).map_err(unavailable)
    }

    /// Makes the record as it is durable.
    pub(crate) async fn write(&self, record: &Record) -> Result<(), JobError> {
        #[cfg(test)]
        self.crash.before_write().await;
        let (journal, record) = (self.clone(), record.clone());
        let written = tokio::task::spawn_blocking(move || journal.put(&record)).await;
        let written = written.map_err(|e| JobError::unavailable("state", "write journal", e))?;
        #[cfg(test)]
        self.crash.after_write().await;
        written
    }

    /// Forgets ended jobs and the keys they came with.
    pub(crate) fn forget(&self, jobs: &[JobId]) -> Result<(), JobError> {
        for (key, value) in self.keys.scan(b"").map_err(unavailable)? {
            if jobs.contains(&value.job) {
                self.keys.delete(&key).map_err(unavailable)?;
            }
        }
        jobs.iter().try_for_each(|id| self.jobs.delete(id.as_str().as_bytes())).map_err(unavailable)
    }
}

pub(crate) fn unavailable(error: StateError) -> JobError {
    match error {
        StateError::Full => JobError::Full { place: "the state database".into(), missing: 0 },
        StateError::Corrupt(_) => {
            JobError::Corrupt { what: "read the jobs' journal".into(), source: error.into() }
        }
        StateError::Unavailable(_) | StateError::Refused(_) => {
            JobError::unavailable("state", "write the jobs' journal", error)
        }
    }
}
