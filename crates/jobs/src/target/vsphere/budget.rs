use std::collections::BTreeSet;

use super::{Link, failure, vm_id};
use crate::JobError;
use crate::journal::HostMount;

impl Link {
    /// NFS mounts of the host: how many, how many there may be, and whether ours is there.
    pub(crate) async fn mounts(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<(usize, Option<usize>, bool), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let found = session.nas_mounts(&host, &self.export(mount, path)).await;
        let found = found.map_err(|e| failure("look at the host's mounts", e))?;
        Ok((found.used, found.allowed, found.mounted))
    }

    pub(crate) async fn moves(
        &self,
        mount: &HostMount,
        but: &BTreeSet<String>,
    ) -> Result<usize, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        if !session.is_vcenter() {
            return Ok(0);
        }
        let but = but.iter().map(|vm| vm_id(vm)).collect::<Result<BTreeSet<_>, _>>()?;
        let found = session.relocations(&host, &but).await;
        found.map_err(|e| failure("look at the storage migrations under way", e))
    }

    pub(crate) async fn free_bytes(
        &self,
        mount: &HostMount,
        datastore: &str,
    ) -> Result<u64, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let found = session.find_datastore(&host, datastore).await;
        Ok(found.map_err(|e| failure("find the datastore", e))?.free_bytes)
    }
}
