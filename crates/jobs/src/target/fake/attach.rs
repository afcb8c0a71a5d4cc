use std::collections::BTreeMap;

use rekindle_vsphere::{Attached, NewDisk};

use super::FakeHost;
use crate::JobError;
use crate::journal::HostMount;
use crate::target::OriginalVm;

/// What VMs have that were there before.
#[derive(Debug)]
pub(crate) struct Hung {
    /// Files of disks and who attached them, by the VM's id.
    pub(crate) on: BTreeMap<String, (String, Vec<String>)>,
    /// Units that each VM has.
    pub(crate) units: usize,
    /// Why nothing can be attached.
    pub(crate) off_limits: Option<&'static str>,
}

impl Default for Hung {
    fn default() -> Self {
        Self { on: BTreeMap::new(), units: 15, off_limits: None }
    }
}

impl Hung {
    fn check(&self, vm: &OriginalVm, disks: usize, job: &str) -> Result<(), JobError> {
        if let Some(code) = self.off_limits {
            return Err(JobError::refused(code, "off limits"));
        }
        if self.on.get(&vm.id).is_some_and(|(other, _)| other != job) {
            return Err(JobError::refused("vm_taken", "another job has it"));
        }
        match self.units < disks {
            true => Err(JobError::refused("no_free_unit", "no unit is free")),
            false => Ok(()),
        }
    }
}

impl FakeHost {
    pub(crate) async fn check_room(
        &self,
        vm: &OriginalVm,
        _mount: &HostMount,
        disks: usize,
        job: &str,
    ) -> Result<(), JobError> {
        self.call("check_room")?.hung.check(vm, disks, job)
    }

    /// A host opens what it attaches: its datastore is mounted, and each file is there.
    pub(crate) async fn attach(
        &self,
        vm: &OriginalVm,
        disks: &[NewDisk],
        job: &str,
    ) -> Result<Vec<Attached>, JobError> {
        let mut state = self.call("attach")?;
        state.hung.check(vm, disks.len(), job)?;
        for disk in disks {
            let (store, path) = disk.file[1..].split_once("] ").unwrap();
            let (export, _) =
                state.mounted.iter().find(|(_, name)| *name == store).expect("mounted");
            let exports = state.appliance.exports.as_ref().unwrap();
            let export = exports.get(export.trim_start_matches('/')).expect("exported");
            assert!(export.read_file(path.as_ref()).unwrap().is_some(), "{path}");
        }
        let files: Vec<String> = disks.iter().map(|disk| disk.file.clone()).collect();
        state.hung.on.insert(vm.id.clone(), (job.to_owned(), files.clone()));
        if state.fail.remove("attach_answer").is_some() {
            let why = anyhow::anyhow!("it is done, and its answer is lost");
            return Err(JobError::unavailable("target_unreachable", "attach", why));
        }
        let attached = |(n, file)| Attached { file, place: format!("scsi0:{}", n + 1) };
        Ok(files.into_iter().enumerate().map(attached).collect())
    }

    pub(crate) async fn detach(
        &self,
        vm: &OriginalVm,
        files: &[String],
        job: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("detach")?;
        if let Some((other, on)) = state.hung.on.get(&vm.id) {
            assert!(other == job && on == files, "{other} {on:?}, and not {job} {files:?}");
        }
        state.hung.on.remove(&vm.id);
        Ok(())
    }
}
