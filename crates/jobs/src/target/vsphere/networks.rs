use std::collections::BTreeSet;

use rekindle_vsphere::{Host, NicChange, Vsphere};

use super::{Link, failure, vm_id};
use crate::JobError;
use crate::journal::HostMount;

/// The key of the device that `ethernet0` is.
const FIRST_ADAPTER: i32 = 4000;

impl Link {
    pub(crate) async fn put_on_port_groups(
        &self,
        mount: &HostMount,
        vm: &str,
        adapters: &[(u8, String)],
    ) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        // Port groups of a distributed switch are a vCenter's.
        if !session.is_vcenter() {
            return Ok(());
        }
        let mut changes = Vec::new();
        for (number, network) in adapters {
            let group = session.find_port_group(&host, network).await;
            if let Some(group) = group.map_err(|e| failure("find the port group", e))? {
                changes.push((FIRST_ADAPTER + i32::from(*number), NicChange::ConnectPort(group)));
            }
        }
        let changed = session.change_nics(&vm_id(vm)?, &changes).await;
        changed.map_err(|e| failure("put the VM on its networks", e))
    }
}

/// Refuses names that the host has no network of.
pub(super) async fn check(
    session: &Vsphere,
    host: &Host,
    wanted: &BTreeSet<&str>,
) -> Result<(), JobError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let known = session.networks(&host.id).await;
    let known = known.map_err(|e| failure("list the host's networks", e))?;
    match wanted.iter().find(|name| known.iter().all(|network| network.name != **name)) {
        None => Ok(()),
        Some(other) => {
            let names: Vec<&str> = known.iter().map(|network| network.name.as_str()).collect();
            let there = names.join(", ");
            let message = format!("host {} has no network {other}; it has {there}", host.name);
            Err(JobError::refused("not_on_target", message))
        }
    }
}
