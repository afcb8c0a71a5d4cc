//! A full backup of a VM over the vSphere API, for who has no other.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use rekindle_repo::{
    IngestOptions, IngestProgress, IngestReport, Machine, MachineDisk, Repository,
};
use rekindle_vsphere::{ExportOf, Lease, LeasedDisk, PowerState, Vm, Vsphere, VsphereError};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    config::Config,
    exit::{Failure, Kind},
    serve::endpoint,
};

/// What the snapshots are called that only live while a VM is read. One that a killed run left is known by it.
const SNAPSHOT: &str = "rekindle ingest";
/// Parts of a disk that have come and are not dealt with: of some 16 KiB each, 1 MiB.
const PARTS: usize = 64;
const MAX_VMX_BYTES: u64 = 1 << 20;
const MAX_NVRAM_BYTES: u64 = 4 << 20;
/// How often who waits for a host looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

/// `vsphere://TARGET/VM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct From {
    target: String,
    vm: String,
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix("vsphere://").and_then(|rest| rest.split_once('/'));
        match parts {
            Some((target, vm)) if !target.is_empty() && !vm.is_empty() => {
                Ok(Self { target: target.to_owned(), vm: vm.to_owned() })
            }
            _ => Err(format!("{text:?} is not vsphere://TARGET/VM")),
        }
    }
}

/// One VM being read. What it holds on the host is given back when this is dropped, whatever happened.
struct Backup {
    handle: Handle,
    vsphere: Vsphere,
    vm: Vm,
    /// Whether there may be a snapshot of ours.
    snapshot: bool,
    lease: Option<Arc<Lease>>,
    keeper: Option<JoinHandle<()>>,
    whole: bool,
}

/// Reads the VM that `from` names into the repository. Blocks, in a thread of a runtime.
pub(super) fn take(
    config: &Config,
    from: &From,
    (repository, options): (&Repository, &IngestOptions),
    progress: &Arc<IngestProgress>,
    cancel: &Arc<AtomicBool>,
) -> Result<IngestReport, Failure> {
    let entry = config.target.iter().find(|entry| entry.name == from.target);
    let entry = entry.ok_or_else(|| {
        Failure::said(Kind::NotFound, format!("there is no target {:?}", from.target))
    })?;
    let endpoint = endpoint(entry).map_err(|e| Failure::new(Kind::Refused, e))?;
    let handle = Handle::current();
    let mut backup = handle.block_on(Backup::begin(&handle, endpoint, &from.vm))?;
    let machine = handle.block_on(backup.machine(progress, cancel))?;
    let report = rekindle_repo::ingest_machine(repository, machine, options, progress, cancel)?;
    backup.whole = true;
    Ok(report)
}

impl Backup {
    async fn begin(
        handle: &Handle,
        endpoint: rekindle_vsphere::Endpoint,
        name: &str,
    ) -> Result<Self, Failure> {
        let vsphere = Vsphere::connect(endpoint).await.map_err(failed)?;
        let vm = vsphere.find_vm(name).await.map_err(failed)?;
        let left = vsphere.remove_snapshots(&vm.id, SNAPSHOT).await.map_err(failed)?;
        if left > 0 {
            eprintln!("removed {left} snapshots that an earlier run left");
        }
        let (handle, snapshot, whole) = (handle.clone(), false, false);
        Ok(Self { handle, vsphere, vm, snapshot, lease: None, keeper: None, whole })
    }

    /// Order matters, because a crash may fall between any two steps:
    ///
    /// 1. the .vmx is read            crash here: nothing is left. After the snapshot it would name the snapshot's files
    /// 2. the snapshot is taken       crash here: the next run finds it by its name and removes it
    /// 3. the disks are leased        crash here: the lease ends by itself, as nobody says that it is used; and as 2
    async fn machine(
        &mut self,
        progress: &Arc<IngestProgress>,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Machine, Failure> {
        let view = self.vsphere.vm(&self.vm.id).await.map_err(failed)?;
        let vmx = self.read(&view.vmx_path, MAX_VMX_BYTES).await?;
        let nvram = self.nvram(&view.vmx_path, &vmx).await?;
        let of = match view.power {
            // Nothing changes while the lease holds it.
            PowerState::Off => ExportOf::Vm(self.vm.id.clone()),
            PowerState::On | PowerState::Suspended => {
                self.snapshot = true;
                let why = "removed when the VM has been read";
                let taken = self.vsphere.take_snapshot(&self.vm.id, SNAPSHOT, why).await;
                ExportOf::Snapshot(taken.map_err(failed)?)
            }
        };
        let lease = Arc::new(self.vsphere.export(&of).await.map_err(failed)?);
        self.lease = Some(lease.clone());
        lease.report(0).await.map_err(failed)?;
        self.keeper = Some(self.handle.spawn(keep(lease.clone(), progress.clone())));
        let disk = |disk: &LeasedDisk| {
            let (lease, handle) = (lease.clone(), self.handle.clone());
            let (from, cancel) = (disk.clone(), cancel.clone());
            let open = move || {
                let (sender, parts) = sync_channel(PARTS);
                handle.spawn(download(lease, from, sender));
                let incoming = Incoming { parts, part: io::Cursor::default(), cancel };
                Ok(Box::new(incoming) as rekindle_repo::Stream)
            };
            let size_bytes = disk.capacity_bytes;
            (disk.key.clone(), MachineDisk { size_bytes, open: Box::new(open) })
        };
        let disks: BTreeMap<_, _> = lease.disks.iter().map(disk).collect();
        Ok(Machine { vmx, nvram: nvram.map(Into::into), disks })
    }

    async fn read(&self, path: &str, max: u64) -> Result<Vec<u8>, Failure> {
        self.vsphere.read_file(&self.vm.id, path, max).await.map_err(failed)
    }

    /// The nvram file that the .vmx names, beside it. A VM starts with a fresh one where it is missing.
    async fn nvram(&self, vmx_path: &str, vmx: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let Some(name) = Machine::nvram_name(vmx)? else { return Ok(None) };
        let beside = vmx_path.rfind(['/', ' ']).map_or("", |at| &vmx_path[..=at]);
        let path = format!("{beside}{name}");
        if name.contains(['/', '\\']) {
            return Err(Failure::refused(format!(
                "the nvram file {name:?} is not beside the .vmx"
            )));
        }
        match self.vsphere.read_file(&self.vm.id, &path, MAX_NVRAM_BYTES).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(VsphereError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn end(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
        }
        if let Some(lease) = self.lease.take() {
            let ended = match self.whole {
                true => lease.complete().await,
                false => lease.abort().await,
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "the lease is not ended: it ends by itself");
            }
        }
        if self.snapshot
            && let Err(error) = self.vsphere.remove_snapshots(&self.vm.id, SNAPSHOT).await
        {
            let vm = &self.vm.name;
            tracing::error!(%error, vm, "snapshot \"{SNAPSHOT}\" is left: run it again, or remove it by hand");
        }
        // A session that is not ended here ends by itself.
        let _ = self.vsphere.log_out().await;
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let handle = self.handle.clone();
        handle.block_on(self.end());
    }
}

/// Says that the lease is used, often enough for it not to end.
async fn keep(lease: Arc<Lease>, progress: Arc<IngestProgress>) {
    loop {
        let counts = progress.counts();
        let percent = counts.done.saturating_mul(99).checked_div(counts.total).unwrap_or(0);
        if let Err(error) = lease.report(percent as u8).await {
            tracing::warn!(%error, "the host does not hear that its lease is used");
        }
        tokio::time::sleep(lease.timeout / 4).await;
    }
}

/// Sends what comes of a disk to who reads it; waits while he has enough.
async fn download(
    lease: Arc<Lease>,
    disk: LeasedDisk,
    sender: SyncSender<Result<Vec<u8>, VsphereError>>,
) {
    let mut incoming = match lease.open(&disk).await {
        Ok(incoming) => incoming,
        Err(error) => return drop(sender.try_send(Err(error))),
    };
    loop {
        let part = match incoming.next().await {
            Ok(Some(part)) => Ok(part),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let (failed, sender) = (part.is_err(), sender.clone());
        // Fails when nobody reads any more.
        let sent = tokio::task::spawn_blocking(move || sender.send(part).is_ok()).await;
        if failed || !sent.unwrap_or(false) {
            return;
        }
    }
}

/// A disk that comes in, for a thread that may wait for it.
struct Incoming {
    parts: Receiver<Result<Vec<u8>, VsphereError>>,
    part: io::Cursor<Vec<u8>>,
    cancel: Arc<AtomicBool>,
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.part.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            match self.parts.recv_timeout(LOOK) {
                Ok(Ok(part)) => self.part = io::Cursor::new(part),
                Ok(Err(error)) => return Err(io::Error::other(error)),
                // The end, or what came before it is less than it should be: the format tells.
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// What a failed call means for the command.
fn failed(error: VsphereError) -> Failure {
    let kind = match &error {
        VsphereError::Unreachable { .. } | VsphereError::TimedOut { .. } => Kind::Unavailable,
        VsphereError::NotFound { .. } => Kind::NotFound,
        VsphereError::Denied { .. } => Kind::Denied,
        VsphereError::Refused { .. }
        | VsphereError::Untrusted { .. }
        | VsphereError::BadEndpoint { .. } => Kind::Refused,
        VsphereError::Garbled { .. } => Kind::Failed,
    };
    Failure::new(kind, error)
}
