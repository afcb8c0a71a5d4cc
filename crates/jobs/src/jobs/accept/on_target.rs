use rekindle_nfs::ClientNet;
use rekindle_repo::PointManifest;

use super::Jobs;
use crate::journal::HostMount;
use crate::target::Needs;
use crate::{Destination, JobError, JobView, RecoveryRequest, TargetRef};

/// What a target says before a job is accepted.
#[derive(Default)]
pub(super) struct OnTarget {
    pub(super) clients: Vec<ClientNet>,
    pub(super) mount: Option<HostMount>,
    pub(super) original: Option<String>,
    /// What the host has no room for now.
    pub(super) waits_for: Option<String>,
}

impl Jobs {
    pub(super) async fn check_target(
        &self,
        request: &RecoveryRequest,
        point: &PointManifest,
        (disks, bytes): (usize, u64),
    ) -> Result<OnTarget, JobError> {
        let (name, host) = match &request.target {
            TargetRef::Export { clients } => {
                return Ok(OnTarget { clients: clients.clone(), ..OnTarget::default() });
            }
            TargetRef::Nowhere {} => return Ok(OnTarget::default()),
            TargetRef::Vsphere { name, host } => (name, host),
        };
        let (link, backed_up) = (self.env.link(name)?, &point.vm.name);
        let original = match &request.in_place {
            Some(in_place) => {
                Some(link.look_for_original(in_place.original.as_ref(), backed_up).await?)
            }
            None => None,
        };
        let other = match &request.attach_to {
            Some(vm) => Some(link.look_for_original(Some(vm), backed_up).await?),
            None => None,
        };
        // Where the original is the recovered VM fits, its networks as well.
        let there = original.as_ref().or(other.as_ref()).and_then(|original| original.host.clone());
        let host = host.clone().or(there);
        let migrate = match &request.migrate {
            Some(Destination::Datastore(datastore)) => Some(datastore.as_str()),
            Some(Destination::Directory(_) | Destination::Images { .. }) | None => None,
        };
        let relocate = request.needs_relocation();
        let (datastores, networks) = (request.datastores(), request.to_networks(Some(&point.vmx)));
        let needs = Needs { migrate, bytes, relocate, datastores, networks };
        let facts = link.check(host.as_deref(), &needs).await?;
        let mount = HostMount { target: name.clone(), host, datastore: link.datastore(name) };
        if let Some(other) = other {
            link.look_for_room(&other.vm, &mount, disks).await?;
        }
        let export = format!("/{}", export_name(&mount));
        let waits_for = link.look_for_mount(&mount, &export).await?;
        let original = original.map(|original| original.vm.name);
        Ok(OnTarget { clients: facts.clients, mount: Some(mount), original, waits_for })
    }
}

/// The export that is a host's datastore: one for all its VMs.
pub(super) fn export_name(mount: &HostMount) -> String {
    format!("rekindle-{}", crate::naming::slug(&mount.target))
}

/// The name of a VM that steps aside, for the one that takes its place.
pub(super) fn original_name(original: &str, others: &[JobView]) -> Result<String, JobError> {
    crate::request::vm_name(original)?;
    if others.iter().any(|job| job.name == original) {
        let message = format!("a job that has not ended recovers a VM as {original} already");
        return Err(JobError::conflict("name_taken", message));
    }
    Ok(original.to_owned())
}
