use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Compared, ErrorView, JobError, Planned, RecoveryRequest, Step};

/// A job's name: the second it was accepted at and four random digits, `20250131-235959-1f3a`.
/// Sorts by age, and is safe in file names and URLs.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    /// The longest id that is accepted, in bytes.
    pub const MAX: usize = 40;

    /// A new id for a job accepted `at`.
    pub(crate) fn new(at: Timestamp, random: u16) -> Self {
        Self(format!("{}-{random:04x}", at.strftime("%Y%m%d-%H%M%S")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The random digits, which tell apart what jobs make.
    pub(crate) fn suffix(&self) -> &str {
        self.0.rsplit('-').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = JobError;
    fn from_str(text: &str) -> Result<Self, JobError> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if text.is_empty() || text.len() > Self::MAX || !plain {
            // What cannot be an id is no job of ours.
            let name = text.chars().take(Self::MAX).collect();
            return Err(JobError::NotFound { what: "job", name });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for JobId {
    type Error = JobError;
    fn try_from(text: String) -> Result<Self, JobError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.0
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; waits for its turn or for space.
    Queued,
    /// Walks its steps up to serving.
    Starting,
    /// The VM runs, or may be run, from the export.
    Serving,
    /// On its way to where it stays, still served.
    Migrating,
    /// Takes back its steps.
    CleaningUp,
    /// Ended, but what its guest wrote is kept for a while: the end can be undone.
    Kept,
    /// A step cannot be taken back; tried again with back-off. A person should look.
    Stuck,
    /// Ended as it should; nothing is left of it on the appliance.
    Completed,
    /// Ended because someone asked; nothing is left of it.
    Cancelled,
    /// Could not be done; nothing is left of it.
    Failed,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Starting,
        Self::Serving,
        Self::Migrating,
        Self::CleaningUp,
        Self::Kept,
        Self::Stuck,
        Self::Completed,
        Self::Cancelled,
        Self::Failed,
    ];

    /// Whether the job has ended and will not change again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }

    /// The state as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Migrating => "migrating",
            Self::CleaningUp => "cleaning_up",
            Self::Kept => "kept",
            Self::Stuck => "stuck",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Why a job ends, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The VM is where it stays.
    Migrated,
    /// What the guest wrote was thrown away, as asked.
    Discarded,
    /// The same, because the time limit was reached.
    Expired,
    /// Cancelled.
    Cancelled,
    /// Failed before it served.
    Failed,
}

/// A job as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// Which job.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Why it ends; absent while it is on its way or serves.
    pub outcome: Option<Outcome>,
    /// The recovered VM's name.
    pub name: String,
    /// The backed-up VM's name.
    pub vm: String,
    /// The recovery point's id.
    pub point: String,
    /// The repository that holds it.
    pub repository: String,
    /// Bytes of its disks.
    #[serde(default)]
    pub size_bytes: u64,
    /// How long it was to take, as told when it was accepted.
    #[serde(default)]
    pub planned: Option<Planned>,
    /// What was asked for.
    pub request: RecoveryRequest,
    /// When the job was accepted.
    pub created_at: Timestamp,
    /// When it last began to serve.
    pub serving_since: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When a live mount discards itself.
    pub expires_at: Option<Timestamp>,
    /// Until when what the guest wrote is kept, once the job serves no more.
    #[serde(default)]
    pub kept_until: Option<Timestamp>,
    /// What a queued job waits for.
    pub waits_for: Option<String>,
    /// Its steps in order.
    pub steps: Vec<StepView>,
    /// What the mover does, while it does.
    pub progress: Option<Progress>,
    /// What is served, while it is.
    pub export: Option<ExportedVm>,
    /// Where the VM went, once it has.
    pub migrated_to: Option<String>,
    /// For how many milliseconds the guest's writes were held at the end of a migration, or, where its VM was stopped
    /// for one, it did not run: from when it was told to stop until it was started.
    pub pause_ms: Option<u64>,
    /// What was compared of the copy, once it was.
    #[serde(default)]
    pub compared: Option<Compared>,
    /// What happened when, in order.
    pub timeline: Vec<Event>,
    /// Why it failed, is stuck, or could not be migrated.
    pub error: Option<ErrorView>,
    /// What the job cannot get past at the moment.
    #[serde(default)]
    pub obstacle: Option<Obstacle>,
}

/// What a job cannot get past. It is tried again by itself, and at once when somebody asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Obstacle {
    /// The step that cannot be taken back; none if it is the journal, or what is served.
    pub step: Option<Step>,
    /// Since when.
    pub since: Timestamp,
    /// How often it has been tried.
    pub tries: u64,
    /// When it is tried next.
    pub next_try_at: Timestamp,
    /// Why it does not work.
    pub error: ErrorView,
}

/// One step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// The step's name.
    pub name: Step,
    /// How far it is.
    pub state: StepState,
    /// When it was begun.
    pub started_at: Option<Timestamp>,
    /// When it was done.
    pub finished_at: Option<Timestamp>,
    /// When it had been taken back.
    pub undone_at: Option<Timestamp>,
    /// Why it could not be done or taken back.
    pub error: Option<ErrorView>,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Begun.
    Running,
    /// Done.
    Done,
    /// Being taken back.
    Undoing,
    /// Taken back.
    Undone,
}

/// What the mover does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Which work.
    pub phase: Phase,
    /// Bytes of the VM's disks dealt with; zero ranges count.
    pub done_bytes: u64,
    /// Bytes of the VM's disks to deal with.
    pub total_bytes: u64,
    /// Bytes per second of late.
    pub rate_bytes_per_second: u64,
    /// Seconds to go at the mean rate so far; absent while it cannot be told.
    pub eta_seconds: Option<u64>,
}

/// The work of a mover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reads the VM's blocks into the cache.
    Warm,
    /// The host moves the VM's storage.
    Relocate,
    /// Writes the VM's disks to the directory, or the host copies them to the datastore.
    Copy,
    /// Reads them back and compares.
    Verify,
    /// Writes what changed last, with the guest's writes held.
    Settle,
}

/// What is served of a VM in recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportedVm {
    /// The address clients mount from, where it is configured.
    pub server: Option<String>,
    /// The export's path, as `mount` takes it.
    pub path: String,
    /// The VM's folder below it.
    pub folder: String,
    /// The datastore's name, on vSphere.
    pub datastore: Option<String>,
    /// `nfs://server/path/folder`, where the server's address is configured.
    pub url: Option<String>,
    /// The files in the folder.
    pub files: Vec<ExportedFile>,
}

/// One file of a VM's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportedFile {
    /// The file's name within the folder.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of an extent; absent for files that clients rewrite as they like.
    pub size: Option<u64>,
}

/// What a file of a VM's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// The VM's configuration.
    Vmx,
    /// A disk's descriptor.
    Descriptor,
    /// A disk's bytes.
    Extent,
    /// The firmware's variables.
    Nvram,
}

/// One line of a job's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub what: String,
}
