//! Hosts, datastores and networks, and where on a server things belong.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    DatastoreId, HostId, Vsphere, VsphereError,
    datastore::{Datastore, NasExport},
    error::Failure,
    moref::MoRef,
    property::{Object, Query, Step},
    vm::plain_name,
};

/// A host that VMs run on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Its reference.
    pub id: HostId,
    /// Its name in the inventory: a DNS name or an address.
    pub name: String,
    /// Connected, and not in maintenance: VMs can be started on it.
    pub usable: bool,
    /// The addresses of its VMkernel adapters: NFS calls come from one of them.
    pub addresses: Vec<IpAddr>,
}

/// A port group of a distributed switch, as adapters name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGroup {
    /// `dvportgroup-42`.
    pub key: String,
    /// The switch's UUID.
    pub switch: String,
}

/// A network that a VM's adapter can be put on.
#[derive(Clone, Debug, Serialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Whether it is a port group of a distributed switch.
    pub distributed: bool,
}

/// From the root down to all hosts, through folders, datacenters and clusters.
const TO_HOSTS: &[Step] = &[
    Step {
        name: "folder",
        kind: "Folder",
        path: "childEntity",
        then: &["folder", "datacenter", "compute"],
    },
    Step {
        name: "datacenter",
        kind: "Datacenter",
        path: "hostFolder",
        then: &["folder", "compute"],
    },
    Step { name: "compute", kind: "ComputeResource", path: "host", then: &[] },
];

/// From anything up to the root.
const UP: &[Step] = &[Step { name: "up", kind: "ManagedEntity", path: "parent", then: &["up"] }];

const HOST: &[&str] =
    &["name", "runtime.connectionState", "runtime.inMaintenanceMode", "config.network.vnic"];

/// Where a host's VMs and datastores belong.
pub(crate) struct Place {
    pub(crate) datacenter: MoRef,
    pub(crate) vm_folder: MoRef,
    pub(crate) pool: MoRef,
    pub(crate) datastore_system: MoRef,
}

impl Vsphere {
    /// All hosts, by name.
    pub async fn hosts(&self) -> Result<Vec<Host>, VsphereError> {
        self.session.insist(|| self.try_hosts()).await
    }

    async fn try_hosts(&self) -> Result<Vec<Host>, Failure> {
        let query = Query {
            start: std::slice::from_ref(&self.session.roots.root_folder),
            steps: TO_HOSTS,
            properties: &[("HostSystem", HOST)],
        };
        let found = self.session.retrieve(&query).await?;
        let mut hosts: Vec<Host> =
            found.into_iter().filter(|o| o.id.kind == "HostSystem").map(host).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// The host of this name or address. Without one, the only host that there is.
    pub async fn find_host(&self, name: Option<&str>) -> Result<Host, VsphereError> {
        let hosts = self.hosts().await?;
        let Some(name) = name else { return only(hosts) };
        let address = name.parse::<IpAddr>().ok();
        let is_it = |host: &Host| {
            host.name.eq_ignore_ascii_case(name)
                || address.is_some_and(|a| host.addresses.contains(&a))
        };
        let found = hosts.into_iter().find(is_it);
        found.ok_or_else(|| VsphereError::NotFound { what: format!("host `{name}`") })
    }

    /// The datastores of a host, by name.
    pub async fn datastores(&self, host: &HostId) -> Result<Vec<Datastore>, VsphereError> {
        self.session.insist(|| self.try_datastores(host)).await
    }

    pub(crate) async fn try_datastores(&self, host: &HostId) -> Result<Vec<Datastore>, Failure> {
        self.datastores_of(host.moref(), "HostSystem").await
    }

    /// The datastores in the `datastore` property of a host, datacenter or VM.
    pub(crate) async fn datastores_of(
        &self,
        owner: MoRef,
        kind: &'static str,
    ) -> Result<Vec<Datastore>, Failure> {
        let query = Query {
            start: &[owner],
            steps: &[Step { name: "datastore", kind, path: "datastore", then: &[] }],
            properties: &[("Datastore", DATASTORE), (kind, &["name"])],
        };
        let found = self.session.retrieve(&query).await?;
        let mut list: Vec<Datastore> =
            found.into_iter().filter(|o| o.id.kind == "Datastore").map(datastore).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// The host's datastore of this name.
    pub async fn find_datastore(
        &self,
        host: &HostId,
        name: &str,
    ) -> Result<Datastore, VsphereError> {
        let found = self.datastores(host).await?.into_iter().find(|d| d.name == name);
        found.ok_or_else(|| VsphereError::NotFound { what: format!("datastore `{name}`") })
    }

    /// The networks of a host, by name.
    pub async fn networks(&self, host: &HostId) -> Result<Vec<Network>, VsphereError> {
        self.session.insist(|| self.try_networks(host)).await
    }

    pub(crate) async fn try_networks(&self, host: &HostId) -> Result<Vec<Network>, Failure> {
        let query = Query {
            start: &[host.moref()],
            steps: &[Step { name: "network", kind: "HostSystem", path: "network", then: &[] }],
            properties: &[("Network", &["name"])],
        };
        let found = self.session.retrieve(&query).await?;
        let mut list: Vec<Network> = found
            .into_iter()
            .filter(|o| o.id.kind != "HostSystem")
            .map(|o| Network {
                name: plain_name(&o.owned("name")),
                distributed: o.id.kind == "DistributedVirtualPortgroup",
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// The port group of a distributed switch that has this name at the host, if one has.
    pub async fn find_port_group(
        &self,
        host: &HostId,
        name: &str,
    ) -> Result<Option<PortGroup>, VsphereError> {
        self.session.insist(|| self.try_port_group(host, name)).await
    }

    async fn try_port_group(
        &self,
        host: &HostId,
        name: &str,
    ) -> Result<Option<PortGroup>, Failure> {
        const SWITCH: &str = "config.distributedVirtualSwitch";
        let query = Query {
            start: &[host.moref()],
            steps: &[Step { name: "network", kind: "HostSystem", path: "network", then: &[] }],
            properties: &[("DistributedVirtualPortgroup", &["name", "key", SWITCH])],
        };
        let found = self.session.retrieve(&query).await?;
        let is_it = |o: &&Object| o.id.kind != "HostSystem" && plain_name(&o.owned("name")) == name;
        let Some(group) = found.iter().find(is_it) else { return Ok(None) };
        let garbled = |what: &str| {
            let message = format!("port group {name} has no {what}");
            Failure::garbled("RetrievePropertiesEx", message)
        };
        let switch = group.moref(SWITCH).ok_or_else(|| garbled("switch"))?;
        let switch = self.session.read(&switch, &["uuid"]).await?.owned("uuid");
        let key = group.owned("key");
        if key.is_empty() || switch.is_empty() {
            return Err(garbled("key"));
        }
        Ok(Some(PortGroup { key, switch }))
    }

    pub(crate) async fn place(&self, host: &HostId) -> Result<Place, Failure> {
        let query = Query {
            start: &[host.moref()],
            steps: UP,
            properties: &[
                ("HostSystem", &["configManager.datastoreSystem"]),
                ("ComputeResource", &["resourcePool"]),
                ("Datacenter", &["vmFolder"]),
            ],
        };
        let found = self.session.retrieve(&query).await?;
        let get = |path: &str| found.iter().find_map(|o| o.moref(path));
        let missing = |what: &str| Failure::not_found(format!("the {what} of host {host}"));
        let datacenter = found.iter().find(|o| o.id.kind == "Datacenter");
        Ok(Place {
            datacenter: datacenter.ok_or_else(|| missing("datacenter"))?.id.clone(),
            vm_folder: get("vmFolder").ok_or_else(|| missing("VM folder"))?,
            pool: get("resourcePool").ok_or_else(|| missing("resource pool"))?,
            datastore_system: get("configManager.datastoreSystem")
                .ok_or_else(|| missing("datastore system"))?,
        })
    }
}

fn only(mut hosts: Vec<Host>) -> Result<Host, VsphereError> {
    match (hosts.pop(), hosts.len()) {
        (Some(host), 0) => Ok(host),
        (None, _) => Err(VsphereError::NotFound { what: "any host".into() }),
        (Some(_), more) => Err(VsphereError::NotFound {
            what: format!("a host without a name, as there are {} hosts: it", more + 1),
        }),
    }
}

fn host(object: Object) -> Host {
    let connected = object.text("runtime.connectionState") == Some("connected");
    let adapters = object.list("config.network.vnic").iter();
    let addresses =
        adapters.filter_map(|vnic| vnic.text_at(&["spec", "ip", "ipAddress"])?.parse().ok());
    Host {
        name: object.owned("name"),
        usable: connected && !object.flag("runtime.inMaintenanceMode"),
        addresses: addresses.collect(),
        id: HostId::from(object.id),
    }
}

const DATASTORE: &[&str] = &[
    "name",
    "summary.type",
    "summary.capacity",
    "summary.freeSpace",
    "summary.accessible",
    "info",
];

fn datastore(object: Object) -> Datastore {
    let nas = object.get("info").and_then(|info| info.child("nas"));
    let name = object.owned("name");
    let nas = nas.and_then(|nas| {
        Some(NasExport {
            remote_host: nas.text_at(&["remoteHost"])?.to_owned(),
            remote_path: nas.text_at(&["remotePath"])?.to_owned(),
            name: name.clone(),
        })
    });
    Datastore {
        kind: object.owned("summary.type"),
        capacity_bytes: object.number("summary.capacity").unwrap_or(0),
        free_bytes: object.number("summary.freeSpace").unwrap_or(0),
        accessible: object.flag("summary.accessible"),
        nas,
        name,
        id: DatastoreId::from(object.id),
    }
}
