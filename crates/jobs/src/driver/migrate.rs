use jiff::Timestamp;

use super::Driver;
use crate::route::LOW_PAUSE;
use crate::staging::check_directory;
use crate::target::Needs;
use crate::{CutOver, Destination, JobError, Mode, RecoveryRequest, Verification, failure};

impl Driver {
    /// Puts the steps of a migration into the plan, if it can work.
    pub(super) async fn begin_migration(
        &mut self,
        to: Option<Destination>,
        cut_over: Option<CutOver>,
        verify: Option<Verification>,
    ) -> Result<(), JobError> {
        if self.record.request.mode == Mode::LiveMount {
            return Err(JobError::conflict(
                "mount_is_not_migrated",
                "a live mount ends discarded; recover with mode live_recovery to migrate",
            ));
        }
        if self.record.request.attach_to.is_some() {
            return Err(JobError::conflict(
                "attached_is_not_migrated",
                "attached disks end detached and discarded; recover them without attach_to to migrate",
            ));
        }
        let to = to.or_else(|| self.record.request.migrate.clone()).ok_or_else(|| {
            JobError::refused(
                "destination_missing",
                "say where to migrate to: a datastore on vSphere, a directory for an export",
            )
        })?;
        to.validate(&self.record.request.target)?;
        let mut request = self.record.request.clone();
        request.cut_over = cut_over.or(request.cut_over);
        request.verify = verify.or(request.verify);
        request.validate_cut_over()?;
        request.validate_verify()?;
        let mut relocates = true;
        match &to {
            Destination::Datastore(name) => {
                relocates = self.check_datastore(name, &request).await?
            }
            Destination::Directory(path) | Destination::Images { directory: path, .. } => {
                let (path, own) = (path.clone(), self.env.config.own_dirs.clone());
                failure::blocking(move || check_directory(&path, &own)).await?;
            }
        }
        let steps = match relocates {
            true => request.migration_steps(&to),
            false => LOW_PAUSE,
        };
        if self.record.plan.migrate(steps) {
            self.record.request.cut_over = request.cut_over;
            self.record.request.verify = request.verify;
            self.record.compared = None;
            self.record.destination = Some(to);
            (self.record.error, self.record.ran, self.record.stopped_at) = (None, None, None);
            for step in steps {
                self.record.times.remove(step);
            }
            let short = steps == LOW_PAUSE;
            let what = if short { "migrating, with a short pause" } else { "migrating" };
            self.record.note(Timestamp::now(), what);
        }
        Ok(())
    }

    /// Whether the host moves the VM by itself.
    async fn check_datastore(
        &self,
        name: &str,
        request: &RecoveryRequest,
    ) -> Result<bool, JobError> {
        let Some(mount) = &self.record.place.datastore else {
            return Err(JobError::refused("destination_unreachable", "the job has no host"));
        };
        if *name == mount.datastore {
            return Err(JobError::refused(
                "destination_unreachable",
                format!("{name} is where the VM is: name another datastore"),
            ));
        }
        let link = self.env.link(&mount.target)?;
        let relocate = request.needs_relocation();
        let needs = Needs { migrate: Some(name), relocate, ..Needs::default() };
        let facts = link.check(mount.host.as_deref(), &needs).await?;
        Ok(relocate || (facts.relocates && !self.record.unlicensed))
    }
}
