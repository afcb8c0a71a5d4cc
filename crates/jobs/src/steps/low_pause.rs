//! A migration to another datastore of a host that cannot move a VM while it runs, as a standalone ESXi or one without
//! the licence for it. The guest is off for as long as it takes to shut it down, to name files anew and to start it.
//!
//! 1. `branch`: a snapshot. What the guest writes goes to a file of its own in our export; our disks stay as they are.
//! 2. `clone`: the host copies our disks to the other datastore while the guest runs.
//! 3. `compare`: all of the copy is read back and compared with point and overlay, while the guest runs.
//! 4. `stop`: the guest is off. *Given up here or later: its VM starts again from our export, with all it wrote.*
//! 5. `hand_over`: what the guest wrote since 1 is put over the copy, by the names in two small files, and the VM is
//!    registered where the copy is.
//! 6. `start`: it runs. From here on it has migrated: nothing of it is ever taken back.
//! 7. `branch` is taken back: the host writes what lies in our export over the copy into the copy, while the guest runs.
//!    Only when nothing of the VM is left with us is the export removed.
//!
//! Our disks and the copy have the same bytes until 7, so that what the guest wrote fits over either. Nothing is copied
//! in the pause, whatever the guest wrote and however much memory it has.

mod chain;
mod clone;
mod hand_over;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::files::HAS_SNAPSHOTS;
use super::{Found, Work, export, files};
use crate::journal::StepTimes;
use crate::{GuestStop, JobError, Step, UuidPolicy, failure};

/// The code of a guest that could not be asked to shut down, or did not in time.
const RUNS_ON: &str = "guest_runs_on";

impl Work<'_> {
    /// The snapshot's name, which tells it from those of others.
    fn branch_name(&self) -> String {
        format!("rekindle {}", self.record.id)
    }

    /// The directory that the VM is to have on the other datastore.
    fn new_home(&self) -> Result<String, JobError> {
        self.record
            .new_home()
            .ok_or_else(|| JobError::refused("destination_missing", "no datastore to migrate to"))
    }

    /// The path that its configuration is to have.
    fn new_vmx(&self) -> Result<String, JobError> {
        Ok(format!("{}/{}.vmx", self.new_home()?, self.record.place.folder))
    }

    /// A file of the VM's folder in the export, which must be there.
    async fn exported(&self, name: &str) -> Result<Vec<u8>, JobError> {
        let path = PathBuf::from(&self.record.place.folder).join(name);
        let read = files::read_exported(self.env, self.record, &path).await?;
        read.ok_or_else(|| {
            JobError::conflict("export_changed", format!("{name} is not in the export"))
        })
    }

    async fn put_exported(&self, name: &str, bytes: Vec<u8>) -> Result<(), JobError> {
        let path = PathBuf::from(&self.record.place.folder).join(name);
        let export = export::get(self.env, self.record)?;
        let put = move || export.put_file(&path, &bytes, 0o600);
        failure::blocking(move || put().map_err(|e| failure::nfs("write a descriptor", e))).await
    }

    /// The VM's configuration as the host left it.
    async fn exported_vmx(&self) -> Result<Vec<u8>, JobError> {
        self.exported(&format!("{}.vmx", self.record.place.folder)).await
    }

    pub(super) async fn branch(&mut self) -> Result<Found, JobError> {
        let (link, mount, vmx) = self.link()?;
        let name = self.branch_name();
        if !link.has_snapshot(mount, &vmx, &name).await? {
            files::check_snapshots(self.record, &self.exported_vmx().await?)?;
            link.snapshot(mount, &vmx, &name).await?;
        }
        let found = self.deltas().await.map(drop);
        if found.as_ref().is_err_and(|error| error.code() == HAS_SNAPSHOTS) {
            // Asked for before a restart, and carried out after it was looked for, ours may be there twice.
            link.remove_snapshots(mount, &vmx, &name).await?;
            files::check_snapshots(self.record, &self.exported_vmx().await?)?;
            link.snapshot(mount, &vmx, &name).await?;
            self.deltas().await?;
        } else {
            found?;
        }
        let vm = self.record.host_vm.as_deref().unwrap_or_default();
        let ran = link.find(vm).await?.is_some_and(|found| found.runs);
        let disks = self.live.disks(self.env, self.record).await?;
        self.live.trackers = disks.iter().map(|disk| disk.track_changes()).collect();
        Ok(Found { ran: Some(ran), ..Found::default() })
    }

    /// Writes what the snapshot has back: into the copy once the VM has migrated, or into our disks. What is thrown
    /// away is left.
    pub(super) async fn merge(&mut self) -> Result<Found, JobError> {
        self.live.trackers.clear();
        if self.record.plan.is_unwinding() && !self.has_migrated() {
            return Ok(Found::default());
        }
        let (link, mount, vmx) = self.link()?;
        // Others' snapshots are none of ours: until the step was done it may have come to nothing.
        let done = self.has_migrated() || self.record.ran.is_some();
        if !done && !link.has_snapshot(mount, &vmx, &self.branch_name()).await? {
            return Ok(Found::default());
        }
        let vm = self.record.host_vm.as_deref().unwrap_or_default();
        let found = match link.merge(vm).await? {
            true => link.find(vm).await?,
            false => None,
        };
        let Some(found) = found else { return self.check_left().await };
        if self.has_migrated() && found.datastores.contains(&mount.datastore) {
            let message = format!("the VM still has files on {}", mount.datastore);
            return Err(JobError::conflict("vm_stayed", message));
        }
        Ok(Found::default())
    }

    /// Somebody has taken the VM out of the inventory: what its guest wrote stays for as long as it lies with us.
    async fn check_left(&self) -> Result<Found, JobError> {
        let left = self.deltas_left().await?;
        if left.is_empty() {
            return Ok(Found::default());
        }
        let message = format!(
            "the VM is not registered any more, and what its guest wrote last is in {} of the export: save it, then \
             delete these files",
            left.join(", ")
        );
        Err(JobError::conflict("vm_gone", message))
    }

    pub(super) async fn stop_guest(&mut self) -> Result<Found, JobError> {
        if self.record.ran != Some(true) {
            return Ok(Found::default());
        }
        let (link, mount, vmx) = self.link()?;
        let cut_over = self.record.request.cut_over.clone().unwrap_or_default();
        match cut_over.stop {
            GuestStop::PowerOff => link.power_off(mount, &vmx).await?,
            GuestStop::ShutDown => {
                let seconds = cut_over.shut_down_seconds();
                if !link.shut_down(mount, &vmx, Duration::from_secs(seconds)).await? {
                    let message = format!(
                        "the guest did not shut down within {seconds} s, or its tools do not run: \
                         shut it down yourself, or migrate with `stop` as power_off"
                    );
                    return Err(JobError::conflict(RUNS_ON, message));
                }
            }
        }
        Ok(Found::default())
    }

    /// The migration was given up: the VM runs from our export again if it ran. A guest that was asked to shut down
    /// may still do so, and must not be taken for running.
    pub(super) async fn start_again(&mut self) -> Result<(), JobError> {
        if self.record.plan.is_unwinding() || self.record.ran != Some(true) {
            return Ok(());
        }
        let (link, mount, vmx) = self.link()?;
        link.settle(mount, &vmx, self.shutting_down_for()).await?;
        link.power_on(mount, &vmx, UuidPolicy::Keep).await
    }

    /// For how long the guest may still be shutting down, because it did not in time or the step was cut short.
    fn shutting_down_for(&self) -> Duration {
        let times = self.record.times.get(&Step::Stop);
        let asked = |times: &&StepTimes| {
            let refused = times.error.as_ref().is_some_and(|error| error.code == RUNS_ON);
            times.finished_at.is_none() && !refused
        };
        let since = times.filter(asked);
        let cut_over = self.record.request.cut_over.clone().unwrap_or_default();
        match (since.and_then(|times| times.started_at), cut_over.stop) {
            (Some(since), GuestStop::ShutDown) => {
                let gone = Duration::try_from(Timestamp::now().duration_since(since));
                let within = Duration::from_secs(cut_over.shut_down_seconds());
                within.saturating_sub(gone.unwrap_or_default())
            }
            (Some(_) | None, GuestStop::ShutDown | GuestStop::PowerOff) => Duration::ZERO,
        }
    }

    pub(super) async fn start_there(&mut self) -> Result<Found, JobError> {
        let (link, mount, _) = self.link()?;
        let there = self.new_vmx()?;
        let mut pause_ms = None;
        if self.record.ran == Some(true) {
            // The files were moved: the VM stays who it is by now.
            link.power_on(mount, &there, UuidPolicy::Keep).await?;
            pause_ms = self.pause_ms();
        }
        let to = self.record.destination.as_ref().and_then(|to| to.datastore());
        Ok(Found { migrated_to: to.map(str::to_owned), pause_ms, ..Found::default() })
    }

    /// From when the guest was told to stop, by the clock on the wall: a restart may have come between.
    fn pause_ms(&self) -> Option<u64> {
        let pause = Timestamp::now().duration_since(self.record.stopped_at?);
        let pause = Duration::try_from(pause).ok()?;
        u64::try_from(pause.as_millis()).ok()
    }

    pub(super) async fn stop_there(&mut self) -> Result<(), JobError> {
        if self.has_migrated() {
            return Ok(());
        }
        let (link, mount, _) = self.link()?;
        link.power_off(mount, &self.new_vmx()?).await
    }
}
