//! A VM that steps aside for another: found, shut down, renamed with a tag of the caller's, put back, removed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    HostId, PowerState, VmId, Vsphere, VsphereError,
    error::Failure,
    inventory::Place,
    moref::MoRef,
    property::{Object, Query, Watch},
    soap::Request,
    task, vm,
};

/// The key of the tag among a VM's extra configuration.
const TAG: &str = "rekindle.set_aside";

const POWER: &[&str] = &["runtime.powerState"];

const STANDING: &[&str] =
    &["name", "runtime.powerState", "runtime.host", "config.instanceUuid", "config.extraConfig"];

/// How a VM of the inventory is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmRef {
    /// By its name.
    Name(String),
    /// By its instance UUID, or else its BIOS UUID, however it is written.
    Uuid(String),
    /// By its reference's value: `vm-42`.
    Moref(String),
}

/// A VM as it stands in the inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its reference.
    pub id: VmId,
    /// Its name, without the inventory's escapes.
    pub name: String,
    /// Its id that no other VM of the vCenter has.
    pub instance_uuid: Option<String>,
    /// Whether it runs.
    pub power: PowerState,
    /// The host that it is on.
    pub host: Option<HostId>,
    /// What [`Vsphere::rename`] tagged it with.
    pub tag: Option<String>,
}

impl Vsphere {
    /// The one VM that is told so; `NotFound` if there is none, or more than one.
    pub async fn find_standing(&self, which: &VmRef) -> Result<Standing, VsphereError> {
        let id = match which {
            VmRef::Moref(value) => VmId::from(MoRef::new("VirtualMachine", value)),
            VmRef::Name(_) | VmRef::Uuid(_) => {
                self.session.insist(|| self.try_find_told(which)).await?
            }
        };
        self.standing(&id).await
    }

    async fn try_find_told(&self, which: &VmRef) -> Result<VmId, Failure> {
        let query = Query {
            start: std::slice::from_ref(&self.session.roots.root_folder),
            steps: crate::export::TO_VMS,
            properties: &[("VirtualMachine", &["name", "config.instanceUuid", "config.uuid"])],
        };
        let found = self.session.retrieve(&query).await?;
        let vms: Vec<Object> =
            found.into_iter().filter(|o| o.id.kind == "VirtualMachine").collect();
        let by = |path: &str, wanted: &dyn Fn(&str) -> bool| -> Vec<MoRef> {
            let is_it = |vm: &&Object| vm.text(path).is_some_and(wanted);
            vms.iter().filter(is_it).map(|vm| vm.id.clone()).collect()
        };
        let (what, mut found) = match which {
            VmRef::Name(name) => (name, by("name", &|text| vm::plain_name(text) == *name)),
            VmRef::Uuid(uuid) | VmRef::Moref(uuid) => {
                let wanted = digits(uuid);
                let of = |path| by(path, &|text| !wanted.is_empty() && digits(text) == wanted);
                let exact = of("config.instanceUuid");
                (uuid, if exact.is_empty() { of("config.uuid") } else { exact })
            }
        };
        match (found.pop(), found.len()) {
            (Some(vm), 0) => Ok(VmId::from(vm)),
            (Some(_), more) => Err(Failure::not_found(format!(
                "one VM `{what}` (there are {}: name its reference or its instance UUID)",
                more + 1
            ))),
            (None, _) => Err(Failure::not_found(format!("VM `{what}`"))),
        }
    }

    /// A VM as it stands; `NotFound` if it is not registered any more.
    pub async fn standing(&self, vm: &VmId) -> Result<Standing, VsphereError> {
        self.session.insist(|| self.try_standing(vm)).await
    }

    async fn try_standing(&self, vm: &VmId) -> Result<Standing, Failure> {
        let read = self.session.read(&vm.moref(), STANDING).await?;
        let pairs = read.list("config.extraConfig").iter();
        let mut tags = pairs.filter(|pair| pair.text_at(&["key"]) == Some(TAG));
        let tag = tags.next().and_then(|pair| pair.text_at(&["value"]));
        Ok(Standing {
            id: vm.clone(),
            name: vm::plain_name(read.text("name").unwrap_or_default()),
            instance_uuid: read.text("config.instanceUuid").map(str::to_owned),
            power: vm::power(&read),
            host: read.moref("runtime.host").map(HostId::from),
            tag: tag.filter(|tag| !tag.is_empty()).map(str::to_owned),
        })
    }

    /// Names a VM and sets its tag, or takes it away, in one call. One that is named and tagged so is fine. Returns once it
    /// is seen to have the name; a host that leaves the tag as it was is not asked twice.
    pub async fn rename(
        &self,
        vm: &VmId,
        name: &str,
        tag: Option<&str>,
    ) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_rename(vm, name, tag)).await
    }

    async fn try_rename(&self, vm: &VmId, name: &str, tag: Option<&str>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.session.limits.task;
        let request = Request::new("ReconfigVM_Task", &vm.moref(), |w| {
            w.element("spec", |w| {
                w.text("name", &vm::inventory_name(name));
                w.element("extraConfig", |w| {
                    w.text("key", TAG);
                    w.typed_text("value", "xsd:string", tag.unwrap_or_default());
                });
            });
        });
        let mut carried_out = false;
        loop {
            let now = self.try_standing(vm).await?;
            match now.name == name && (carried_out || now.tag.as_deref() == tag) {
                true => return Ok(()),
                false if carried_out => {
                    let message = format!("it is named `{}` all the same", now.name);
                    let (call, fault) = ("ReconfigVM_Task", "NotCarriedOut".into());
                    return Err(Failure::Error(VsphereError::Refused { call, fault, message }));
                }
                false => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(failure) = self.session.run(&request, left).await else {
                carried_out = true;
                continue;
            };
            match task::in_the_way(&failure) {
                Some(task) => self.session.wait_out(&task, deadline).await?,
                None => task::forgotten(failure, deadline).await?,
            }
        }
    }

    /// Asks a VM's guest to shut down, and says whether it is off within that time. A guest that cannot
    /// be asked, as its tools do not run, is not waited for.
    pub async fn shut_down_guest(&self, vm: &VmId, within: Duration) -> Result<bool, VsphereError> {
        let deadline = Instant::now() + within;
        let ask = || async {
            if self.session.read(&vm.moref(), POWER).await.map(|now| vm::power(&now))?
                != PowerState::On
            {
                return Ok(true);
            }
            let request = Request::new("ShutdownGuest", &vm.moref(), |_| {});
            match self.session.call(&request).await {
                Ok(_) => Ok(true),
                Err(Failure::Fault(fault)) => {
                    tracing::debug!(?fault, "the guest cannot be asked to shut down");
                    Ok(false)
                }
                Err(failure) => Err(failure),
            }
        };
        let asked = self.session.insist(ask).await?;
        self.off_within(vm, if asked { deadline } else { Instant::now() }).await
    }

    /// Waits until a VM does not run, for so long at most; says whether it does not.
    pub async fn off_within(&self, vm: &VmId, deadline: Instant) -> Result<bool, VsphereError> {
        let mut watch = Watch::new(&self.session, vec![(vm.moref(), POWER)]);
        let off = loop {
            let power = self.power_state(vm).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if power != PowerState::On || left.is_zero() {
                break power != PowerState::On;
            }
            watch.changed(left).await;
        };
        watch.end().await;
        Ok(off)
    }

    /// Removes a VM from the inventory *and deletes its disks*. It must not run. One that is gone is fine.
    pub async fn destroy(&self, vm: &VmId) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_destroy(vm)).await
    }

    async fn try_destroy(&self, vm: &VmId) -> Result<(), Failure> {
        let request = Request::new("Destroy_Task", &vm.moref(), |_| {});
        let deadline = Instant::now() + self.session.limits.task;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.session.run(&request, left).await {
                // The VM, or the task that was forgotten: a VM that is there is destroyed next time.
                Err(failure) if failure.is_gone() => match self.view(vm).await {
                    Err(failure) if failure.is_gone() => return Ok(()),
                    Err(other) => return Err(other),
                    Ok(_) => task::forgotten(failure, deadline).await?,
                },
                Err(failure) => match task::in_the_way(&failure) {
                    Some(task) => self.session.wait_out(&task, deadline).await?,
                    None => return Err(failure),
                },
                Ok(_) => return Ok(()),
            }
        }
    }

    /// The folder and pool of a VM, for another beside it, if that is to be on the same host.
    pub(crate) async fn beside(
        &self,
        vm: &VmId,
        host: &HostId,
        place: Place,
    ) -> Result<Place, Failure> {
        let there =
            self.session.read(&vm.moref(), &["runtime.host", "parent", "resourcePool"]).await;
        let there = match there {
            Err(failure) if failure.is_gone() => return Ok(place),
            there => there?,
        };
        let same_host = there.moref("runtime.host") == Some(host.moref());
        // One in a vApp is in no folder.
        match there.moref("parent").filter(|parent| same_host && parent.kind == "Folder") {
            Some(vm_folder) => {
                let pool = there.moref("resourcePool").unwrap_or(place.pool);
                Ok(Place { vm_folder, pool, ..place })
            }
            None => Ok(place),
        }
    }
}

/// The hexadecimal digits of a UUID, however it is written.
fn digits(uuid: &str) -> String {
    let digits = uuid.chars().filter(char::is_ascii_hexdigit);
    digits.map(|digit| digit.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::digits;
    use crate::vm::{inventory_name, plain_name};

    #[test]
    fn a_uuid_is_the_same_however_it_is_written() {
        let vmx = "56 4d 00 11 22 33 44 55-66 77 88 99 aa bb cc DD";
        assert_eq!(digits(vmx), digits("564d0011-2233-4455-6677-8899aabbccdd"));
        assert_ne!(digits(vmx), digits("564d0011-2233-4455-6677-8899aabbccde"));
    }

    #[test]
    fn a_name_goes_to_the_inventory_and_comes_back() {
        for name in ["web", "a/b", "50 %", r"c:\d", "%2f", "é%25"] {
            assert_eq!(plain_name(&inventory_name(name)), name);
        }
        // ESXi writes digits either way, and leaves other escapes alone.
        assert_eq!(plain_name("a%2Fb%41"), "a/b%41");
    }
}
