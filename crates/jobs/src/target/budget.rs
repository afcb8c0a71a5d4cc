//! What a host bears.

use std::collections::BTreeSet;

use super::Link;
use crate::JobError;
use crate::journal::HostMount;

impl Link {
    /// What keeps the host from mounting the export; `None` if it has it, or may mount one more.
    pub(crate) async fn mount_obstacle(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<Option<String>, JobError> {
        let (used, allowed, mounted) = to_host!(self, link => link.mounts(mount, path).await)?;
        let full = allowed.filter(|allowed| used >= *allowed && !mounted);
        Ok(full.map(|allowed| {
            let host = mount.host.as_deref().unwrap_or(&mount.target);
            format!(
                "an NFS mount on the host {host}: {used} are used, {allowed} are allowed (NFS.MaxVolumes)"
            )
        }))
    }

    /// The same, where a person waits for the answer.
    pub(crate) async fn look_for_mount(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<Option<String>, JobError> {
        super::vsphere::in_time(self.mount_obstacle(mount, path)).await
    }

    /// Storage migrations on the host but for those of these VMs.
    pub(crate) async fn moves(
        &self,
        mount: &HostMount,
        but: &BTreeSet<String>,
    ) -> Result<usize, JobError> {
        to_host!(self, link => link.moves(mount, but).await)
    }

    /// Bytes that are free on a datastore of the host.
    pub(crate) async fn free_bytes(
        &self,
        mount: &HostMount,
        datastore: &str,
    ) -> Result<u64, JobError> {
        to_host!(self, link => link.free_bytes(mount, datastore).await)
    }
}
