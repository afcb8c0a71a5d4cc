//! Many VMs by one request: groups of recoveries, one after the other.
//!
//! Each VM is a job like any other, which lives on by itself; a batch only begins them in order. A group is *up* when all
//! its VMs serve (or are where they stay already), its delay has passed, and its gates are open (`gate.rs`). What is not up in time
//! ends the batch, or is passed over, as was asked for. A batch that was halted so goes on when somebody says so (`resume.rs`).
//!
//! # Crash
//!
//! A batch is one record, rewritten durably whenever something of it changes. Its jobs are begun under idempotency keys
//! made of its id, so that a crash between a job's beginning and the record of it begins none twice.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorView, JobError, JobId, RecoveryRequest, TargetRef};

mod choice;
mod engine;
mod gate;
mod record;
mod resume;
mod walk;

pub use choice::Selection;
pub use engine::Batches;
pub use gate::{Gate, GateScripts};
pub(crate) use record::end_batches;
pub use resume::Resume;

/// The most groups of a batch.
const GROUPS_MAX: usize = 64;
/// The most VMs of a batch.
const VMS_MAX: usize = 500;
/// The most gates of a group.
const GATES_MAX: usize = 16;
/// The longest delay, and the longest that a gate is waited for: a day.
const WAIT_MAX_SECONDS: u64 = 86_400;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Begun in this order, each when the one before is up.
    pub groups: Vec<Group>,
    /// What becomes of the groups to come when one is not up.
    #[serde(default)]
    pub on_error: OnError,
}

/// VMs that are begun at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its VMs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoveries: Vec<RecoveryRequest>,
    /// VMs that are looked for when the batch is accepted, beside those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Selection>,
    /// Within how many seconds each of its VMs must serve.
    #[serde(default = "default_within")]
    pub within_seconds: u64,
    /// Seconds from when its VMs serve until its gates are looked at.
    #[serde(default)]
    pub delay_seconds: u64,
    /// What must answer before the next group's turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

/// What becomes of the groups to come when one is not up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// They are not begun.
    #[default]
    Halt,
    /// They are begun all the same.
    GoOn,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Begins its groups.
    Running,
    /// All groups were begun and are up.
    Completed,
    /// All groups were begun, and not all of them are up.
    Incomplete,
    /// A group was not up: those after it were not begun. It can be resumed, see [`Batches::resume`].
    Halted,
    /// Somebody ended it: the groups to come were not begun.
    Cancelled,
}

/// How far a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// Its turn has not come, or never will.
    Pending,
    /// Its VMs are begun and waited for.
    Starting,
    /// Its VMs serve; its delay passes.
    Waiting,
    /// Its gates are waited for.
    Checking,
    /// All its VMs serve and its gates are open.
    Up,
    /// Not all of it came up.
    Failed,
}

/// A batch as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchView {
    /// Which.
    pub id: JobId,
    /// What people call it.
    pub name: Option<String>,
    /// Where it stands.
    pub state: BatchState,
    /// What becomes of the groups to come when one is not up.
    pub on_error: OnError,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was last told to go on after it was halted.
    #[serde(default)]
    pub resumed_at: Option<Timestamp>,
    /// When it ended. Its jobs may live on.
    pub finished_at: Option<Timestamp>,
    /// Its groups in order.
    pub groups: Vec<GroupView>,
}

/// A group as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupView {
    /// What people call it.
    pub name: Option<String>,
    /// How far it is.
    pub state: GroupState,
    /// It is not up, and the batch goes on all the same, as somebody said.
    #[serde(default)]
    pub skipped: bool,
    /// Its VMs.
    pub vms: Vec<MemberView>,
    /// Its gates: those that are not open say why.
    pub gates: Vec<GateView>,
}

/// A VM of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberView {
    /// The recovery point or VM that was asked for.
    pub point: String,
    /// The repository to look in; all of them when absent.
    pub repository: Option<String>,
    /// Where it is to run.
    pub target: TargetRef,
    /// Its job, once begun.
    pub job: Option<JobId>,
    /// Whether it came up; absent while that is not known.
    pub up: Option<bool>,
    /// Why it could not be begun, or did not come up.
    pub error: Option<ErrorView>,
}

/// A gate of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GateView {
    /// Which.
    pub gate: Gate,
    /// Whether it is open; absent while that is not known.
    pub open: Option<bool>,
    /// Why it is not.
    pub error: Option<ErrorView>,
}

fn default_within() -> u64 {
    3600
}

impl BatchRequest {
    /// Refuses what could never work. No I/O.
    pub fn validate(&self) -> Result<(), JobError> {
        let refused = |message: String| Err(JobError::refused("bad_batch", message));
        if self.groups.is_empty() || self.groups.len() > GROUPS_MAX {
            return refused(format!("a batch has 1 to {GROUPS_MAX} groups"));
        }
        let names = self.groups.iter().map(|group| &group.name).chain([&self.name]);
        for name in names.flatten() {
            crate::request::text("name", name)?;
        }
        let vms: usize = self.groups.iter().map(|group| group.recoveries.len()).sum();
        if vms > VMS_MAX {
            return refused(format!("a batch has at most {VMS_MAX} VMs"));
        }
        self.groups.iter().try_for_each(Group::validate)
    }
}

impl Group {
    fn validate(&self) -> Result<(), JobError> {
        let refused = |message: String| Err(JobError::refused("bad_batch", message));
        if self.recoveries.is_empty() && self.select.is_none() {
            return refused("a group needs `recoveries` or `select`".into());
        }
        self.recoveries.iter().try_for_each(RecoveryRequest::validate)?;
        if self.recoveries.iter().any(|recovery| recovery.from_job.is_some()) {
            return refused(
                "a batch is of recovery points: from_job is for a recovery alone".into(),
            );
        }
        self.select.iter().try_for_each(Selection::validate)?;
        if self.gates.len() > GATES_MAX {
            return refused(format!("a group has at most {GATES_MAX} gates"));
        }
        if self.delay_seconds.max(self.within_seconds) > WAIT_MAX_SECONDS {
            return refused(format!("a group waits {WAIT_MAX_SECONDS} seconds at most"));
        }
        self.gates.iter().try_for_each(Gate::validate)
    }
}
