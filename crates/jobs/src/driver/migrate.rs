use jiff::Timestamp;

use super::Driver;
use crate::staging::check_directory;
use crate::target::Needs;
use crate::{Destination, JobError, Mode, failure};

impl Driver {
    /// Puts the steps of a migration into the plan, if it can work.
    pub(super) async fn begin_migration(
        &mut self,
        to: Option<Destination>,
    ) -> Result<(), JobError> {
        if self.record.request.mode == Mode::LiveMount {
            return Err(JobError::conflict(
                "mount_is_not_migrated",
                "a live mount ends discarded; recover with mode live_recovery to migrate",
            ));
        }
        let to = to.or_else(|| self.record.request.migrate.clone()).ok_or_else(|| {
            JobError::refused(
                "destination_missing",
                "say where to migrate to: a datastore on vSphere, a directory for an export",
            )
        })?;
        to.validate(&self.record.request.target)?;
        match &to {
            Destination::Datastore(name) => self.check_datastore(name).await?,
            Destination::Directory(path) | Destination::Images { directory: path, .. } => {
                let (path, own) = (path.clone(), self.env.config.own_dirs.clone());
                failure::blocking(move || check_directory(&path, &own)).await?;
            }
        }
        let steps = self.record.request.migration_steps(&to);
        if self.record.plan.migrate(steps) {
            self.record.destination = Some(to);
            self.record.error = None;
            for step in steps {
                self.record.times.remove(step);
            }
            self.record.note(Timestamp::now(), "migrating");
        }
        Ok(())
    }

    async fn check_datastore(&self, name: &str) -> Result<(), JobError> {
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
        let needs = Needs { migrate: Some(name), ..Needs::default() };
        link.check(mount.host.as_deref(), &needs).await.map(drop)
    }
}
