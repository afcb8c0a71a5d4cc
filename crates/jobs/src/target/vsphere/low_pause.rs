use std::ops::Range;
use std::time::Duration;

pub(crate) use rekindle_vsphere::Download;
use rekindle_vsphere::VsphereError;
use tokio::time::Instant;

use super::{Link, failure, vm_id};
use crate::JobError;
use crate::journal::HostMount;
use crate::target::{FilePart, FileReader, RELOCATE_WITHIN};

/// The largest descriptor that is read whole.
const SMALL: u64 = 1 << 20;

/// The next bytes of a file; `None` at the end.
pub(crate) async fn next(download: &mut Download) -> Result<Option<Vec<u8>>, JobError> {
    download.next().await.map_err(|e| failure("read a file of the datastore", e))
}

impl Link {
    pub(crate) async fn has_snapshot(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<bool, JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let has = session.has_snapshot_named(&vm, name).await;
        has.map_err(|e| failure("look at the VM's snapshots", e))
    }

    pub(crate) async fn remove_snapshots(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<(), JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let removed = session.remove_snapshots(&vm, name).await.map(drop);
        removed.map_err(|e| failure("remove the VM's snapshots", e))
    }

    pub(crate) async fn copy_disk(
        &self,
        mount: &HostMount,
        (from, to): (&str, &str),
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let copied = session.copy_disk(&host, from, to, RELOCATE_WITHIN, progress).await;
        copied.map_err(|e| failure("have the host copy a disk", e))
    }

    pub(crate) async fn end_copies(&self, directory: &str) -> Result<(), JobError> {
        let session = self.session().await?;
        let ended = session.end_disk_copies(&format!("{directory}/")).await;
        ended.map_err(|e| failure("end the host's copy of a disk", e))
    }

    pub(crate) async fn open_file(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<FileReader, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let opened = session.open_file_of(&host, path).await;
        opened.map(FileReader::Vsphere).map_err(|e| failure(&format!("read {path}"), e))
    }

    pub(crate) async fn open_part(
        &self,
        mount: &HostMount,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<FilePart>, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let opened = session.open_part_of(&host, path, range).await;
        let opened = opened.map_err(|e| failure(&format!("read {path}"), e))?;
        Ok(opened.map(|(file, of_bytes)| FilePart { file: FileReader::Vsphere(file), of_bytes }))
    }

    pub(crate) async fn read_file(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<Vec<u8>, JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let read = session.read_file_of(&host, path, SMALL).await;
        read.map_err(|e| failure(&format!("read {path}"), e))
    }

    pub(crate) async fn write_file(
        &self,
        mount: &HostMount,
        path: &str,
        bytes: &[u8],
    ) -> Result<(), JobError> {
        let (session, host) = self.host(mount.host.as_deref()).await?;
        let written = session.write_file_of(&host, path, bytes).await;
        written.map_err(|e| failure(&format!("write {path}"), e))
    }

    pub(crate) async fn shut_down(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        within: Duration,
    ) -> Result<bool, JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let off = session.shut_down_guest(&vm, within).await;
        off.map_err(|e| failure("shut the guest down", e))
    }

    pub(crate) async fn settle(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        within: Duration,
    ) -> Result<(), JobError> {
        let (session, vm) = self.registered(mount, vmx_path).await?;
        let off = session.off_within(&vm, Instant::now() + within).await;
        off.map(drop).map_err(|e| failure("look at the VM", e))
    }

    pub(crate) async fn merge(&self, vm: &str) -> Result<bool, JobError> {
        match self.session().await?.merge_disks(&vm_id(vm)?).await {
            Err(VsphereError::NotFound { .. }) => Ok(false),
            merged => merged.map(|()| true).map_err(|e| failure("write the snapshot back", e)),
        }
    }
}
