//! What each step of a job does, and how it is taken back. Every function here may be called again
//! after it was cut short anywhere.

mod attach;
mod budget;
mod cutover;
pub(crate) mod export;
pub(crate) mod files;
mod fork;
mod host;
mod in_place;
mod low_pause;
mod thaw;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::admission::{Turn, Verdict};
use crate::env::Env;
use crate::failure;
use crate::journal::{Record, unavailable};
use crate::live::{Live, disk_id};
use crate::progress::Meter;
use crate::target::OriginalVm;
use crate::{Compared, JobError, Mode, Outcome, Step};

/// How often a queued job looks whether space came free by itself.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What the driver shows while a step runs.
#[derive(Default)]
pub(crate) struct Status {
    pub(crate) meter: Meter,
    pub(crate) waits_for: Mutex<Option<String>>,
}

/// What a step found out, for the record.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) datastore: Option<String>,
    pub(crate) host_vm: Option<String>,
    /// The VM that is to step aside or to get the disks, as it stood.
    pub(crate) original: Option<OriginalVm>,
    /// A migration that was given up had come to its end all the same, and goes on.
    pub(crate) arrived: bool,
    pub(crate) migrated_to: Option<String>,
    pub(crate) pause_ms: Option<u64>,
    /// What was compared of the copy.
    pub(crate) compared: Option<Compared>,
    /// Whether the VM ran before it was moved.
    pub(crate) ran: Option<bool>,
    pub(crate) notes: Vec<String>,
    /// What the VM had that this one goes on from.
    pub(crate) copied: Option<Box<Copied>>,
}

/// What a VM had that was copied.
#[derive(Debug)]
pub(crate) struct Copied {
    /// How large its disks were.
    pub(crate) sizes: Vec<u64>,
    /// Whether it had firmware variables.
    pub(crate) nvram: bool,
}

/// A job as its steps see it.
pub(crate) struct Work<'a> {
    pub(crate) env: &'a Arc<Env>,
    pub(crate) record: &'a Record,
    pub(crate) live: &'a mut Live,
    pub(crate) status: &'a Status,
}

impl Work<'_> {
    /// Does the step.
    pub(crate) async fn apply(mut self, step: Step) -> Result<Found, JobError> {
        match step {
            Step::Admit => self.admit().await,
            Step::Open => self.open().await,
            Step::Overlay => self.make_overlays().await,
            Step::Export => export::add(self.env, self.record).await.map(|_| Found::default()),
            Step::Files => self.write_files().await,
            Step::Mount => self.mount().await,
            Step::Redirect => self.redirect().await,
            Step::Identify => self.identify().await,
            Step::Attach => self.attach().await,
            Step::Halt => self.halt().await,
            Step::SetAside => self.set_aside().await,
            Step::Register => self.register().await,
            Step::Snapshot => self.snapshot().await,
            Step::PowerOn => self.power_on().await,
            Step::Warm => self.warm().await,
            Step::Consolidate => self.consolidate().await,
            Step::Relocate => self.relocate().await,
            Step::Depart => self.depart().await,
            Step::Commit => self.commit().await,
            Step::Copy => self.copy().await,
            Step::Verify => self.verify().await,
            Step::Freeze => self.freeze().await,
            Step::Settle => self.settle().await,
            Step::Publish => self.publish().await,
            Step::Branch => self.branch().await,
            Step::Clone => self.clone_disks().await,
            Step::Compare => self.compare().await,
            Step::Stop => self.stop_guest().await,
            Step::HandOver => self.hand_over().await,
            Step::Start => self.start_there().await,
        }
    }

    /// Takes the step back.
    pub(crate) async fn undo(mut self, step: Step) -> Result<Found, JobError> {
        match step {
            Step::Admit => self.env.gate.leave(&turn(self.record)),
            Step::Overlay => self.discard_overlays().await?,
            Step::Export => export::remove(self.env, self.record).await?,
            Step::Files => self.remove_files().await?,
            Step::Mount => self.unmount().await?,
            Step::Redirect => return self.remove_redirection().await,
            Step::Attach => self.detach().await?,
            Step::Halt => self.wake().await?,
            Step::SetAside => return self.put_back().await,
            Step::Register => self.unregister().await?,
            Step::PowerOn => self.power_off().await?,
            Step::Consolidate => self.redirect_again().await?,
            Step::Relocate => return self.stop_relocating().await,
            Step::Copy => self.remove_copy().await?,
            Step::Freeze => self.thaw(),
            Step::Branch => return self.merge().await,
            Step::Clone => self.remove_clone().await?,
            Step::Stop => self.start_again().await?,
            Step::HandOver => return self.take_back_hand_over().await,
            Step::Start => self.stop_there().await?,
            // They leave nothing behind, or what must stay.
            Step::Open
            | Step::Identify
            | Step::Commit
            | Step::Snapshot
            | Step::Warm
            | Step::Depart
            | Step::Verify
            | Step::Settle
            | Step::Publish
            | Step::Compare => {}
        }
        Ok(Found::default())
    }

    async fn open(&mut self) -> Result<Found, JobError> {
        self.live.thawed = Some(self.await_thaw().await?);
        self.live.point(self.env, self.record).await.map(|_| Found::default())
    }

    /// Waits for a turn and for space.
    async fn admit(&mut self) -> Result<Found, JobError> {
        let turn = turn(self.record);
        if self.mount_obstacle().await?.is_some() {
            // Others, whose hosts are free, go on meanwhile. It keeps its place.
            self.env.gate.leave(&turn);
            self.await_mount().await?;
        }
        self.env.gate.join_again(&turn);
        loop {
            let changed = self.env.gate.changed();
            let free = self.env.free()?;
            let used = self.env.overlays.used_by_each();
            let most = self.env.config.max_active;
            match self.env.gate.ask(&turn, self.record.reserve, free, used, most) {
                Verdict::Go => break,
                Verdict::Wait(what) => *self.status.waits_for.lock() = Some(what),
                Verdict::Never { missing } => {
                    let place = "the overlays' file system".into();
                    return Err(JobError::Full { place, missing });
                }
            }
            // Space comes free without a word when something else deletes files.
            let _ = tokio::time::timeout(ASK_AGAIN, changed).await;
        }
        *self.status.waits_for.lock() = None;
        Ok(Found::default())
    }

    async fn make_overlays(&mut self) -> Result<Found, JobError> {
        if let Some(source) = &self.record.request.from_job {
            return self.fork(source).await;
        }
        let (disks, wanted) = (self.env.disks.clone(), self.record.disks.clone());
        failure::blocking(move || {
            for disk in wanted {
                let made = disks.create(&disk_id(&disk.id)?, disk.size);
                made.map_err(|e| failure::disk("make the overlay", e))?;
            }
            Ok(())
        })
        .await?;
        self.live.disks(self.env, self.record).await.map(|_| Found::default())
    }

    async fn discard_overlays(&mut self) -> Result<(), JobError> {
        self.note_writes().await;
        let (disks, mine) = (self.env.disks.clone(), self.record.disks.clone());
        failure::blocking(move || {
            for disk in mine {
                let gone = disks.discard(&disk_id(&disk.id)?);
                gone.map_err(|e| failure::disk("discard the overlay", e))?;
            }
            Ok(())
        })
        .await?;
        // Only now: a write that was held must fail, not be acknowledged and then lost.
        self.live.drop_disks();
        self.env.overlays.forget(&self.record.id);
        if self.record.request.from_job.is_some() {
            let (origins, job) = (self.env.origins.clone(), self.record.id.clone());
            failure::blocking(move || origins.forget(&job).map_err(unavailable)).await?;
        }
        Ok(())
    }

    /// Remembers how fast the guest wrote, for the admission of the VM's next recovery. It is no reason
    /// to keep an overlay: what does not work is left out.
    async fn note_writes(&mut self) {
        let runs = matches!(self.record.request.mode, Mode::LiveRecovery | Mode::LiveMount);
        // Of a copy it is not told apart what it was copied with.
        let runs = runs && self.record.request.from_job.is_none();
        let since = self.record.serving_since.filter(|_| runs);
        let (Some(point), Some(since)) = (self.live.opened(), since) else {
            return;
        };
        let (env, vm) = (self.env.clone(), point.manifest.vm.id.clone());
        let bytes = env.overlays.used(&self.record.id);
        let ran = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
        let note = move || env.writes.note(&vm, bytes, ran).map_err(unavailable);
        if let Err(error) = failure::blocking(note).await {
            tracing::warn!("does not remember how fast the guest wrote: {error}");
        }
    }

    /// Whether the VM is where it stays, so that nothing of it may be touched.
    fn has_migrated(&self) -> bool {
        self.record.outcome == Some(Outcome::Migrated)
    }
}

/// A job's place in the queue.
pub(crate) fn turn(record: &Record) -> Turn {
    (record.created_at, record.id.clone())
}
