//! A VM's disks and files, read from its host: an NFC lease with a download for each disk, and files of its datastores.

use std::time::Duration;

use reqwest::{Response, Url};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Thumbprint, Trust, VmId, Vsphere, VsphereError,
    error::Failure,
    moref::{MoRef, SnapshotId},
    property::{Object, Query, Step},
    soap::Request,
    vm::Vm,
    xml::Element,
};

/// How long a lease may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// How long a download may say nothing. A host that reads zeros for long sends nothing meanwhile.
const SILENCE: Duration = Duration::from_secs(600);

/// From the root down to all VMs, through folders and datacenters.
pub(crate) const TO_VMS: &[Step] = &[
    Step { name: "folder", kind: "Folder", path: "childEntity", then: &["folder", "datacenter"] },
    Step { name: "datacenter", kind: "Datacenter", path: "vmFolder", then: &["folder"] },
];

/// What is exported.
#[derive(Clone, Debug)]
pub enum ExportOf {
    /// A VM that is off.
    Vm(VmId),
    /// A VM as it was when the snapshot was taken.
    Snapshot(SnapshotId),
}

/// The right to read a VM's disks, which ends unless somebody goes on saying that it is used.
#[derive(Debug)]
pub struct Lease {
    vsphere: Vsphere,
    lease: MoRef,
    /// How long the host waits for the next [`Lease::report`].
    pub timeout: Duration,
    /// The disks, in the host's order.
    pub disks: Vec<LeasedDisk>,
}

/// A disk of a lease.
#[derive(Clone, Debug)]
pub struct LeasedDisk {
    /// Where a .vmx would attach it: `scsi0:0`.
    pub key: String,
    /// Bytes that the guest sees.
    pub capacity_bytes: u64,
    url: Url,
    thumbprint: Option<Thumbprint>,
}

/// The bytes of a disk on their way, as a streamOptimized VMDK.
#[derive(Debug)]
pub struct Download(pub(crate) Response);

impl Vsphere {
    /// The one VM of that name or instance UUID.
    pub async fn find_vm(&self, name: &str) -> Result<Vm, VsphereError> {
        self.session.insist(|| self.try_find_vm(name)).await
    }

    async fn try_find_vm(&self, name: &str) -> Result<Vm, Failure> {
        let query = Query {
            start: std::slice::from_ref(&self.session.roots.root_folder),
            steps: TO_VMS,
            properties: &[("VirtualMachine", &["name", "config.instanceUuid"])],
        };
        let is_it = |vm: &Object| {
            vm.text("name") == Some(name) || vm.text("config.instanceUuid") == Some(name)
        };
        let found = self.session.retrieve(&query).await?;
        let mut found = found.into_iter().filter(|o| o.id.kind == "VirtualMachine").filter(is_it);
        match (found.next(), found.count()) {
            (Some(vm), 0) => Ok(Vm { name: vm.owned("name"), id: VmId::from(vm.id) }),
            (Some(_), more) => {
                let what =
                    format!("one VM `{name}` (there are {}: name its instance UUID)", more + 1);
                Err(Failure::not_found(what))
            }
            (None, _) => Err(Failure::not_found(format!("VM `{name}`"))),
        }
    }

    /// Asks the host to hand out the disks, and waits until it does.
    pub async fn export(&self, what: &ExportOf) -> Result<Lease, VsphereError> {
        self.try_export(what).await.map_err(VsphereError::from)
    }

    async fn try_export(&self, what: &ExportOf) -> Result<Lease, Failure> {
        let request = match what {
            ExportOf::Vm(vm) => Request::new("ExportVm", &vm.moref(), |_| {}),
            ExportOf::Snapshot(snapshot) => {
                Request::new("ExportSnapshot", &snapshot.moref(), |_| {})
            }
        };
        let lease = self.session.call_for_moref(&request).await?;
        match self.ready(what, &lease).await {
            Ok(lease) => Ok(lease),
            Err(failure) => {
                self.end(&lease, "HttpNfcLeaseAbort").await.unwrap_or_else(|failure| {
                    tracing::debug!(?failure, "a lease that is not ready cannot be ended");
                });
                Err(failure)
            }
        }
    }

    async fn ready(&self, what: &ExportOf, lease: &MoRef) -> Result<Lease, Failure> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let now = self.session.read(lease, &["state", "info", "error"]).await?;
            match now.text("state") {
                Some("ready") => return self.leased(what, lease, &now).await,
                Some("initializing") if Instant::now() < deadline => {
                    sleep(Duration::from_millis(100)).await;
                }
                Some("initializing") => {
                    let (call, after) = ("export", READY_WITHIN);
                    return Err(VsphereError::TimedOut { call, after }.into());
                }
                other => {
                    let said = now.get("error").and_then(|e| e.text_at(&["localizedMessage"]));
                    let message = format!("{} {}", other.unwrap_or("?"), said.unwrap_or_default());
                    let (call, fault) = ("export", "HttpNfcLease".to_owned());
                    return Err(VsphereError::Refused { call, fault, message }.into());
                }
            }
        }
    }

    async fn leased(&self, what: &ExportOf, lease: &MoRef, now: &Object) -> Result<Lease, Failure> {
        let garbled = |reason: &str| Failure::garbled("export", reason.to_owned());
        let info = now.get("info").ok_or_else(|| garbled("a lease without a list of disks"))?;
        // A snapshot's hardware is its own: a disk may have been added since.
        let (object, path) = match what {
            ExportOf::Vm(vm) => (vm.moref(), "config.hardware.device"),
            ExportOf::Snapshot(snapshot) => (snapshot.moref(), "config.hardware.device"),
        };
        let hardware = self.session.read(&object, &[path]).await?;
        let places = places(hardware.list(path));
        let mut disks = Vec::new();
        for url in info.all("deviceUrl").filter(|url| url.text_at(&["disk"]) == Some("true")) {
            let device = url.text_at(&["key"]).unwrap_or_default();
            let device = device.rsplit('/').next().unwrap_or_default();
            let place = places.iter().find(|place| place.device == device);
            let place = place.ok_or_else(|| garbled(&format!("a disk at {device:?}")))?;
            let text = url.text_at(&["url"]).ok_or_else(|| garbled("a disk without a URL"))?;
            let (url, own) = self.session.transport.resolve(text).map_err(|e| garbled(&e))?;
            let thumbprint = url_thumbprint(url_of(info, device)).filter(|_| !own);
            let (key, capacity_bytes) = (place.key.clone(), place.capacity_bytes);
            disks.push(LeasedDisk { key, capacity_bytes, url, thumbprint });
        }
        if disks.len() != places.len() {
            return Err(garbled(&format!("{} disks, of {} of the VM", disks.len(), places.len())));
        }
        let seconds = info.text_at(&["leaseTimeout"]).and_then(|text| text.parse().ok());
        let timeout = Duration::from_secs(seconds.unwrap_or(300).clamp(2, 3600));
        Ok(Lease { vsphere: self.clone(), lease: lease.clone(), timeout, disks })
    }

    async fn end(&self, lease: &MoRef, call: &'static str) -> Result<(), Failure> {
        let request = Request::new(call, lease, |_| {});
        match self.session.persist(|| self.session.call(&request)).await {
            // It ended before: by itself, or by this call when its answer was lost.
            Err(failure) if failure.is_gone() || failure.is(&["InvalidState", "Timedout"]) => {
                Ok(())
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(()),
        }
    }
}

impl Lease {
    /// Says how much of it was read, and that it is used.
    pub async fn report(&self, percent: u8) -> Result<(), VsphereError> {
        let session = &self.vsphere.session;
        let request = Request::new("HttpNfcLeaseProgress", &self.lease, |w| {
            w.text("percent", &percent.min(100).to_string());
        });
        session.insist(|| session.call(&request)).await.map(drop)
    }

    /// Begins to read a disk.
    pub async fn open(&self, disk: &LeasedDisk) -> Result<Download, VsphereError> {
        let trust = disk.thumbprint.map(Trust::Thumbprint);
        let got =
            self.vsphere.session.transport.get(disk.url.clone(), trust.as_ref(), "export").await;
        got.map(Download).map_err(VsphereError::from)
    }

    /// Ends it, with all read. One that has ended is fine.
    pub async fn complete(&self) -> Result<(), VsphereError> {
        self.vsphere.end(&self.lease, "HttpNfcLeaseComplete").await.map_err(VsphereError::from)
    }

    /// Ends it, with what was read thrown away. One that has ended is fine.
    pub async fn abort(&self) -> Result<(), VsphereError> {
        self.vsphere.end(&self.lease, "HttpNfcLeaseAbort").await.map_err(VsphereError::from)
    }
}

impl Download {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, VsphereError> {
        next(&mut self.0).await.map_err(VsphereError::from)
    }
}

pub(crate) async fn next(response: &mut Response) -> Result<Option<Vec<u8>>, Failure> {
    let call = "read";
    match timeout(SILENCE, response.chunk()).await {
        Ok(Ok(bytes)) => Ok(bytes.map(Into::into)),
        Ok(Err(error)) => Err(VsphereError::Unreachable { call, reason: error.to_string() }.into()),
        Err(_) => Err(VsphereError::TimedOut { call, after: SILENCE }.into()),
    }
}

/// Where a disk is attached, in a .vmx and for a lease.
struct Place {
    key: String,
    device: String,
    capacity_bytes: u64,
}

/// The places of all disks among a VM's devices.
fn places(devices: &[Element]) -> Vec<Place> {
    let text =
        |device: &Element, name: &str| device.text_at(&[name]).unwrap_or_default().to_owned();
    let disks = devices.iter().filter(|d| d.xsi_type.as_deref() == Some("VirtualDisk"));
    let place = |disk: &Element| {
        let controller = text(disk, "controllerKey");
        let controller = devices.iter().find(|device| text(device, "key") == controller)?;
        let (kind, number) = (controller.xsi_type.as_deref()?, text(controller, "busNumber"));
        let unit = text(disk, "unitNumber");
        let unit = if unit.is_empty() { "0" } else { unit.as_str() };
        let bus = match kind {
            "VirtualIDEController" => "ide",
            "VirtualAHCIController" | "VirtualSATAController" => "sata",
            "VirtualNVMEController" => "nvme",
            _ => "scsi",
        };
        let bytes = |name: &str| disk.text_at(&[name]).and_then(|text| text.parse::<u64>().ok());
        let capacity_bytes =
            bytes("capacityInBytes").or_else(|| bytes("capacityInKB")?.checked_mul(1024))?;
        let (key, device) = (format!("{bus}{number}:{unit}"), format!("{kind}{number}:{unit}"));
        Some(Place { key, device, capacity_bytes })
    };
    disks.filter_map(place).collect()
}

fn url_of<'a>(info: &'a Element, device: &str) -> Option<&'a Element> {
    info.all("deviceUrl").find(|url| url.text_at(&["key"]).is_some_and(|key| key.ends_with(device)))
}

fn url_thumbprint(url: Option<&Element>) -> Option<Thumbprint> {
    url?.text_at(&["sslThumbprint"])?.parse().ok()
}
