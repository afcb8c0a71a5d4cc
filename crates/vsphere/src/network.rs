//! A VM's network adapters: put on a network, disconnected, or removed.

use serde::{Deserialize, Serialize};

use crate::{
    PortGroup, VmId, Vsphere, VsphereError,
    error::Failure,
    property::Object,
    soap::Request,
    xml::{Element, Writer},
};

/// A network adapter of a VM.
#[derive(Clone, Debug, Serialize)]
pub struct Nic {
    /// The device's key: 4000 for the first.
    pub key: i32,
    /// `Network adapter 1`.
    pub label: String,
    /// Its MAC address; empty while it has none.
    pub mac: String,
    /// The network's name, if it is on one that the host knows.
    pub network: Option<String>,
    /// The port group's key, if it is on one of a distributed switch.
    pub port_group: Option<String>,
    /// Whether it is connected at power-on.
    pub start_connected: bool,
    device_type: String,
}

/// What is to become of an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicChange {
    /// On this standard network, connected.
    Connect(String),
    /// On this port group of a distributed switch, connected.
    ConnectPort(PortGroup),
    /// Left where it is, not connected.
    Disconnect,
    /// Taken out of the VM.
    Remove,
}

/// The keys of a VM's ten adapters.
const KEYS: std::ops::Range<i32> = 4000..4010;
const DEVICES: &[&str] = &["config.hardware.device"];

impl Vsphere {
    /// The network adapters of a VM.
    pub async fn nics(&self, vm: &VmId) -> Result<Vec<Nic>, VsphereError> {
        let read = || async { self.session.read(&vm.moref(), DEVICES).await };
        Ok(nics(&self.session.insist(read).await?))
    }

    /// Changes adapters, each named by its key. What is as wanted already is left alone, and a key
    /// that is not there is an error unless it is to be removed.
    pub async fn change_nics(
        &self,
        vm: &VmId,
        changes: &[(i32, NicChange)],
    ) -> Result<(), VsphereError> {
        self.session.insist(|| self.try_change_nics(vm, changes)).await
    }

    async fn try_change_nics(
        &self,
        vm: &VmId,
        changes: &[(i32, NicChange)],
    ) -> Result<(), Failure> {
        let present = nics(&self.session.read(&vm.moref(), DEVICES).await?);
        let mut due = Vec::new();
        for (key, change) in changes {
            match present.iter().find(|nic| nic.key == *key) {
                Some(nic) if !nic.is_as(change) => due.push((nic, change)),
                None if *change != NicChange::Remove => {
                    return Err(Failure::not_found(format!("network adapter {key}")));
                }
                _ => {}
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let request = Request::new("ReconfigVM_Task", &vm.moref(), |w| {
            w.element("spec", |w| {
                for (nic, change) in &due {
                    w.element("deviceChange", |w| nic.write(change, w));
                }
            });
        });
        self.session.run(&request, self.session.limits.task).await.map(drop)
    }
}

impl Nic {
    fn is_as(&self, change: &NicChange) -> bool {
        match change {
            NicChange::Connect(network) => {
                self.start_connected && self.network.as_ref() == Some(network)
            }
            NicChange::ConnectPort(group) => {
                self.start_connected && self.port_group.as_ref() == Some(&group.key)
            }
            NicChange::Disconnect => !self.start_connected,
            NicChange::Remove => false,
        }
    }

    fn write(&self, change: &NicChange, w: &mut Writer) {
        w.text("operation", if *change == NicChange::Remove { "remove" } else { "edit" });
        w.typed("device", &self.device_type, |w| {
            w.text("key", &self.key.to_string());
            if let NicChange::Connect(network) = change {
                w.typed("backing", "VirtualEthernetCardNetworkBackingInfo", |w| {
                    w.text("deviceName", network);
                });
            }
            if let NicChange::ConnectPort(group) = change {
                w.typed("backing", "VirtualEthernetCardDistributedVirtualPortBackingInfo", |w| {
                    w.element("port", |w| {
                        w.text("switchUuid", &group.switch);
                        w.text("portgroupKey", &group.key);
                    });
                });
            }
            if *change != NicChange::Remove {
                let connected = *change != NicChange::Disconnect;
                w.element("connectable", |w| {
                    w.flag("startConnected", connected);
                    w.flag("allowGuestControl", true);
                    w.flag("connected", connected);
                });
            }
        });
    }
}

fn nics(vm: &Object) -> Vec<Nic> {
    vm.list("config.hardware.device").iter().filter_map(nic).collect()
}

/// An adapter is a device with one of their keys, or with a MAC address: before its first start it may have none yet.
fn nic(device: &Element) -> Option<Nic> {
    let key = device.text_at(&["key"])?.parse().ok()?;
    let mac = device.text_at(&["macAddress"]);
    if mac.is_none() && !KEYS.contains(&key) {
        return None;
    }
    let backing = device.child("backing");
    let network = backing.and_then(|b| b.text_at(&["deviceName"])).map(str::to_owned);
    Some(Nic {
        mac: mac.unwrap_or_default().to_owned(),
        key,
        label: device.text_at(&["deviceInfo", "label"]).unwrap_or_default().to_owned(),
        network,
        port_group: backing.and_then(|b| b.text_at(&["port", "portgroupKey"])).map(str::to_owned),
        start_connected: device.text_at(&["connectable", "startConnected"]) == Some("true"),
        device_type: device.xsi_type.clone()?,
    })
}
