//! What a host bears: NFS mounts, and storage migrations that are under way.

use std::collections::{BTreeSet, HashSet};

use crate::{
    HostId, NasExport, VmId, Vsphere, VsphereError, error::Failure, moref::MoRef, soap::Request,
};

/// The host's setting that bounds its NFS 3 mounts.
const MAX_VOLUMES: &str = "NFS.MaxVolumes";
/// What a storage migration is as a task.
const RELOCATE: &str = "VirtualMachine.relocate";

/// NFS 3 mounts of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NasMounts {
    /// How many there are.
    pub used: usize,
    /// How many there may be (`NFS.MaxVolumes`); `None` if the host does not tell.
    pub allowed: Option<usize>,
    /// Whether the export that was asked for is one of them.
    pub mounted: bool,
}

impl Vsphere {
    /// The mounts of a host.
    pub async fn nas_mounts(
        &self,
        host: &HostId,
        export: &NasExport,
    ) -> Result<NasMounts, VsphereError> {
        self.session.insist(|| self.try_nas_mounts(host, export)).await
    }

    async fn try_nas_mounts(
        &self,
        host: &HostId,
        export: &NasExport,
    ) -> Result<NasMounts, Failure> {
        let datastores = self.try_datastores(host).await?;
        // NFS 4.1 has a bound of its own.
        let used = datastores.iter().filter(|datastore| datastore.kind == "NFS").count();
        let mounted = datastores.iter().any(|datastore| export.is(datastore));
        Ok(NasMounts { used, allowed: self.max_volumes(host).await?, mounted })
    }

    async fn max_volumes(&self, host: &HostId) -> Result<Option<usize>, Failure> {
        let read = self.session.read(&host.moref(), &["configManager.advancedOption"]).await?;
        let Some(options) = read.moref("configManager.advancedOption") else { return Ok(None) };
        let request = Request::new("QueryOptions", &options, |w| w.text("name", MAX_VOLUMES));
        let answer = match self.session.call(&request).await {
            Err(failure) if failure.is(&["InvalidName"]) => return Ok(None),
            answer => answer?,
        };
        let mut said = answer.all("returnval");
        let said = said.find(|option| option.text_at(&["key"]) == Some(MAX_VOLUMES));
        Ok(said.and_then(|option| option.text_at(&["value"])?.parse().ok()))
    }

    /// Storage migrations that run or wait at the server, of VMs on this host, but for those of `but`.
    pub async fn relocations(
        &self,
        host: &HostId,
        but: &BTreeSet<VmId>,
    ) -> Result<usize, VsphereError> {
        self.session.insist(|| self.try_relocations(host, but)).await
    }

    async fn try_relocations(&self, host: &HostId, but: &BTreeSet<VmId>) -> Result<usize, Failure> {
        let at_work = self.session.at_work().await?;
        let moving = at_work.filter(|task| task.text("info.descriptionId") == Some(RELOCATE));
        let vms: HashSet<MoRef> = moving.filter_map(|task| task.moref("info.entity")).collect();
        let but: HashSet<MoRef> = but.iter().map(VmId::moref).collect();
        let mut count = 0;
        for vm in vms.difference(&but) {
            match self.session.read(vm, &["runtime.host"]).await {
                Ok(read) => count += usize::from(read.moref("runtime.host") == Some(host.moref())),
                Err(failure) if failure.is_gone() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(count)
    }
}
