//! The hosts that VMs run on, as a job needs them.

/// The same call of whatever host is linked. Before the modules: they use it too.
macro_rules! to_host {
    ($self:ident, $host:ident => $call:expr) => {
        match $self {
            Link::Vsphere($host) => $call,
            #[cfg(test)]
            Link::Fake($host) => $call,
        }
    };
}

mod aside;
mod attach;
mod budget;
#[cfg(test)]
pub(crate) mod fake;
mod low_pause;
mod vsphere;

use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) use aside::{FoundOriginal, OriginalVm};
pub(crate) use low_pause::{FilePart, FileReader};
use rekindle_nfs::ClientNet;
use rekindle_vsphere::{Endpoint, GuestView};

use crate::journal::HostMount;
use crate::{JobError, UuidPolicy};

/// How long a storage migration may take: 62 TiB at 100 MiB/s fit.
const RELOCATE_WITHIN: Duration = Duration::from_secs(8 * 86_400);
/// For how long a datastore that is in use is tried to be removed before the job counts as stuck.
const REMOVE_PATIENCE: Duration = Duration::from_secs(60);
/// The code of a migration that the host has no licence for.
pub(crate) const UNLICENSED: &str = "storage_vmotion_unlicensed";
/// The longest name that a datastore may have.
const DATASTORE_MAX: usize = 42;

/// A configured place where VMs run.
#[derive(Clone, Debug)]
// There are a handful, and the small variant exists in tests only.
#[cfg_attr(test, allow(clippy::large_enum_variant))]
#[cfg_attr(
    test,
    expect(clippy::large_enum_variant, reason = "the small variant is the tests' fake")
)]
pub enum Target {
    /// A vCenter or a standalone ESXi.
    Vsphere(VsphereTarget),
    /// A host in memory.
    #[cfg(test)]
    #[doc(hidden)]
    Fake(std::sync::Arc<fake::FakeHost>),
}

/// A vCenter or a standalone ESXi as a target.
#[derive(Clone, Debug)]
pub struct VsphereTarget {
    /// Where it is and how it is logged in to.
    pub endpoint: Endpoint,
    /// The host to use where a request names none; without it, the only one there is.
    pub host: Option<String>,
    /// The address at which its hosts reach this appliance. Byte-identical for all of them.
    pub server: String,
    /// The datastore's name; `rekindle-<target>` when absent.
    pub datastore: Option<String>,
    /// Addresses that may mount, besides the host's own VMkernel adapters.
    pub clients: Vec<ClientNet>,
}

/// What a host must have for a job.
#[derive(Default)]
pub(crate) struct Needs<'a> {
    /// The datastore to migrate to.
    pub(crate) migrate: Option<&'a str>,
    /// Bytes that it must hold at least.
    pub(crate) bytes: u64,
    /// That the host moves VMs by itself, if one is to migrate.
    pub(crate) relocate: bool,
    /// Other datastores.
    pub(crate) datastores: Vec<&'a str>,
    /// Networks that adapters are to be connected to.
    pub(crate) networks: BTreeSet<&'a str>,
}

/// What `start` must know of a host.
pub(crate) struct HostFacts {
    /// Who will mount the export.
    pub(crate) clients: Vec<ClientNet>,
    /// Whether it can move a VM's files while that runs, as a vCenter can.
    pub(crate) relocates: bool,
}

/// Where a VM was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    pub(crate) vmx_path: String,
    pub(crate) datastores: Vec<String>,
    pub(crate) runs: bool,
}

/// A target with its connection, if there is one.
#[cfg_attr(test, allow(clippy::large_enum_variant))]
#[cfg_attr(
    test,
    expect(clippy::large_enum_variant, reason = "the small variant is the tests' fake")
)]
pub(crate) enum Link {
    Vsphere(vsphere::Link),
    #[cfg(test)]
    Fake(std::sync::Arc<fake::FakeHost>),
}

impl Link {
    pub(crate) fn new(target: Target) -> Self {
        match target {
            Target::Vsphere(target) => Self::Vsphere(vsphere::Link::new(target)),
            #[cfg(test)]
            Target::Fake(host) => Self::Fake(host),
        }
    }

    /// The datastore that the export of the target `name` is to be.
    pub(crate) fn datastore(&self, name: &str) -> String {
        let configured = match self {
            Self::Vsphere(link) => link.target().datastore.clone(),
            #[cfg(test)]
            Self::Fake(_) => None,
        };
        let named = configured.unwrap_or_else(|| format!("rekindle-{}", crate::naming::slug(name)));
        named.chars().take(DATASTORE_MAX).collect()
    }

    /// The address at which the hosts reach this appliance.
    pub(crate) fn server(&self) -> String {
        match self {
            Self::Vsphere(link) => link.target().server.clone(),
            #[cfg(test)]
            Self::Fake(_) => "127.0.0.1".to_owned(),
        }
    }

    /// Whether the host is there and can do what is asked.
    pub(crate) async fn check(
        &self,
        host: Option<&str>,
        needs: &Needs<'_>,
    ) -> Result<HostFacts, JobError> {
        to_host!(self, link => link.check(host, needs).await)
    }

    /// Mounts the export, and says what the datastore is called.
    pub(crate) async fn mount(&self, mount: &HostMount, path: &str) -> Result<String, JobError> {
        to_host!(self, link => link.mount(mount, path).await)
    }

    /// Removes the datastore that mounts the export. It need not exist.
    pub(crate) async fn unmount(&self, mount: &HostMount, path: &str) -> Result<(), JobError> {
        to_host!(self, link => link.unmount(mount, path).await)
    }

    /// Registers the VM, in the folder and pool of the VM `beside` if there is one, and says its id.
    pub(crate) async fn register(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
        beside: Option<&str>,
    ) -> Result<String, JobError> {
        to_host!(self, link => link.register(mount, vmx_path, name, beside).await)
    }

    /// Puts adapters of the VM, by their numbers, on those of the networks that are port groups of a distributed switch.
    pub(crate) async fn put_on_port_groups(
        &self,
        mount: &HostMount,
        vm: &str,
        adapters: &[(u8, String)],
    ) -> Result<(), JobError> {
        to_host!(self, link => link.put_on_port_groups(mount, vm, adapters).await)
    }

    /// Unregisters the VM at this path of ours. One that has moved elsewhere is none.
    pub(crate) async fn unregister(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.unregister(mount, vmx_path).await)
    }

    /// Makes a directory on a datastore of the mount's host; it may be there.
    pub(crate) async fn make_dir(&self, mount: &HostMount, path: &str) -> Result<(), JobError> {
        to_host!(self, link => link.make_dir(mount, path).await)
    }

    /// Removes it with all that is in it; it need not exist.
    pub(crate) async fn remove_dir(&self, mount: &HostMount, path: &str) -> Result<(), JobError> {
        to_host!(self, link => link.remove_dir(mount, path).await)
    }

    /// Sees that the VM at this path of ours has a snapshot.
    pub(crate) async fn snapshot(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.snapshot(mount, vmx_path, name).await)
    }

    /// Writes the snapshots of the VM at this path of ours back to its disks.
    pub(crate) async fn consolidate(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.consolidate(mount, vmx_path).await)
    }

    /// Has the VM's snapshots written beside its disks; whether nothing else stays elsewhere.
    pub(crate) async fn write_beside(&self, vm: &str) -> Result<bool, JobError> {
        to_host!(self, link => link.write_beside(vm).await)
    }

    pub(crate) async fn power_on(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        uuid: UuidPolicy,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.power_on(mount, vmx_path, uuid).await)
    }

    /// Powers the VM at this path of ours off. One that has moved elsewhere is none.
    pub(crate) async fn power_off(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.power_off(mount, vmx_path).await)
    }

    /// Moves the VM's storage; `progress` is told percents.
    pub(crate) async fn relocate(
        &self,
        mount: &HostMount,
        vm: &str,
        datastore: &str,
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.relocate(mount, vm, datastore, progress).await)
    }

    /// Ends what the host does with the VM, and waits for that.
    pub(crate) async fn cancel_tasks(&self, vm: &str) -> Result<(), JobError> {
        to_host!(self, link => link.cancel_tasks(vm).await)
    }

    /// Where the VM is; `None` if it is not registered.
    pub(crate) async fn find(&self, vm: &str) -> Result<Option<Whereabouts>, JobError> {
        to_host!(self, link => link.find(vm).await)
    }

    /// What the tools in the VM's guest tell; `None` if it is not registered.
    pub(crate) async fn guest(&self, vm: &str) -> Result<Option<GuestView>, JobError> {
        to_host!(self, link => link.guest(vm).await)
    }
}
