use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_cache::Cache;
use rekindle_disk::Disks;
use rekindle_nfs::Exports;
use rekindle_repo::Attached;
use rekindle_state::Database;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::driver::{Command, Driver, INBOX};
use crate::env::Env;
use crate::inboxes::send;
use crate::journal::{Journal, Place, Record, unavailable};
use crate::live::Live;
use crate::origins::Origins;
use crate::profiles::Profiles;
use crate::steps::{Status, turn};
use crate::still::Still;
use crate::upkeep::{Upkeep, Wanted};
use crate::writes::Writes;
use crate::{
    Finish, JobError, JobId, JobState, JobView, JobsConfig, LimitsView, Next, SpaceView, Step,
    Target, driver, hours, space,
};

mod accept;
mod forecast;
mod point;
mod reserve;

pub(crate) use accept::after;

/// How long one job's disks may take to come back before the others' turn comes. A job that needs
/// longer comes back by itself later; its clients wait.
const RESTORE_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a stop waits for boot profiles to be kept.
const KEEP_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// What jobs are made of.
pub struct JobsDeps {
    /// Where the journals are.
    pub db: Database,
    /// All virtual disks.
    pub disks: Arc<Disks>,
    /// All exports.
    pub exports: Exports,
    /// Repositories by their configured name.
    pub repositories: BTreeMap<String, Attached>,
    /// The block cache.
    pub cache: Arc<Cache>,
    /// Hosts to run VMs on, by their configured name.
    pub targets: BTreeMap<String, Target>,
    /// Where what is read and written behind the guests' backs runs, on threads that make way for theirs.
    pub low_priority: tokio::runtime::Handle,
    /// Limits and directories.
    pub config: JobsConfig,
}

/// All jobs of the appliance.
pub struct Jobs {
    pub(crate) env: Arc<Env>,
    pub(crate) upkeep: Arc<Upkeep>,
    pub(crate) wanted: Arc<Wanted>,
    entries: Mutex<BTreeMap<JobId, Entry>>,
    /// Jobs from before a restart, until [`Jobs::run`].
    resting: Mutex<Vec<Driver>>,
    /// Held while a job is accepted, so that names, keys and the queue's bound are decided once.
    accepting: AsyncMutex<()>,
    stop: CancellationToken,
    /// One task per job that has not ended.
    drivers: Mutex<JoinSet<()>>,
}

/// A job as the others know it.
struct Entry {
    view: watch::Receiver<JobView>,
    inbox: mpsc::Sender<Command>,
    place: Place,
}

impl Jobs {
    /// Reads the journals and brings back exports and disks: once NFS listens, clients find them as
    /// they were. Nothing walks on before [`Jobs::run`].
    ///
    /// `Corrupt` if a journal cannot be read: a person must look before anything is served.
    pub async fn open(deps: JobsDeps) -> Result<Arc<Self>, JobError> {
        let journal = Journal::open(&deps.db)?;
        let records = journal.load()?;
        let profiles = Profiles::open(&deps.db).map_err(unavailable)?;
        let writes = Writes::open(&deps.db).map_err(unavailable)?;
        let origins = Origins::open(&deps.db).map_err(unavailable)?;
        let env = Arc::new(Env::new(deps, journal, profiles, writes, origins));
        env.cache.steer_by(env.config.mover.guest_read_p95);
        hours::set(&env);
        space::first_look(&env);
        let jobs = Arc::new(Self {
            env: env.clone(),
            upkeep: Arc::default(),
            wanted: Arc::default(),
            entries: Mutex::default(),
            resting: Mutex::default(),
            accepting: AsyncMutex::default(),
            stop: CancellationToken::new(),
            drivers: Mutex::default(),
        });
        for record in records {
            if record.is_finished() {
                // Its view stays; nobody drives it.
                drop(jobs.add(record));
            } else {
                rejoin(&env, &record).await;
                let driver = restore(jobs.add(record)).await;
                jobs.resting.lock().push(driver);
            }
        }
        jobs.forget()?;
        Ok(jobs)
    }

    /// Lets the jobs from before a restart walk on.
    pub fn run(&self) {
        self.env.background.spawn(hours::keep(self.env.clone()));
        self.env.background.spawn(space::watch(self.env.clone()));
        let resting: Vec<Driver> = self.resting.lock().drain(..).collect();
        resting.into_iter().for_each(|driver| self.drive(driver));
    }

    fn drive(&self, driver: Driver) {
        let mut drivers = self.drivers.lock();
        // Those that have ended need no place any more.
        while drivers.try_join_next().is_some() {}
        drivers.spawn(driver.run());
    }

    /// Leaves all jobs where they stand, for the next start. Exports and disks stay until the value
    /// is dropped.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.upkeep.stop_all();
        let mut drivers = std::mem::take(&mut *self.drivers.lock());
        while drivers.join_next().await.is_some() {}
        self.env.closing.cancel();
        self.env.background.close();
        // What they keep saves time only: it is not waited for longer than this.
        let _ = tokio::time::timeout(KEEP_WITHIN, self.env.background.wait()).await;
    }

    /// All jobs that are remembered, the newest first.
    pub fn list(&self) -> Vec<JobView> {
        let entries = self.entries.lock();
        let mut views: Vec<JobView> = entries.values().map(|e| e.view.borrow().clone()).collect();
        views.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        views
    }

    /// Shows each job that is remembered; none is copied.
    pub fn visit(&self, mut look: impl FnMut(&JobView)) {
        self.entries.lock().values().for_each(|entry| look(&entry.view.borrow()));
    }

    /// One job; `NotFound` if there is no such.
    pub fn view(&self, id: &JobId) -> Result<JobView, JobError> {
        Ok(self.watch(id)?.borrow().clone())
    }

    /// One job as it changes. The sender goes when the job has ended.
    pub fn watch(&self, id: &JobId) -> Result<watch::Receiver<JobView>, JobError> {
        Ok(self.entry(id)?.0)
    }

    /// What the mover may read now.
    pub fn limits(&self) -> LimitsView {
        self.env.config.mover.limits()
    }

    /// How much space is left for guests' writes, and for how long: as of the last look, some seconds
    /// ago at most.
    pub fn space(&self) -> SpaceView {
        self.env.space.lock().clone()
    }

    /// Jobs that wait for their turn, and jobs that run.
    pub fn active(&self) -> (usize, usize) {
        (self.env.gate.waiting(), self.env.gate.active())
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    #[cfg(test)]
    pub(crate) fn crash_point(&self) -> crate::tests::CrashPoint {
        self.env.journal.crash.clone()
    }

    /// Nobody looks at the jobs until it is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        self.entries.lock()
    }

    fn entry(
        &self,
        id: &JobId,
    ) -> Result<(watch::Receiver<JobView>, mpsc::Sender<Command>), JobError> {
        let entries = self.entries.lock();
        let entry = entries.get(id);
        let entry =
            entry.ok_or_else(|| JobError::NotFound { what: "job", name: id.to_string() })?;
        Ok((entry.view.clone(), entry.inbox.clone()))
    }

    /// Ends a job that serves as `finish` says. `Ok` means begun; watch the job for its end.
    ///
    /// `Conflict` if it does not serve, `Refused` if the destination cannot work: nothing is
    /// changed then. To discard a job that is discarded already is fine.
    pub async fn finish(&self, id: &JobId, finish: Finish) -> Result<(), JobError> {
        let (view, inbox) = self.entry(id)?;
        let (state, in_place) = {
            let view = view.borrow();
            (view.state, view.request.in_place.is_some())
        };
        if matches!(finish, Finish::Commit { .. }) && !in_place {
            let message = "only a recovery in place is committed";
            return Err(JobError::conflict("not_in_place", message));
        }
        if matches!(finish, Finish::Discard) && state == JobState::CleaningUp {
            return Ok(());
        }
        send(id, &inbox, |answer| Command::Finish(finish, answer)).await
    }

    /// Ends a job, whatever it is doing: what it made is removed, with all that its guest wrote. A VM
    /// that its host has migrated stays. Of a job that is stuck the undo is tried again at once.
    ///
    /// `Conflict` if it has ended.
    pub async fn cancel(&self, id: &JobId) -> Result<(), JobError> {
        let (view, inbox) = self.entry(id)?;
        let (state, keeps) = {
            let view = view.borrow();
            (view.state, view.kept_until.is_some())
        };
        if state == JobState::CleaningUp && !keeps {
            return Ok(());
        }
        send(id, &inbox, Command::Cancel).await
    }

    /// Moves the time limit of a live mount that serves to so many seconds from now.
    ///
    /// `Conflict` if it does not serve or has no limit, `Refused` for a limit beyond a year.
    pub async fn extend(&self, id: &JobId, seconds: u64) -> Result<(), JobError> {
        crate::request::expiry(seconds)?;
        let (_, inbox) = self.entry(id)?;
        send(id, &inbox, |answer| Command::Extend(seconds, answer)).await
    }

    /// Serves again a job that was discarded or has expired, with all that its guest wrote.
    ///
    /// `Conflict` if nothing of it is kept.
    pub async fn undo(&self, id: &JobId) -> Result<(), JobError> {
        let (_, inbox) = self.entry(id)?;
        send(id, &inbox, Command::Undo).await
    }

    /// Tries at once again what a job cannot get past, instead of waiting for the next time.
    ///
    /// `Conflict` if there is nothing in its way.
    pub async fn retry(&self, id: &JobId) -> Result<(), JobError> {
        let (view, inbox) = self.entry(id)?;
        if view.borrow().obstacle.is_none() {
            let message = format!("nothing is in the way of job {id}");
            return Err(JobError::conflict("not_stuck", message));
        }
        send(id, &inbox, Command::Retry).await
    }

    /// The VM of a job as it is now. Its guest writes on.
    pub(crate) async fn still(&self, id: &JobId) -> Result<Still, JobError> {
        let (_, inbox) = self.entry(id)?;
        send(id, &inbox, Command::Still).await
    }

    /// Adds a job with its view.
    fn add(&self, record: Record) -> Driver {
        let status = Arc::new(Status::default());
        let view = driver::view(&self.env, &record, &status, None);
        let (view, seen) = watch::channel(view);
        let (sender, inbox) = mpsc::channel(INBOX);
        self.env.inboxes.add(&record.id, &sender);
        let entry = Entry { view: seen, inbox: sender, place: record.place.clone() };
        self.entries.lock().insert(record.id.clone(), entry);
        Driver {
            env: self.env.clone(),
            record,
            live: Live::default(),
            view,
            inbox,
            stop: self.stop.clone(),
            status,
            stuck: None,
            tried: false,
            thawed: None,
        }
    }

    /// Drops the oldest of the ended jobs beyond those that are remembered.
    fn forget(&self) -> Result<(), JobError> {
        let ended = self.list().into_iter().filter(|job| job.state.is_final());
        let surplus: Vec<JobId> =
            ended.skip(self.env.config.max_remembered).map(|job| job.id).collect();
        if surplus.is_empty() {
            return Ok(());
        }
        self.env.journal.forget(&surplus)?;
        self.env.inboxes.forget(&surplus);
        self.entries.lock().retain(|id, _| !surplus.contains(id));
        Ok(())
    }
}

/// Counts a job from before a restart among those that wait, run, and share.
async fn rejoin(env: &Env, record: &Record) {
    if record.plan.next() == Next::Keep {
        // What is kept takes its space and no place.
    } else if record.plan.has_done(Step::Admit) {
        env.gate.readmit(&turn(record), record.reserve);
    } else if !record.plan.is_unwinding() {
        env.gate.join(turn(record));
    }
    if let (true, Some(mount)) = (record.plan.has_begun(Step::Mount), &record.place.datastore) {
        env.mounted.of(&mount.share()).await.insert(record.id.clone(), Vec::new());
    }
}

/// Brings back a job's export and disks. What does not work now is tried again by its driver.
async fn restore(mut driver: Driver) -> Driver {
    let restored = driver.live.restore(&driver.env, &driver.record);
    match tokio::time::timeout(RESTORE_WITHIN, restored).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(job = %driver.record.id, "is not served yet: {error}");
        }
        Err(_) => tracing::warn!(job = %driver.record.id, "is not served yet: it takes long"),
    }
    driver
}
