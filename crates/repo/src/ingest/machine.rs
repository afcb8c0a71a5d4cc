use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use bytes::Bytes;
use rekindle_block::BlockHash;
use rekindle_image::{Image, ImageError, Stream, Vmx};

use super::options::IngestOptions;
use super::source::{DiskSource, Source, SourceDisk, identity, unique_name};
use crate::manifest::{MAX_DISKS, MAX_NVRAM_BYTES};
use crate::{DiskManifest, MapId, RepoError};

/// A VM that is read from a host: its files, and a stream for each disk.
pub struct Machine {
    /// What its .vmx holds.
    pub vmx: Vec<u8>,
    /// What its nvram file holds, if it has one.
    pub nvram: Option<Bytes>,
    /// Its disks by their places: `scsi0:0`.
    pub disks: BTreeMap<String, MachineDisk>,
}

/// A disk as a host sends it.
pub struct MachineDisk {
    /// Bytes that the guest sees.
    pub size_bytes: u64,
    /// Begins to read it: a streamOptimized VMDK from its first byte to its last. Called when its turn comes.
    pub open: Box<dyn FnOnce() -> io::Result<Stream> + Send>,
}

impl Machine {
    /// The nvram file that a .vmx names, which is relative to it and untrusted.
    pub fn nvram_name(vmx: &[u8]) -> Result<Option<String>, RepoError> {
        let vmx = Vmx::parse(vmx).map_err(|error| RepoError::refused(error.to_string()))?;
        Ok(vmx.get("nvram").filter(|name| !name.is_empty()).map(str::to_owned))
    }
}

impl Source {
    /// Every disk that the configuration attaches must be among those that the host sends, and no other.
    pub(super) fn from_machine(
        machine: Machine,
        options: &IngestOptions,
    ) -> Result<Self, RepoError> {
        let Machine { vmx, nvram, disks: mut streams } = machine;
        let vmx = Vmx::parse(&vmx).map_err(|error| RepoError::refused(error.to_string()))?;
        let attached = vmx.disks();
        if attached.is_empty() || attached.len() > MAX_DISKS {
            return Err(RepoError::refused(format!("the VM has {} disks", attached.len())));
        }
        if nvram.as_ref().is_some_and(|nvram| nvram.len() as u64 > MAX_NVRAM_BYTES) {
            return Err(RepoError::refused("its nvram file is too long"));
        }
        let mut names = HashSet::new();
        let mut disks = Vec::new();
        for disk in attached {
            let stream = streams.remove(&disk.key).ok_or_else(|| {
                let why = "as independent disks and raw device mappings are";
                RepoError::refused(format!("the host leaves out the disk {}, {why}", disk.key))
            })?;
            let manifest = DiskManifest {
                file_name: unique_name(Path::new(&disk.file_name), &mut names),
                key: disk.key,
                adapter: disk.adapter,
                source_format: "vmdk-stream".into(),
                size_bytes: stream.size_bytes,
                stored_bytes: 0,
                map: MapId::random()?,
                map_bytes: 0,
                map_hash: BlockHash::from_bytes([0; 32]),
            };
            let (name, open) = (manifest.file_name.clone(), stream.open);
            let open = move || {
                let failed = |source| ImageError::Unavailable { file: name.clone(), source };
                Image::from_stream(&name, open().map_err(failed)?)
            };
            disks.push(SourceDisk { image: DiskSource::Later(Box::new(open)), manifest });
        }
        if let Some(other) = streams.keys().next() {
            return Err(RepoError::refused(format!("its .vmx does not attach the disk {other}")));
        }
        let vm = identity(&vmx, options.name.clone(), "vm".into());
        Ok(Self { vm, vmx: vmx.to_text(), nvram, disks, package: None })
    }
}
