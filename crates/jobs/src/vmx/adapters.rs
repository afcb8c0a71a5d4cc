//! Network adapters: on which network, connected or not, with which address.

use std::collections::BTreeSet;

use super::{Edit, Rewrite, keys, numbered};
use crate::{AdapterNetwork, JobError, MacPolicy, Networks, UuidPolicy};

impl Edit<'_> {
    pub(super) fn adapters(&mut self, plan: &Rewrite<'_>) -> Result<(), JobError> {
        let all = keys(self.vmx);
        let present: BTreeSet<&str> =
            all.iter().filter_map(|key| numbered(key, "ethernet")).collect();
        if let Some(other) = plan.adapters.keys().find(|name| !present.contains(name.as_str())) {
            let message = format!("the VM has no network adapter {other}");
            return Err(JobError::refused("unknown_adapter", message));
        }
        for nic in present {
            let switch = format!("{nic}.dvs.");
            // A port of a distributed switch is the old VM's: only the host can give a new one.
            let distributed = self.vmx.remove_prefix(&switch);
            let rule = plan.adapters.get(nic).cloned().unwrap_or_default();
            self.address(nic, rule.mac.unwrap_or(plan.mac), plan.uuid);
            match rule.network {
                Some(network) => self.put_on(nic, network, distributed),
                None => self.network(nic, plan, distributed),
            }
        }
        Ok(())
    }

    /// A host makes new addresses for a copied VM, so one that is to stay is pinned; and it checks
    /// that pinned ones are of the range for them, which an address that was generated is not.
    fn address(&mut self, nic: &str, mac: MacPolicy, uuid: UuidPolicy) {
        let generated = self.vmx.get(&format!("{nic}.generatedAddress")).map(str::to_owned);
        match (mac, uuid, generated) {
            (MacPolicy::Keep, UuidPolicy::New, Some(address)) => {
                self.forget_address(nic);
                self.set(nic, "addressType", "static");
                self.set(nic, "address", &address);
                self.set(nic, "checkMACAddress", "FALSE");
            }
            (MacPolicy::Keep, _, _) => {}
            (MacPolicy::New, _, _) => {
                self.forget_address(nic);
                self.vmx.remove(&format!("{nic}.address"));
                self.set(nic, "addressType", "generated");
            }
        }
    }

    fn forget_address(&mut self, nic: &str) {
        self.vmx.remove(&format!("{nic}.generatedAddress"));
        self.vmx.remove(&format!("{nic}.generatedAddressOffset"));
    }

    fn network(&mut self, nic: &str, plan: &Rewrite<'_>, distributed: bool) {
        let network = match &plan.networks {
            Networks::Keep => AdapterNetwork::Keep,
            Networks::Disconnect => AdapterNetwork::Disconnect,
            Networks::Remove => AdapterNetwork::Remove,
            Networks::Map(map) => {
                let name = self.vmx.get(&format!("{nic}.networkName"));
                match name.and_then(|name| map.get(name)) {
                    Some(to) => return self.set(nic, "networkName", to),
                    None => AdapterNetwork::Disconnect,
                }
            }
        };
        self.put_on(nic, network, distributed);
    }

    fn put_on(&mut self, nic: &str, network: AdapterNetwork, distributed: bool) {
        match network {
            AdapterNetwork::Keep => {
                if distributed && self.vmx.get(&format!("{nic}.networkName")).is_none() {
                    self.set(nic, "startConnected", "FALSE");
                    self.notes.push(format!("{nic} was on a distributed switch: not connected"));
                }
            }
            AdapterNetwork::Disconnect => self.set(nic, "startConnected", "FALSE"),
            AdapterNetwork::Remove => self.set(nic, "present", "FALSE"),
            AdapterNetwork::Connect(to) => {
                self.set(nic, "networkName", &to);
                // Absent means TRUE, and some clients drop the key themselves.
                self.vmx.remove(&format!("{nic}.startConnected"));
            }
        }
    }
}
