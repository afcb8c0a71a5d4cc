//! Port groups of a distributed switch: a configuration file cannot name their ports, only the host can give one.

use rekindle_image::Vmx;

use super::super::{Work, files};
use crate::JobError;

/// How many adapters a VM can have.
const ADAPTERS: u8 = 10;

impl Work<'_> {
    /// Once the VM is registered: those adapters that the request puts on networks by name.
    pub(in super::super) async fn put_on_port_groups(&self, vm: &str) -> Result<(), JobError> {
        let adapters = self.connected().await?;
        if adapters.is_empty() {
            return Ok(());
        }
        let (link, mount, _) = self.link()?;
        link.put_on_port_groups(mount, vm, &adapters).await
    }

    /// Adapters by their numbers, each with its network. One that has a port by now names none.
    async fn connected(&self) -> Result<Vec<(u8, String)>, JobError> {
        let wanted = self.record.request.to_networks(None);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let path = files::vmx_path(self.record);
        let Some(vmx) = files::read_exported(self.env, self.record, &path).await? else {
            return Ok(Vec::new());
        };
        let vmx = Vmx::parse(&vmx).map_err(|e| {
            JobError::conflict("bad_vmx", format!("the VM's configuration cannot be read: {e}"))
        })?;
        let on = |number: u8| {
            let get = |key: &str| vmx.get(&format!("ethernet{number}.{key}"));
            let network = get("networkName").filter(|network| wanted.contains(network))?;
            let off = |key| get(key).is_some_and(|value| value.eq_ignore_ascii_case("FALSE"));
            (!off("present") && !off("startConnected")).then(|| (number, network.to_owned()))
        };
        Ok((0..ADAPTERS).filter_map(on).collect())
    }
}
