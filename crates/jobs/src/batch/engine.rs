use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use rekindle_state::Database;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::record::{Book, Record};
use super::walk::Walk;
use super::{BatchRequest, BatchView, VMS_MAX};
use crate::{JobError, JobId, Jobs, Offer, RecoveryRequest, failure};

/// Batches that run at once.
const RUNNING_MAX: usize = 16;
/// Ended ones that are remembered.
const REMEMBERED_MAX: usize = 100;

/// All batches of the appliance.
pub struct Batches {
    pub(super) jobs: Arc<Jobs>,
    pub(super) book: Book,
    entries: Mutex<BTreeMap<JobId, Entry>>,
    /// Those from before a restart, until [`Batches::run`].
    resting: Mutex<Vec<Walk>>,
    stop: CancellationToken,
    /// Held while one is accepted or resumed, so that no more run than may.
    pub(super) accepting: tokio::sync::Mutex<()>,
    walks: Mutex<JoinSet<()>>,
}

struct Entry {
    view: watch::Receiver<BatchView>,
    cancel: CancellationToken,
}

impl Batches {
    /// Reads the records. Nothing goes on before [`Batches::run`].
    pub fn open(jobs: Arc<Jobs>, db: &Database) -> Result<Arc<Self>, JobError> {
        let book = Book::open(db)?;
        let records = book.load()?;
        let batches = Arc::new(Self {
            jobs,
            book,
            entries: Mutex::default(),
            resting: Mutex::default(),
            stop: CancellationToken::new(),
            accepting: tokio::sync::Mutex::default(),
            walks: Mutex::default(),
        });
        for record in records {
            let ended = record.is_ended();
            let walk = batches.add(record);
            if !ended {
                batches.resting.lock().push(walk);
            }
        }
        Ok(batches)
    }

    /// Lets those from before a restart go on.
    pub fn run(&self) {
        let resting = std::mem::take(&mut *self.resting.lock());
        resting.into_iter().for_each(|walk| self.spawn(walk));
    }

    /// Leaves all where they stand, for the next start.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut walks = std::mem::take(&mut *self.walks.lock());
        while walks.join_next().await.is_some() {}
    }

    /// All that are remembered, the newest first.
    pub fn list(&self) -> Vec<BatchView> {
        let entries = self.entries.lock();
        let mut views: Vec<_> = entries.values().map(|entry| entry.view.borrow().clone()).collect();
        views.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        views
    }

    /// One of them.
    pub fn view(&self, id: &JobId) -> Result<BatchView, JobError> {
        Ok(self.watch(id)?.borrow().clone())
    }

    /// One of them as it changes. The sender goes when it has ended.
    pub fn watch(&self, id: &JobId) -> Result<watch::Receiver<BatchView>, JobError> {
        let entries = self.entries.lock();
        entries.get(id).map(|entry| entry.view.clone()).ok_or_else(|| not_found(id))
    }

    /// Accepts a batch: durable when it returns, on its way at once. What its selections stand for is looked up now.
    ///
    /// What can be seen to be wrong now is refused, with nothing begun: a bad request, a VM without a point, a passkey
    /// that is missing. What is found only when a VM's turn comes is told in the batch.
    pub async fn start(
        &self,
        request: BatchRequest,
        offer: Option<Offer>,
    ) -> Result<JobId, JobError> {
        let resolved = self.resolve(&request).await?;
        self.admit_gates(&request, &resolved).await?;
        let admitted = self.admit(&resolved, offer.as_ref()).await?;
        let _one_at_a_time = self.accepting.lock().await;
        self.check_running()?;
        self.forget()?;
        let created_at = Timestamp::now();
        let id = self.new_id(created_at)?;
        let record = Record::new(id.clone(), request, resolved, admitted, created_at);
        let (book, written) = (self.book.clone(), record.clone());
        failure::blocking(move || book.put(&written)).await?;
        tracing::info!(batch = %id, vms = record.groups.iter().map(|g| g.members.len()).sum::<usize>(), "accepted");
        let walk = self.add(record);
        self.spawn(walk);
        Ok(id)
    }

    pub(super) fn check_running(&self) -> Result<(), JobError> {
        match self.list().iter().filter(|view| view.finished_at.is_none()).count() {
            queued @ RUNNING_MAX.. => Err(JobError::Busy { queued }),
            _ => Ok(()),
        }
    }

    /// The recoveries of each group, as `start` would begin them now.
    pub async fn resolve(
        &self,
        request: &BatchRequest,
    ) -> Result<Vec<Vec<RecoveryRequest>>, JobError> {
        request.validate()?;
        let mut groups = Vec::new();
        for group in &request.groups {
            let mut recoveries = group.recoveries.clone();
            if let Some(select) = &group.select {
                recoveries.extend(select.choose(&self.jobs).await?);
            }
            groups.push(recoveries);
        }
        let vms: usize = groups.iter().map(Vec::len).sum();
        if vms > VMS_MAX {
            let message = format!("it is {vms} VMs, and a batch has at most {VMS_MAX}");
            return Err(JobError::refused("bad_batch", message));
        }
        Ok(groups)
    }

    /// Every gate must fit its group, and every script be there.
    async fn admit_gates(
        &self,
        request: &BatchRequest,
        groups: &[Vec<RecoveryRequest>],
    ) -> Result<(), JobError> {
        let gates = request.groups.iter().map(|group| group.gates.clone());
        let gated: Vec<_> = gates.zip(groups.iter().cloned()).collect();
        let scripts = self.jobs.env().config.gate_scripts.clone();
        let fit = move || {
            gated.iter().try_for_each(|(gates, vms)| {
                gates.iter().try_for_each(|gate| gate.admit(vms, scripts.as_ref()))
            })
        };
        failure::blocking(fit).await
    }

    /// The repositories that ask for a passkey, each opened by what is offered. Every VM must have a point.
    async fn admit(
        &self,
        groups: &[Vec<RecoveryRequest>],
        offer: Option<&Offer>,
    ) -> Result<BTreeSet<String>, JobError> {
        let mut admitted = BTreeSet::new();
        for request in groups.iter().flatten() {
            let name = self.jobs.repository_of(request).await?;
            if self.jobs.asks_for_passkey(&name) && !admitted.contains(&name) {
                self.jobs.admit_to(&name, offer).await?;
                admitted.insert(name);
            }
        }
        Ok(admitted)
    }

    /// Begins no more groups. The jobs that were begun go on.
    ///
    /// `Conflict` if it has ended.
    pub fn cancel(&self, id: &JobId) -> Result<(), JobError> {
        let entries = self.entries.lock();
        let entry = entries.get(id).ok_or_else(|| not_found(id))?;
        if entry.view.borrow().finished_at.is_some() {
            return Err(JobError::conflict("batch_ended", format!("batch {id} has ended")));
        }
        entry.cancel.cancel();
        Ok(())
    }

    pub(super) fn add(&self, record: Record) -> Walk {
        let (view, seen) = watch::channel(record.view());
        let cancel = CancellationToken::new();
        let entry = Entry { view: seen, cancel: cancel.clone() };
        self.entries.lock().insert(record.id.clone(), entry);
        Walk {
            _held: self.jobs.wanted.hold(&record.id, record.points()),
            jobs: self.jobs.clone(),
            book: self.book.clone(),
            record,
            view,
            cancel,
            stop: self.stop.clone(),
        }
    }

    pub(super) fn spawn(&self, walk: Walk) {
        let mut walks = self.walks.lock();
        while walks.try_join_next().is_some() {}
        walks.spawn(walk.run());
    }

    fn new_id(&self, now: Timestamp) -> Result<JobId, JobError> {
        let known = self.entries.lock();
        loop {
            let id = JobId::new(now, failure::random()?);
            if !known.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    /// Drops the oldest of the ended ones beyond those that are remembered.
    fn forget(&self) -> Result<(), JobError> {
        let ended = self.list().into_iter().filter(|view| view.finished_at.is_some());
        for old in ended.skip(REMEMBERED_MAX) {
            self.book.forget(&old.id)?;
            self.entries.lock().remove(&old.id);
        }
        Ok(())
    }
}

pub(super) fn not_found(id: &JobId) -> JobError {
    JobError::NotFound { what: "batch", name: id.to_string() }
}
