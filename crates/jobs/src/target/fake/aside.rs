use std::time::Duration;

use super::{FakeHost, FakeVm, State};
use crate::target::{FoundOriginal, OriginalVm};
use crate::{JobError, OriginalRef};

impl State {
    fn by_id(&mut self, id: &str) -> Result<&mut FakeVm, JobError> {
        let found = self.vms.values_mut().find(|vm| vm.id == id);
        found.ok_or_else(|| JobError::refused("not_on_target", format!("no VM {id}")))
    }

    /// Two VMs of a folder never have the same name.
    pub(super) fn assert_free(&self, name: &str, but: Option<&str>) -> Result<(), JobError> {
        let taken = |(path, vm): (&String, &FakeVm)| vm.name == name && but != Some(path.as_str());
        match self.vms.iter().any(taken) {
            true => Err(JobError::refused("target_refused", format!("DuplicateName: {name}"))),
            false => Ok(()),
        }
    }
}

impl FakeHost {
    pub(crate) async fn find_original(
        &self,
        original: Option<&OriginalRef>,
        backed_up: &str,
    ) -> Result<FoundOriginal, JobError> {
        let state = self.call("find_original")?;
        let found = state.vms.values().find(|vm| match original {
            None => vm.name == backed_up,
            Some(OriginalRef::Name(name)) => vm.name == *name,
            Some(OriginalRef::Uuid(id) | OriginalRef::Moref(id)) => vm.id == *id,
        });
        let vm = found.ok_or_else(|| JobError::refused("not_on_target", "no such VM"))?;
        let (id, name, runs) = (vm.id.clone(), vm.name.clone(), vm.runs);
        Ok(FoundOriginal { vm: OriginalVm { id, uuid: None, name, runs }, host: None })
    }

    /// A guest that is given no time does not shut down.
    pub(crate) async fn halt(
        &self,
        vm: &OriginalVm,
        within: Option<Duration>,
    ) -> Result<bool, JobError> {
        self.call("halt")?.by_id(&vm.id)?.runs = false;
        Ok(within.is_some())
    }

    pub(crate) async fn wake(
        &self,
        vm: &OriginalVm,
        _shutting_down: Duration,
    ) -> Result<(), JobError> {
        let mut state = self.call("wake")?;
        let other = state.vms.values().find(|other| other.runs && other.name == vm.name);
        assert!(other.is_none_or(|other| other.id == vm.id), "both run");
        state.by_id(&vm.id)?.runs = true;
        Ok(())
    }

    pub(crate) async fn set_aside(
        &self,
        vm: &OriginalVm,
        name: &str,
        job: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("set_aside")?;
        let vm = state.by_id(&vm.id)?;
        (vm.name, vm.tag) = (name.to_owned(), Some(job.to_owned()));
        Ok(())
    }

    pub(crate) async fn put_back(
        &self,
        vm: &OriginalVm,
        aside: &str,
        job: &str,
    ) -> Result<Option<String>, JobError> {
        let mut state = self.call("put_back")?;
        let now = state.by_id(&vm.id)?.clone();
        if now.name != aside && now.tag.as_deref() != Some(job) {
            return Ok(None);
        }
        if now.name == aside {
            state.assert_free(&vm.name, None)?;
            state.by_id(&vm.id)?.name.clone_from(&vm.name);
        }
        state.by_id(&vm.id)?.tag = None;
        Ok((now.name != aside).then_some(now.name))
    }

    pub(crate) async fn remove_original(
        &self,
        vm: &OriginalVm,
        aside: &str,
        job: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("remove_original")?;
        let ours = |vm: &FakeVm| vm.name == aside || vm.tag.as_deref() == Some(job);
        if state.by_id(&vm.id).is_ok_and(|vm| !ours(vm) || vm.runs) {
            return Err(JobError::conflict("original_changed", "not ours"));
        }
        state.vms.retain(|_, other| other.id != vm.id);
        Ok(())
    }

    pub(crate) async fn power_off_vm(&self, vm: &str) -> Result<(), JobError> {
        let mut state = self.call("power_off_vm")?;
        if let Ok(vm) = state.by_id(vm) {
            vm.runs = false;
        }
        Ok(())
    }

    pub(crate) async fn unregister_vm(&self, vm: &str) -> Result<(), JobError> {
        let mut state = self.call("unregister_vm")?;
        assert!(state.by_id(vm).is_ok_and(|vm| !vm.runs) || state.by_id(vm).is_err());
        state.vms.retain(|_, other| other.id != vm);
        Ok(())
    }
}
