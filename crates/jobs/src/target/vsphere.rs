use std::future::Future;
use std::time::Duration;

use rekindle_nfs::ClientNet;
use rekindle_vsphere::{
    GuestView, HostId, NasExport, PowerState, UuidPolicy as Answer, VmId, Vsphere, VsphereError,
};
use tokio::sync::Mutex;

mod aside;
mod attach;
mod budget;
mod low_pause;
mod networks;

pub(crate) use low_pause::{Download, next};

use super::{
    HostFacts, Needs, RELOCATE_WITHIN, REMOVE_PATIENCE, UNLICENSED, VsphereTarget, Whereabouts,
};
use crate::journal::HostMount;
use crate::{JobError, UuidPolicy};

/// How long the check of a request may wait: a person waits for the answer.
const CHECK_WITHIN: Duration = Duration::from_secs(20);

/// Faults that say that the licence does not cover what was asked, and would not tomorrow.
const LICENCE: &[&str] =
    &["RestrictedVersion", "VMotionNotLicensed", "StorageVMotionNotSupported", "LicenseRestricted"];

/// A target and its session, which is opened when it is needed first.
pub(crate) struct Link {
    target: VsphereTarget,
    /// Held while connecting, so that many jobs log in once.
    session: Mutex<Option<Vsphere>>,
}

impl Link {
    pub(crate) fn new(target: VsphereTarget) -> Self {
        Self { target, session: Mutex::new(None) }
    }

    pub(crate) fn target(&self) -> &VsphereTarget {
        &self.target
    }

    async fn session(&self) -> Result<Vsphere, JobError> {
        let mut session = self.session.lock().await;
        if let Some(session) = &*session {
            return Ok(session.clone());
        }
        let opened = Vsphere::connect(self.target.endpoint.clone()).await;
        let opened = opened.map_err(|e| failure("connect to the target", e))?;
        *session = Some(opened.clone());
        Ok(opened)
    }

    async fn host(&self, named: Option<&str>) -> Result<(Vsphere, HostId), JobError> {
        let session = self.session().await?;
        let name = named.or(self.target.host.as_deref());
        let host = session.find_host(name).await.map_err(|e| failure("find the host", e))?;
        Ok((session, host.id))
    }

    pub(crate) async fn check(
        &self,
        host: Option<&str>,
        needs: &Needs<'_>,
    ) -> Result<HostFacts, JobError> {
        let check = async {
            let session = self.session().await?;
            let name = host.or(self.target.host.as_deref());
            let found = session.find_host(name).await.map_err(|e| failure("find the host", e))?;
            if !found.usable {
                return Err(JobError::conflict(
                    "host_not_usable",
                    format!("host {} is not connected, or in maintenance", found.name),
                ));
            }
            if let Some(datastore) = needs.migrate {
                check_migration(&session, &found.id, datastore, needs).await?;
            }
            for name in &needs.datastores {
                let found = session.find_datastore(&found.id, name).await;
                found.map_err(|e| failure("find the datastore", e))?;
            }
            networks::check(&session, &found, &needs.networks).await?;
            let mut clients = self.target.clients.clone();
            clients.extend(found.addresses.into_iter().map(ClientNet::from));
            Ok(HostFacts { clients, relocates: session.is_vcenter() })
        };
        in_time(check).await
    }

    fn export(&self, mount: &HostMount, path: &str) -> NasExport {
        NasExport {
            remote_host: self.target.server.clone(),
            remote_path: path.to_owned(),
            name: mount.datastore.clone(),
        }
    }

    pub(crate) async fn mount(&self, mount: &HostMount, path: &str) -> Result<String, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let mounted = session.ensure_nas_datastore(&host, &self.export(mount, path)).await;
        Ok(mounted.map_err(|e| failure("mount the datastore", e))?.name)
    }

    pub(crate) async fn unmount(&self, mount: &HostMount, path: &str) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let export = self.export(mount, path);
        let removed = session.remove_nas_datastore(&host, &export, REMOVE_PATIENCE).await;
        removed.map_err(|e| failure("remove the datastore", e))
    }

    pub(crate) async fn register(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
        beside: Option<&str>,
    ) -> Result<String, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let vm = match beside {
            Some(other) => {
                session.ensure_registered_beside(&host, vmx_path, name, &vm_id(other)?).await
            }
            None => session.ensure_registered(&host, vmx_path, name).await,
        };
        Ok(vm.map_err(|e| failure("register the VM", e))?.id.as_str().to_owned())
    }

    /// The VM whose configuration is at this path of ours.
    async fn ours(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<Option<(Vsphere, VmId)>, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let found = session.find_vm_by_path(&host, vmx_path).await;
        let found = found.map_err(|e| failure("find the VM", e))?;
        Ok(found.map(|vm| (session, vm.id)))
    }

    pub(crate) async fn unregister(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        match self.ours(mount, vmx_path).await? {
            Some((session, vm)) => {
                session.unregister(&vm).await.map_err(|e| failure("unregister the VM", e))
            }
            None => Ok(()),
        }
    }

    /// The same, where there must be one.
    async fn registered(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(Vsphere, VmId), JobError> {
        let gone = || JobError::conflict("vm_gone", format!("{vmx_path} is not registered"));
        self.ours(mount, vmx_path).await?.ok_or_else(gone)
    }

    pub(crate) async fn make_dir(&self, mount: &HostMount, path: &str) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let made = session.ensure_directory(&host, path).await;
        made.map_err(|e| failure("make a directory on the datastore", e))
    }

    pub(crate) async fn remove_dir(&self, mount: &HostMount, path: &str) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let removed = session.remove_directory(&host, path).await;
        removed.map_err(|e| failure("remove a directory of the datastore", e))
    }

    pub(crate) async fn snapshot(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<(), JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let made = session.ensure_snapshot(&vm, name).await;
        made.map_err(|e| failure("make a snapshot of the VM", e))
    }

    pub(crate) async fn consolidate(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let done = session.consolidate(&vm).await;
        done.map_err(|e| failure("write the VM's snapshots back", e))
    }

    pub(crate) async fn write_beside(&self, vm: &str) -> Result<bool, JobError> {
        let session = self.session().await?;
        let done = session.write_snapshots_beside(&vm_id(vm)?).await;
        done.map_err(|e| failure("have the VM's snapshots beside it", e))
    }

    pub(crate) async fn power_on(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        uuid: UuidPolicy,
    ) -> Result<(), JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let answer = match uuid {
            UuidPolicy::Keep => Answer::Moved,
            UuidPolicy::New => Answer::Copied,
        };
        session.power_on(&vm, answer).await.map_err(|e| failure("power the VM on", e))
    }

    pub(crate) async fn power_off(
        &self,
        mount: &HostMount,
        vmx_path: &str,
    ) -> Result<(), JobError> {
        match self.ours(mount, vmx_path).await? {
            Some((session, vm)) => {
                session.power_off(&vm).await.map_err(|e| failure("power the VM off", e))
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn relocate(
        &self,
        mount: &HostMount,
        vm: &str,
        datastore: &str,
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let to = session.find_datastore(&host, datastore).await;
        let to = to.map_err(|e| failure("find the datastore", e))?;
        let moved = session.relocate(&vm_id(vm)?, &to.id, RELOCATE_WITHIN, progress).await;
        moved.map_err(|e| failure("migrate the VM's storage", e))
    }

    pub(crate) async fn cancel_tasks(&self, vm: &str) -> Result<(), JobError> {
        let session = self.session().await?;
        session.cancel_tasks(&vm_id(vm)?).await.map_err(|e| failure("cancel the VM's tasks", e))
    }

    pub(crate) async fn find(&self, vm: &str) -> Result<Option<Whereabouts>, JobError> {
        let (session, id) = (self.session().await?, vm_id(vm)?);
        let view = match session.vm(&id).await {
            Err(VsphereError::NotFound { .. }) => return Ok(None),
            view => view.map_err(|e| failure("look at the VM", e))?,
        };
        let datastores = session.vm_datastores(&id).await;
        let datastores = datastores.map_err(|e| failure("look at the VM's datastores", e))?;
        Ok(Some(Whereabouts {
            vmx_path: view.vmx_path,
            datastores: datastores.into_iter().map(|datastore| datastore.name).collect(),
            runs: view.power == PowerState::On,
        }))
    }

    pub(crate) async fn guest(&self, vm: &str) -> Result<Option<GuestView>, JobError> {
        let (session, id) = (self.session().await?, vm_id(vm)?);
        match session.guest(&id).await {
            Err(VsphereError::NotFound { .. }) => Ok(None),
            told => told.map(Some).map_err(|e| failure("ask the guest's tools", e)),
        }
    }
}

async fn check_migration(
    session: &Vsphere,
    host: &HostId,
    datastore: &str,
    needs: &Needs<'_>,
) -> Result<(), JobError> {
    if needs.relocate && !session.is_vcenter() {
        return Err(JobError::refused(
            "needs_vcenter",
            "a standalone ESXi cannot migrate storage in this way: use a vCenter as target, or a \
             live recovery without in_place, redo_datastore and the method relocate",
        ));
    }
    let found = session.find_datastore(host, datastore).await;
    let found = found.map_err(|e| failure("find the datastore", e))?;
    if !found.accessible {
        let message = format!("the host does not reach the datastore {datastore}");
        return Err(JobError::conflict("datastore_not_accessible", message));
    }
    match needs.bytes.saturating_sub(found.capacity_bytes) {
        0 => Ok(()),
        missing => Err(JobError::Full { place: format!("the datastore {datastore}"), missing }),
    }
}

pub(super) async fn in_time<T>(
    work: impl Future<Output = Result<T, JobError>>,
) -> Result<T, JobError> {
    tokio::time::timeout(CHECK_WITHIN, work).await.unwrap_or_else(|_| {
        let waited = anyhow::anyhow!("no answer within {} s", CHECK_WITHIN.as_secs());
        Err(JobError::unavailable("target_unreachable", "reach the target", waited))
    })
}

/// An id from the journal. Ids have no public constructor, but they are transparent to serde.
fn vm_id(id: &str) -> Result<VmId, JobError> {
    serde_json::from_value(serde_json::Value::String(id.to_owned())).map_err(|e| {
        JobError::Corrupt { what: "read the VM's id in the journal".into(), source: e.into() }
    })
}

/// What a job makes of a vSphere error. No `_` arm.
fn failure(what: &str, error: VsphereError) -> JobError {
    match error {
        VsphereError::Unreachable { .. } | VsphereError::TimedOut { .. } => {
            JobError::unavailable("target_unreachable", what, error)
        }
        VsphereError::Garbled { .. } => JobError::unavailable("target_garbled", what, error),
        VsphereError::Untrusted { .. } => refused("target_untrusted", what, &error),
        VsphereError::Denied { .. } => refused("target_denied", what, &error),
        VsphereError::BadEndpoint { .. } => refused("target_misconfigured", what, &error),
        VsphereError::NotFound { .. } => refused("not_on_target", what, &error),
        VsphereError::Refused { ref fault, .. } if LICENCE.contains(&fault.as_str()) => {
            refused(UNLICENSED, what, &error)
        }
        VsphereError::Refused { .. } => refused("target_refused", what, &error),
    }
}

fn refused(code: &'static str, what: &str, error: &VsphereError) -> JobError {
    JobError::refused(code, format!("{what}: {error}"))
}
