//! VMs: found, registered, looked at, unregistered.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    DatastoreId, HostId, VmId, Vsphere, VsphereError, datastore::Datastore, error::Failure,
    moref::MoRef, property::Object, soap::Request, task, xml::Element,
};

/// What a task that registers a VM is described by.
const REGISTER: &str = "Folder.registerVm";
/// Pauses before a registration that another one was in the way of is repeated.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];

/// A registered VM.
#[derive(Clone, Debug, Serialize)]
pub struct Vm {
    /// Its reference.
    pub id: VmId,
    /// Its name in the inventory.
    pub name: String,
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// It runs.
    On,
    /// It does not.
    Off,
    /// Its memory is in a file.
    Suspended,
}

/// What a server knows of a VM now.
#[derive(Clone, Debug, Serialize)]
pub struct VmView {
    /// Its name in the inventory.
    pub name: String,
    /// Whether it runs.
    pub power: PowerState,
    /// Where its `.vmx` is: `[datastore] dir/vm.vmx`.
    pub vmx_path: String,
    /// The host that it is on.
    pub host: Option<HostId>,
    /// The text of the question that it waits with, if there is one.
    pub question: Option<String>,
    /// Whether the guest's tools report that they run.
    pub tools_running: bool,
    /// Its id that no other VM of the vCenter has.
    pub instance_uuid: Option<String>,
    /// Its disks.
    pub disks: Vec<VmDisk>,
    /// Whether it has snapshots.
    pub has_snapshot: bool,
}

/// A disk of a VM.
#[derive(Clone, Debug, Serialize)]
pub struct VmDisk {
    /// The device's key.
    pub key: i32,
    /// `Hard disk 1`.
    pub label: String,
    /// `[datastore] dir/disk.vmdk`.
    pub file: String,
    /// Where that file is.
    pub datastore: Option<DatastoreId>,
    /// Its size in bytes.
    pub capacity_bytes: u64,
    /// Whether it lies over another file, as after a snapshot.
    pub has_parent: bool,
}

const VIEW: &[&str] = &[
    "name",
    "runtime.powerState",
    "runtime.host",
    "runtime.question",
    "config.files.vmPathName",
    "config.instanceUuid",
    "config.hardware.device",
    "guest.toolsRunningStatus",
    "snapshot",
];

impl Vsphere {
    /// Registers the VM whose `.vmx` is at `[datastore] dir/vm.vmx` on a host, in its datacenter's VM
    /// folder and its root resource pool. One that is registered already is found, whatever its name.
    pub async fn ensure_registered(
        &self,
        host: &HostId,
        vmx: &str,
        name: &str,
    ) -> Result<Vm, VsphereError> {
        self.session.insist(|| self.try_register(host, vmx, name, None)).await
    }

    /// The same in the folder and the resource pool of another VM, if that is on this host.
    pub async fn ensure_registered_beside(
        &self,
        host: &HostId,
        vmx: &str,
        name: &str,
        other: &VmId,
    ) -> Result<Vm, VsphereError> {
        self.session.insist(|| self.try_register(host, vmx, name, Some(other))).await
    }

    async fn try_register(
        &self,
        host: &HostId,
        vmx: &str,
        name: &str,
        beside: Option<&VmId>,
    ) -> Result<Vm, Failure> {
        let place = self.place(host).await?;
        if let Some(vm) = self.by_path(&place.datacenter, vmx).await? {
            return Ok(vm);
        }
        let place = match beside {
            Some(other) => self.beside(other, host, place).await?,
            None => place,
        };
        let request = Request::new("RegisterVM_Task", &place.vm_folder, |w| {
            w.text("path", vmx);
            w.text("name", &inventory_name(name));
            w.flag("asTemplate", false);
            w.moref("pool", &place.pool);
            w.moref("host", &host.moref());
        });
        let deadline = Instant::now() + self.session.limits.task;
        let mut pauses = AGAIN.into_iter();
        loop {
            let failure = match self.session.run(&request, self.session.limits.task).await {
                Ok(result) => {
                    let id = result.as_ref().and_then(Element::moref);
                    let id = id.ok_or_else(|| Failure::garbled(request.call, "it names no VM"))?;
                    return Ok(Vm { id: VmId::from(id), name: name.to_owned() });
                }
                Err(failure @ Failure::Error(_)) => return Err(failure),
                Err(failure) => failure,
            };
            // A call of ours whose answer nobody heard may be why, and may be at work still.
            let waited = self.await_registrations(deadline).await?;
            if let Some(vm) = self.by_path(&place.datacenter, vmx).await? {
                return Ok(vm);
            }
            // Another VM's may have been in the way, and be done by now: that is no fault of this one.
            let pause = pauses.next().filter(|_| waited || failure.is(&["SystemError"]));
            sleep(pause.ok_or(failure)?).await;
        }
    }

    /// Waits until the VMs that are being registered at the server are; whether there were any.
    async fn await_registrations(&self, deadline: Instant) -> Result<bool, Failure> {
        let mut waited = false;
        for task in self.session.at_work().await? {
            if task.text("info.descriptionId") == Some(REGISTER) {
                self.session.wait_out(&task.id, deadline).await?;
                waited = true;
            }
        }
        Ok(waited)
    }

    /// The VM whose `.vmx` is at `[datastore] dir/vm.vmx`, in the host's datacenter.
    pub async fn find_vm_by_path(
        &self,
        host: &HostId,
        vmx: &str,
    ) -> Result<Option<Vm>, VsphereError> {
        let find = || async { self.by_path(&self.place(host).await?.datacenter, vmx).await };
        self.session.insist(find).await
    }

    async fn by_path(&self, datacenter: &MoRef, vmx: &str) -> Result<Option<Vm>, Failure> {
        let request = Request::new("FindByDatastorePath", &self.session.roots.search_index, |w| {
            w.moref("datacenter", datacenter);
            w.text("path", vmx);
        });
        self.found(&request).await
    }

    /// The VM with this instance UUID, anywhere on the server.
    pub async fn find_vm_by_instance_uuid(&self, uuid: &str) -> Result<Option<Vm>, VsphereError> {
        let request = Request::new("FindByUuid", &self.session.roots.search_index, |w| {
            w.text("uuid", uuid);
            w.flag("vmSearch", true);
            w.flag("instanceUuid", true);
        });
        self.session.insist(|| self.found(&request)).await
    }

    async fn found(&self, request: &Request) -> Result<Option<Vm>, Failure> {
        let answer = match self.session.call(request).await {
            // An unknown datastore in the path: nothing can be registered there.
            Err(failure) if failure.is(&["InvalidDatastore", "NotFound"]) => return Ok(None),
            answer => answer?,
        };
        let Some(id) = answer.child("returnval").and_then(Element::moref) else { return Ok(None) };
        match self.session.read(&id, &["name"]).await {
            Ok(vm) => Ok(Some(Vm { name: vm.owned("name"), id: VmId::from(id) })),
            Err(failure) if failure.is_gone() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// What the server knows of a VM now; `NotFound` if it is not registered any more.
    pub async fn vm(&self, vm: &VmId) -> Result<VmView, VsphereError> {
        self.session.insist(|| self.view(vm)).await
    }

    pub(crate) async fn view(&self, vm: &VmId) -> Result<VmView, Failure> {
        Ok(view(&self.session.read(&vm.moref(), VIEW).await?))
    }

    /// The datastores that a VM has files on.
    pub async fn vm_datastores(&self, vm: &VmId) -> Result<Vec<Datastore>, VsphereError> {
        self.session.insist(|| self.datastores_of(vm.moref(), "VirtualMachine")).await
    }

    /// Takes a VM out of the inventory and leaves its files. It must not run. One that is not
    /// registered any more is fine.
    pub async fn unregister(&self, vm: &VmId) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_unregister(vm)).await
    }

    async fn try_unregister(&self, vm: &VmId) -> Result<(), Failure> {
        let request = Request::new("UnregisterVM", &vm.moref(), |_| {});
        let deadline = Instant::now() + self.session.limits.task;
        loop {
            match self.session.call(&request).await {
                Err(failure) if failure.is_gone() => return Ok(()),
                Err(failure) => match task::in_the_way(&failure) {
                    Some(task) => self.session.wait_out(&task, deadline).await?,
                    None => return Err(failure),
                },
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// A name as the inventory has it: these three are escaped there.
pub(crate) fn inventory_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

/// The name that the inventory has so.
pub(crate) fn plain_name(name: &str) -> String {
    let slashes = name.replace("%2f", "/").replace("%2F", "/");
    slashes.replace("%5c", "\\").replace("%5C", "\\").replace("%25", "%")
}

fn view(vm: &Object) -> VmView {
    let devices = vm.list("config.hardware.device");
    VmView {
        name: vm.owned("name"),
        power: power(vm),
        vmx_path: vm.owned("config.files.vmPathName"),
        host: vm.moref("runtime.host").map(HostId::from),
        question: vm.get("runtime.question").and_then(|q| q.text_at(&["text"])).map(str::to_owned),
        tools_running: vm.text("guest.toolsRunningStatus") == Some("guestToolsRunning"),
        instance_uuid: vm.text("config.instanceUuid").map(str::to_owned),
        disks: devices.iter().filter_map(disk).collect(),
        has_snapshot: vm.get("snapshot").is_some_and(|s| s.child("currentSnapshot").is_some()),
    }
}

pub(crate) fn power(vm: &Object) -> PowerState {
    match vm.text("runtime.powerState") {
        Some("poweredOn") => PowerState::On,
        Some("suspended") => PowerState::Suspended,
        _ => PowerState::Off,
    }
}

fn disk(device: &Element) -> Option<VmDisk> {
    if device.xsi_type.as_deref() != Some("VirtualDisk") {
        return None;
    }
    let backing = device.child("backing")?;
    let number = |name: &str| device.text_at(&[name]).and_then(|text| text.parse::<u64>().ok());
    let bytes = number("capacityInBytes").or_else(|| Some(number("capacityInKB")? * 1024));
    Some(VmDisk {
        key: device.text_at(&["key"])?.parse().ok()?,
        label: device.text_at(&["deviceInfo", "label"]).unwrap_or_default().to_owned(),
        file: backing.text_at(&["fileName"]).unwrap_or_default().to_owned(),
        datastore: backing.child("datastore").and_then(Element::moref).map(DatastoreId::from),
        capacity_bytes: bytes.unwrap_or(0),
        has_parent: backing.child("parent").is_some(),
    })
}
