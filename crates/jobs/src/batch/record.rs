use std::collections::BTreeSet;

use jiff::Timestamp;
use rekindle_repo::PointId;
use rekindle_state::{Database, Keyspace};
use serde::{Deserialize, Serialize};

use super::{
    BatchRequest, BatchState, BatchView, Gate, GateView, GroupState, GroupView, MemberView,
};
use crate::journal::unavailable;
use crate::{ErrorView, JobError, JobId, OnError, RecoveryRequest};

/// The format of [`Record`] that this version writes and reads.
const VERSION: u32 = 1;

/// All that is known of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) id: JobId,
    name: Option<String>,
    pub(super) on_error: OnError,
    /// Repositories that ask for a passkey and were opened when the batch was accepted.
    pub(super) admitted: BTreeSet<String>,
    created_at: Timestamp,
    pub(super) finished_at: Option<Timestamp>,
    /// When it was last told to go on after it was halted.
    #[serde(default)]
    pub(super) resumed_at: Option<Timestamp>,
    pub(super) state: BatchState,
    pub(super) groups: Vec<GroupRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    name: Option<String>,
    pub(super) state: GroupState,
    pub(super) members: Vec<Member>,
    pub(super) within_seconds: u64,
    pub(super) delay_seconds: u64,
    pub(super) gates: Vec<GateRecord>,
    /// It is not up, and the batch goes on all the same, as somebody said.
    #[serde(default)]
    pub(super) skipped: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) request: RecoveryRequest,
    pub(super) job: Option<JobId>,
    /// How often it was begun anew.
    #[serde(default)]
    pub(super) attempt: u32,
    pub(super) up: Option<bool>,
    pub(super) error: Option<ErrorView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GateRecord {
    pub(super) gate: Gate,
    pub(super) open: Option<bool>,
    pub(super) error: Option<ErrorView>,
}

impl Record {
    /// `members` are the VMs of each group of the request.
    pub(super) fn new(
        id: JobId,
        request: BatchRequest,
        members: Vec<Vec<RecoveryRequest>>,
        admitted: BTreeSet<String>,
        created_at: Timestamp,
    ) -> Self {
        let member = |request| Member { request, job: None, attempt: 0, up: None, error: None };
        let gate = |gate| GateRecord { gate, open: None, error: None };
        let groups = request.groups.into_iter().zip(members).map(|(group, members)| GroupRecord {
            name: group.name,
            state: GroupState::Pending,
            members: members.into_iter().map(member).collect(),
            within_seconds: group.within_seconds,
            delay_seconds: group.delay_seconds,
            gates: group.gates.into_iter().map(gate).collect(),
            skipped: false,
        });
        Self {
            version: VERSION,
            id,
            name: request.name,
            on_error: request.on_error,
            admitted,
            created_at,
            finished_at: None,
            resumed_at: None,
            state: BatchState::Running,
            groups: groups.collect(),
        }
    }

    /// The points that it names. What a VM's name stands for is found when its turn comes.
    pub(super) fn points(&self) -> BTreeSet<PointId> {
        let members = self.groups.iter().flat_map(|group| &group.members);
        members.filter_map(|member| member.request.point.parse().ok()).collect()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state != BatchState::Running
    }

    pub(super) fn end(&mut self, state: BatchState) {
        self.state = state;
        self.finished_at = Some(Timestamp::now());
    }

    pub(super) fn view(&self) -> BatchView {
        BatchView {
            id: self.id.clone(),
            name: self.name.clone(),
            state: self.state,
            on_error: self.on_error,
            created_at: self.created_at,
            resumed_at: self.resumed_at,
            finished_at: self.finished_at,
            groups: self.groups.iter().map(GroupRecord::view).collect(),
        }
    }
}

impl GroupRecord {
    /// Whether all that is known of it is good.
    pub(super) fn is_up(&self) -> bool {
        self.members.iter().all(|member| member.up == Some(true))
            && self.gates.iter().all(|gate| gate.open == Some(true))
    }

    fn view(&self) -> GroupView {
        let member = |member: &Member| MemberView {
            point: member.request.point.clone(),
            repository: member.request.repository.clone(),
            target: member.request.target.clone(),
            job: member.job.clone(),
            up: member.up,
            error: member.error.clone(),
        };
        let gate = |gate: &GateRecord| GateView {
            gate: gate.gate.clone(),
            open: gate.open,
            error: gate.error.clone(),
        };
        GroupView {
            name: self.name.clone(),
            state: self.state,
            skipped: self.skipped,
            vms: self.members.iter().map(member).collect(),
            gates: self.gates.iter().map(gate).collect(),
        }
    }
}

/// Ends all batches that are under way, of which nothing is begun any more.
pub(crate) fn end_batches(db: &Database) -> Result<(), JobError> {
    let book = Book::open(db)?;
    for mut record in book.load()?.into_iter().filter(|record| !record.is_ended()) {
        record.end(BatchState::Cancelled);
        book.put(&record)?;
    }
    Ok(())
}

/// The durable records of batches.
#[derive(Clone)]
pub(super) struct Book(Keyspace<Record>);

impl Book {
    pub(super) fn open(db: &Database) -> Result<Self, JobError> {
        db.keyspace("batches").map(Self).map_err(unavailable)
    }

    /// All records, oldest first.
    pub(super) fn load(&self) -> Result<Vec<Record>, JobError> {
        let mut records = Vec::new();
        for (key, record) in self.0.scan(b"").map_err(unavailable)? {
            if record.version != VERSION {
                return Err(JobError::Corrupt {
                    what: format!("read batch {}", String::from_utf8_lossy(&key)),
                    source: anyhow::anyhow!("of version {}", record.version),
                });
            }
            records.push(record);
        }
        records.sort_by_key(|record| (record.created_at, record.id.clone()));
        Ok(records)
    }

    pub(super) fn get(&self, id: &JobId) -> Result<Option<Record>, JobError> {
        self.0.get(id.as_str().as_bytes()).map_err(unavailable)
    }

    pub(super) fn put(&self, record: &Record) -> Result<(), JobError> {
        self.0.put(record.id.as_str().as_bytes(), record).map_err(unavailable)
    }

    pub(super) fn forget(&self, id: &JobId) -> Result<(), JobError> {
        self.0.delete(id.as_str().as_bytes()).map_err(unavailable)
    }
}
