//! A host in memory: it remembers what it was told and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use rekindle_vsphere::{GuestView, Heartbeat, PowerState};

mod aside;
pub(crate) mod attach;
pub(crate) mod budget;
mod low_pause;

use super::{HostFacts, Needs, Whereabouts};
use crate::journal::HostMount;
use crate::{JobError, UuidPolicy};

/// A host whose state a test reads and whose calls it makes fail.
#[derive(Debug, Default)]
pub struct FakeHost {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Export path to datastore name.
    pub(crate) mounted: BTreeMap<String, String>,
    /// Configuration path to VM.
    pub(crate) vms: BTreeMap<String, FakeVm>,
    /// Names of calls, and how often each is still to fail.
    pub(crate) fail: BTreeMap<&'static str, usize>,
    /// Every call, in order.
    pub(crate) calls: Vec<&'static str>,
    /// Directories on datastores.
    pub(crate) dirs: BTreeSet<String>,
    /// What the tools of every guest tell; nothing is installed when absent.
    pub(crate) guest: Option<GuestView>,
    /// Datastores to migrate to.
    pub(crate) datastores: BTreeSet<String>,
    /// Networks that it does not have.
    pub(crate) lacks: BTreeSet<String>,
    /// Adapters that were put on networks once their VM was registered: its id, number and network.
    pub(crate) plugged: BTreeSet<(String, u8, String)>,
    /// It cannot move a VM while that runs.
    pub(crate) standalone: bool,
    /// It has no licence to.
    pub(crate) unlicensed: bool,
    /// Guests do not shut down when they are asked to.
    pub(crate) deaf: bool,
    /// Copies of disks have a wrong byte here.
    pub(crate) miscopies: Option<usize>,
    /// Its VM's snapshot is not the appliance's.
    pub(crate) others: bool,
    /// The next snapshot is there twice, as if it had been asked for before.
    pub(crate) doubles: bool,
    /// It gives files as a whole only.
    pub(crate) whole_files: bool,
    /// Bytes of files that were read in parts.
    pub(crate) parts_read: u64,
    /// Copies of disks never end.
    pub(crate) hangs: bool,
    /// What is attached to VMs that were there before.
    pub(crate) hung: attach::Hung,
    /// What it bears.
    pub(crate) bears: budget::Bears,
    /// What is on other datastores.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What the guest has written over its snapshot.
    pub(crate) over: low_pause::Over,
    /// The appliance that it mounts.
    pub(crate) appliance: low_pause::Appliance,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeVm {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) runs: bool,
    pub(crate) snapshot: bool,
    pub(crate) tag: Option<String>,
}

impl FakeHost {
    pub(crate) fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    fn call(&self, name: &'static str) -> Result<parking_lot::MutexGuard<'_, State>, JobError> {
        let mut state = self.state.lock();
        state.calls.push(name);
        if let Some(left) = state.fail.get_mut(name).filter(|left| **left > 0) {
            *left -= 1;
            let why = anyhow::anyhow!("told to fail");
            return Err(JobError::unavailable("target_unreachable", name, why));
        }
        Ok(state)
    }

    pub(crate) async fn check(
        &self,
        _host: Option<&str>,
        needs: &Needs<'_>,
    ) -> Result<HostFacts, JobError> {
        let state = self.call("check")?;
        if let Some(name) = needs.networks.iter().find(|name| state.lacks.contains(**name)) {
            return Err(JobError::refused("not_on_target", format!("no network {name}")));
        }
        let mut needed = needs.migrate.iter().chain(&needs.datastores);
        match needed.find(|name| !state.datastores.contains(**name)) {
            Some(name) => Err(JobError::refused("not_on_target", format!("no datastore {name}"))),
            None if needs.relocate && needs.migrate.is_some() && state.standalone => {
                Err(JobError::refused("needs_vcenter", "a standalone host"))
            }
            None => Ok(HostFacts {
                clients: vec![std::net::IpAddr::from([127, 0, 0, 1]).into()],
                relocates: !state.standalone,
            }),
        }
    }

    pub(crate) async fn mount(&self, mount: &HostMount, path: &str) -> Result<String, JobError> {
        let mut state = self.call("mount")?;
        let name = state.mounted.entry(path.to_owned()).or_insert(mount.datastore.clone());
        Ok(name.clone())
    }

    pub(crate) async fn unmount(&self, _mount: &HostMount, path: &str) -> Result<(), JobError> {
        let mut state = self.call("unmount")?;
        let Some(name) = state.mounted.get(path).cloned() else { return Ok(()) };
        let uses =
            |(vmx, vm): (&String, &FakeVm)| vm.snapshot || vmx.starts_with(&format!("[{name}] "));
        let on = format!("[{name}] ");
        let hung =
            state.hung.on.values().any(|(_, files)| files.iter().any(|f| f.starts_with(&on)));
        if hung || state.vms.iter().any(uses) {
            return Err(JobError::refused("target_refused", "ResourceInUse"));
        }
        state.mounted.remove(path);
        Ok(())
    }

    pub(crate) async fn register(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        name: &str,
        _beside: Option<&str>,
    ) -> Result<String, JobError> {
        let mut state = self.call("register")?;
        let id = format!("vm-{}", state.calls.len());
        state.assert_free(name, Some(vmx_path))?;
        let snapshot = state.is_chained(vmx_path);
        let vm = FakeVm { id, name: name.to_owned(), runs: false, snapshot, tag: None };
        Ok(state.vms.entry(vmx_path.to_owned()).or_insert(vm).id.clone())
    }

    pub(crate) async fn put_on_port_groups(
        &self,
        _mount: &HostMount,
        vm: &str,
        adapters: &[(u8, String)],
    ) -> Result<(), JobError> {
        let mut state = self.call("put_on_port_groups")?;
        state.plugged.extend(adapters.iter().map(|(n, to)| (vm.to_owned(), *n, to.clone())));
        Ok(())
    }

    pub(crate) async fn unregister(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("unregister")?;
        if state.vms.get(vmx_path).is_some_and(|vm| vm.runs) {
            return Err(JobError::refused("target_refused", "InvalidPowerState"));
        }
        state.vms.remove(vmx_path);
        Ok(())
    }

    pub(crate) async fn make_dir(&self, _mount: &HostMount, path: &str) -> Result<(), JobError> {
        self.call("make_dir")?.dirs.insert(path.to_owned());
        Ok(())
    }

    pub(crate) async fn remove_dir(&self, _mount: &HostMount, path: &str) -> Result<(), JobError> {
        let mut state = self.call("remove_dir")?;
        state.dirs.remove(path);
        state.files.retain(|file, _| !file.starts_with(&format!("{path}/")));
        Ok(())
    }

    /// Writes a snapshot where the VM's directory for them is, so that must be there.
    pub(crate) async fn snapshot(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("snapshot")?;
        if name != "rekindle" {
            state.put_deltas(vmx_path);
            if state.doubles {
                state.put_between(vmx_path);
            }
        } else if state.dirs.is_empty() {
            return Err(JobError::refused("target_refused", "FileNotFound"));
        }
        let vm = state.vms.get_mut(vmx_path);
        vm.ok_or_else(|| JobError::conflict("vm_gone", "not registered"))?.snapshot = true;
        Ok(())
    }

    pub(crate) async fn consolidate(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("consolidate")?;
        let vm = state.vms.get_mut(vmx_path);
        vm.ok_or_else(|| JobError::conflict("vm_gone", "not registered"))?.snapshot = false;
        Ok(())
    }

    pub(crate) async fn write_beside(&self, _vm: &str) -> Result<bool, JobError> {
        self.call("write_beside").map(|_| true)
    }

    pub(crate) async fn power_on(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        _uuid: UuidPolicy,
    ) -> Result<(), JobError> {
        let mut state = self.call("power_on")?;
        state.check_chain(vmx_path)?;
        let vm = state.vms.get_mut(vmx_path);
        vm.ok_or_else(|| JobError::conflict("vm_gone", "not registered"))?.runs = true;
        Ok(())
    }

    pub(crate) async fn power_off(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        if let Some(vm) = self.call("power_off")?.vms.get_mut(vmx_path) {
            vm.runs = false;
        }
        Ok(())
    }

    pub(crate) async fn relocate(
        &self,
        _mount: &HostMount,
        vm: &str,
        datastore: &str,
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), JobError> {
        drop(self.call("relocate")?);
        self.held().await;
        let mut state = self.state();
        if state.unlicensed {
            return Err(JobError::refused(crate::target::UNLICENSED, "RestrictedVersion"));
        }
        progress(50);
        let path = state.vms.iter().find(|(_, found)| found.id == vm).map(|(path, _)| path.clone());
        let Some(path) = path else { return Err(JobError::conflict("vm_gone", "no such VM")) };
        if state.vms[&path].snapshot {
            return Err(JobError::refused("target_refused", "the VM's writes are elsewhere"));
        }
        if let Some(vm) = state.vms.remove(&path) {
            let mut moved = format!("[{datastore}] {0}/{0}.vmx", vm.name);
            if state.vms.contains_key(&moved) {
                moved = format!("[{datastore}] {0}_1/{0}.vmx", vm.name);
            }
            state.vms.insert(moved, vm);
        }
        progress(100);
        Ok(())
    }

    pub(crate) async fn cancel_tasks(&self, _vm: &str) -> Result<(), JobError> {
        self.call("cancel_tasks").map(drop)
    }

    pub(crate) async fn find(&self, vm: &str) -> Result<Option<Whereabouts>, JobError> {
        let state = self.call("find")?;
        let found = state.vms.iter().find(|(_, found)| found.id == vm);
        Ok(found.map(|(path, vm)| Whereabouts {
            vmx_path: path.clone(),
            datastores: state.datastores_of(path, vm),
            runs: vm.runs,
        }))
    }

    pub(crate) async fn guest(&self, vm: &str) -> Result<Option<GuestView>, JobError> {
        let state = self.call("guest")?;
        Ok(state.vms.values().find(|found| found.id == vm).map(|_| {
            state.guest.clone().unwrap_or(GuestView {
                power: PowerState::On,
                tools_running: false,
                heartbeat: Heartbeat::Gray,
                address: None,
            })
        }))
    }
}
