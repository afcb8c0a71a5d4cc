//! What a migration with a short pause asks of a host.

use std::ops::Range;
use std::time::Duration;

use super::{Link, vsphere};
use crate::JobError;
use crate::journal::HostMount;

/// A file of a datastore, read from its beginning to its end.
pub(crate) enum FileReader {
    Vsphere(vsphere::Download),
    #[cfg(test)]
    Fake(std::collections::VecDeque<Vec<u8>>),
}

impl FileReader {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, JobError> {
        match self {
            Self::Vsphere(download) => vsphere::next(download).await,
            #[cfg(test)]
            Self::Fake(parts) => Ok(parts.pop_front()),
        }
    }
}

/// Some bytes of a file.
pub(crate) struct FilePart {
    pub(crate) file: FileReader,
    /// Bytes of the whole file.
    pub(crate) of_bytes: u64,
}

impl Link {
    /// Whether the VM at this path has a snapshot of this name.
    pub(crate) async fn has_snapshot(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<bool, JobError> {
        to_host!(self, link => link.has_snapshot(mount, vmx_path, name).await)
    }

    /// Removes the snapshots of this name; others stay.
    pub(crate) async fn remove_snapshots(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        name: &str,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.remove_snapshots(mount, vmx_path, name).await)
    }

    /// Has the host copy a disk, from one descriptor's path to another; `progress` is told percents.
    pub(crate) async fn copy_disk(
        &self,
        mount: &HostMount,
        (from, to): (&str, &str),
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.copy_disk(mount, (from, to), progress).await)
    }

    /// Ends copies into a directory that this process has begun.
    pub(crate) async fn end_copies(&self, directory: &str) -> Result<(), JobError> {
        to_host!(self, link => link.end_copies(directory).await)
    }

    /// Begins to read a file of a datastore.
    pub(crate) async fn open_file(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<FileReader, JobError> {
        to_host!(self, link => link.open_file(mount, path).await)
    }

    /// Begins to read some bytes of a file of a datastore; `None` if the host gives only whole ones.
    pub(crate) async fn open_part(
        &self,
        mount: &HostMount,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<FilePart>, JobError> {
        to_host!(self, link => link.open_part(mount, path, range).await)
    }

    /// The whole of a small file of a datastore.
    pub(crate) async fn read_file(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<Vec<u8>, JobError> {
        to_host!(self, link => link.read_file(mount, path).await)
    }

    /// Writes a small file to a datastore.
    pub(crate) async fn write_file(
        &self,
        mount: &HostMount,
        path: &str,
        bytes: &[u8],
    ) -> Result<(), JobError> {
        to_host!(self, link => link.write_file(mount, path, bytes).await)
    }

    /// Has the guest of the VM at this path shut down, and says whether it is off within that time.
    pub(crate) async fn shut_down(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        within: Duration,
    ) -> Result<bool, JobError> {
        to_host!(self, link => link.shut_down(mount, vmx_path, within).await)
    }

    /// Waits until the VM at this path is off, for so long at most.
    pub(crate) async fn settle(
        &self,
        mount: &HostMount,
        vmx_path: &str,
        within: Duration,
    ) -> Result<(), JobError> {
        to_host!(self, link => link.settle(mount, vmx_path, within).await)
    }

    /// Writes all that lies over a VM's disks back to them; false if it is not registered.
    pub(crate) async fn merge(&self, vm: &str) -> Result<bool, JobError> {
        to_host!(self, link => link.merge(vm).await)
    }
}
