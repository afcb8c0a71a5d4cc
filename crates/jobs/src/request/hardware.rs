//! What becomes of the VM's devices that reach out of it: network adapters and the swap file.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_image::Vmx;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Networks, RecoveryRequest, TargetRef, text};
use crate::JobError;

/// The most adapters that a request may name: a VM has ten.
const ADAPTERS_MAX: usize = 16;

/// What becomes of one network adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterRule {
    /// Its network; as the request says for all adapters when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<AdapterNetwork>,
    /// Its MAC address; as the request says for all adapters when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacPolicy>,
}

/// The network of one adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterNetwork {
    /// As the VM was backed up.
    Keep,
    /// Present, but not connected at power-on.
    Disconnect,
    /// Taken out of the VM.
    Remove,
    /// Connected to this network of the target.
    Connect(String),
}

/// Whether an adapter keeps its MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MacPolicy {
    /// The same. Two VMs on one network must not both have it.
    Keep,
    /// Another: the host makes it.
    New,
}

/// Where the host puts the VM's swap file, which is as large as the memory that is not reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwapPolicy {
    /// Beside the VM, in the export.
    #[default]
    Beside,
    /// Nowhere: all of the VM's memory is reserved.
    Reserved,
    /// On this datastore of the target.
    Datastore(String),
}

impl RecoveryRequest {
    /// Networks of the target that adapters are to be connected to: of the VM with this configuration, if one is given. A
    /// map may tell of more networks than a VM is on.
    pub(crate) fn to_networks(&self, vmx: Option<&str>) -> BTreeSet<&str> {
        let vmx = vmx.and_then(|vmx| Vmx::parse(vmx.as_bytes()).ok());
        let is_on = |network: &str| match &vmx {
            Some(vmx) => vmx.entries().any(|(key, value)| {
                value == network && key.to_ascii_lowercase().ends_with(".networkname")
            }),
            None => true,
        };
        let mapped: Vec<&str> = match &self.networks {
            Some(Networks::Map(map)) => {
                map.iter().filter(|(from, _)| is_on(from)).map(|(_, to)| to.as_str()).collect()
            }
            Some(Networks::Keep | Networks::Disconnect | Networks::Remove) | None => Vec::new(),
        };
        let named = self.adapters.values().filter_map(|rule| match &rule.network {
            Some(AdapterNetwork::Connect(to)) => Some(to.as_str()),
            Some(AdapterNetwork::Keep | AdapterNetwork::Disconnect | AdapterNetwork::Remove)
            | None => None,
        });
        mapped.into_iter().chain(named).collect()
    }
}

/// Refuses rules that no VM could fulfil.
pub(super) fn validate(
    adapters: &BTreeMap<String, AdapterRule>,
    swap: Option<&SwapPolicy>,
    target: &TargetRef,
) -> Result<(), JobError> {
    if adapters.len() > ADAPTERS_MAX {
        let message = format!("at most {ADAPTERS_MAX} adapters can be named");
        return Err(JobError::refused("bad_networks", message));
    }
    for (adapter, rule) in adapters {
        let number = adapter.strip_prefix("ethernet").unwrap_or_default();
        if number.is_empty() || number.len() > 2 || !number.bytes().all(|b| b.is_ascii_digit()) {
            let message = "an adapter is named as in the VM's configuration: ethernet0";
            return Err(JobError::refused("bad_networks", message));
        }
        if let Some(AdapterNetwork::Connect(network)) = &rule.network {
            plain("adapters.network.connect", network)?;
        }
    }
    match swap {
        Some(SwapPolicy::Datastore(name)) => on_vsphere("swap", name, target),
        Some(SwapPolicy::Beside | SwapPolicy::Reserved) | None => Ok(()),
    }
}

/// A datastore can be named only where there are some.
pub(super) fn on_vsphere(field: &str, name: &str, target: &TargetRef) -> Result<(), JobError> {
    match target {
        TargetRef::Vsphere { .. } => datastore(field, name),
        TargetRef::Export { .. } | TargetRef::Nowhere {} => Err(JobError::refused(
            "needs_vsphere",
            format!("{field} names a datastore, which only vSphere has: use a vsphere target"),
        )),
    }
}

/// A datastore's name, which becomes part of a path.
fn datastore(field: &str, name: &str) -> Result<(), JobError> {
    plain(field, name)?;
    if name.contains(['/', '[', ']']) || name == "." || name == ".." {
        return Err(JobError::refused("bad_datastore", format!("{field}: no datastore's name")));
    }
    Ok(())
}

/// A text that can stand between quotes.
pub(super) fn plain(field: &str, value: &str) -> Result<(), JobError> {
    text(field, value)?;
    if value.contains('"') {
        return Err(JobError::refused("bad_networks", format!("{field} has no quotes")));
    }
    Ok(())
}
