use std::time::Duration;

use rekindle_vsphere::{PowerState, Standing, UuidPolicy, VmRef, Vsphere, VsphereError};
use tokio::time::Instant;

use super::{Link, failure, vm_id};
use crate::target::{FoundOriginal, OriginalVm};
use crate::{JobError, OriginalRef};

impl Link {
    pub(crate) async fn find_original(
        &self,
        original: Option<&OriginalRef>,
        backed_up: &str,
    ) -> Result<FoundOriginal, JobError> {
        let session = self.session().await?;
        let which = match original {
            None => VmRef::Name(backed_up.to_owned()),
            Some(OriginalRef::Name(name)) => VmRef::Name(name.clone()),
            Some(OriginalRef::Uuid(uuid)) => VmRef::Uuid(uuid.clone()),
            Some(OriginalRef::Moref(moref)) => VmRef::Moref(moref.clone()),
        };
        let found = session.find_standing(&which).await;
        let found = found.map_err(|e| failure("find the VM", e))?;
        let hosts = session.hosts().await.map_err(|e| failure("find the VM's host", e))?;
        // Named only where a request must name one, so that jobs share its datastore.
        let by_default = match (&self.target().host, hosts.as_slice()) {
            (Some(name), _) => session.find_host(Some(name)).await.ok().map(|host| host.id),
            (None, [only]) => Some(only.id.clone()),
            (None, _) => None,
        };
        let there = found.host.clone().filter(|host| by_default.as_ref() != Some(host));
        let host = there.and_then(|id| hosts.into_iter().find(|host| host.id == id));
        Ok(FoundOriginal {
            vm: OriginalVm {
                id: found.id.as_str().to_owned(),
                uuid: found.instance_uuid,
                name: found.name,
                runs: found.power == PowerState::On,
            },
            host: host.map(|host| host.name),
        })
    }

    /// The VM as it stands now; another VM under its id is none of ours to touch.
    pub(super) async fn aside(&self, vm: &OriginalVm) -> Result<(Vsphere, Standing), JobError> {
        let session = self.session().await?;
        let now = session.standing(&vm_id(&vm.id)?).await;
        let now = now.map_err(|e| failure("look at the VM", e))?;
        if now.instance_uuid != vm.uuid {
            let message = format!("{} is not {} any more", vm.id, vm.name);
            return Err(JobError::conflict("original_changed", message));
        }
        Ok((session, now))
    }

    pub(crate) async fn halt(
        &self,
        vm: &OriginalVm,
        within: Option<Duration>,
    ) -> Result<bool, JobError> {
        let (session, now) = self.aside(vm).await?;
        if now.power != PowerState::On {
            return Ok(true);
        }
        if let Some(within) = within {
            let off = session.shut_down_guest(&now.id, within).await;
            if off.map_err(|e| failure("shut the original's guest down", e))? {
                return Ok(true);
            }
        }
        let off = session.power_off(&now.id).await;
        off.map(|()| false).map_err(|e| failure("power the original VM off", e))
    }

    pub(crate) async fn wake(
        &self,
        vm: &OriginalVm,
        shutting_down: Duration,
    ) -> Result<(), JobError> {
        let (session, now) = self.aside(vm).await?;
        let deadline = Instant::now() + shutting_down;
        let settled = session.off_within(&now.id, deadline).await;
        settled.map_err(|e| failure("look at the original VM", e))?;
        // It is where it was: nothing is asked of it.
        let on = session.power_on(&now.id, UuidPolicy::Moved).await;
        on.map_err(|e| failure("power the original VM on", e))
    }

    pub(crate) async fn set_aside(
        &self,
        vm: &OriginalVm,
        name: &str,
        job: &str,
    ) -> Result<(), JobError> {
        let (session, now) = self.aside(vm).await?;
        let renamed = session.rename(&now.id, name, Some(job)).await;
        renamed.map_err(|e| failure("rename the original VM", e))
    }

    pub(crate) async fn put_back(
        &self,
        vm: &OriginalVm,
        aside: &str,
        job: &str,
    ) -> Result<Option<String>, JobError> {
        let (session, now) = self.aside(vm).await?;
        // That it has the name that this job gives it, and had not when it was found, tells as much as the tag does.
        let ours = now.name == aside;
        if !ours && now.tag.as_deref() != Some(job) {
            return Ok(None);
        }
        let name = if ours { &vm.name } else { &now.name };
        let renamed = session.rename(&now.id, name, None).await;
        renamed.map_err(|e| failure("give the original VM its name back", e))?;
        Ok((!ours).then(|| format!("somebody named the original {name}: it keeps that")))
    }

    pub(crate) async fn remove_original(
        &self,
        vm: &OriginalVm,
        aside: &str,
        job: &str,
    ) -> Result<(), JobError> {
        let (session, now) = match self.aside(vm).await {
            Err(JobError::Refused { code: "not_on_target", .. }) => return Ok(()),
            found => found?,
        };
        let ours = now.name == aside || now.tag.as_deref() == Some(job);
        if !ours || now.power != PowerState::Off {
            let message = format!("{} is not off, or not set aside by this job any more", now.name);
            return Err(JobError::conflict("original_changed", message));
        }
        session.destroy(&now.id).await.map_err(|e| failure("remove the original VM", e))
    }

    pub(crate) async fn power_off_vm(&self, vm: &str) -> Result<(), JobError> {
        match self.session().await?.power_off(&vm_id(vm)?).await {
            Ok(()) | Err(VsphereError::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure("power the VM off", error)),
        }
    }

    pub(crate) async fn unregister_vm(&self, vm: &str) -> Result<(), JobError> {
        let gone = self.session().await?.unregister(&vm_id(vm)?).await;
        gone.map_err(|e| failure("unregister the VM", e))
    }
}
