use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rekindle_block::BlockHash;
use rekindle_image::{Image, RemoteFile, Vmx, VmxDisk};

use super::changes::{Area, Changes};
use super::source::{DiskSource, Source, SourceDisk, refuse, unique_name};
use crate::manifest::MAX_NVRAM_BYTES;
use crate::{DiskManifest, MapId, PointManifest, RepoError};

/// A VM that ran on from a recovery point, and is still.
pub struct Successor {
    /// The point.
    pub parent: PointManifest,
    /// What its .vmx holds now; what it held at the point if not said.
    pub vmx: Option<Vec<u8>>,
    /// What its nvram file holds now, if it has one.
    pub nvram: Option<Bytes>,
    /// All its disks by their places: `scsi0:0`. None is smaller than it was.
    pub disks: BTreeMap<String, SuccessorDisk>,
}

/// A disk of it.
pub struct SuccessorDisk {
    /// All its bytes.
    pub file: Arc<dyn RemoteFile>,
    /// What may differ from the point, of those bytes that the disk had there. At least what does.
    pub written: Vec<Range<u64>>,
}

impl Source {
    /// The disks that the configuration attaches must be those of the point: what it has beside them is elsewhere.
    pub(super) fn from_successor(successor: Successor) -> Result<(Self, Changes), RepoError> {
        let Successor { parent, vmx, nvram, mut disks } = successor;
        if nvram.as_ref().is_some_and(|nvram| nvram.len() as u64 > MAX_NVRAM_BYTES) {
            return Err(RepoError::refused("its nvram file is too long"));
        }
        let (vmx, attached) = match vmx {
            None => (parent.vmx.clone(), None),
            Some(bytes) => {
                let vmx = Vmx::parse(&bytes).map_err(|e| RepoError::refused(e.to_string()))?;
                (vmx.to_text(), Some(attached(&vmx, &parent)?))
            }
        };
        let (mut sources, mut changed) = (Vec::new(), BTreeMap::new());
        for (n, before) in parent.disks.iter().enumerate() {
            let disk = disks.remove(&before.key).ok_or_else(|| {
                RepoError::refused(format!(
                    "the disk {} of point {} is left out",
                    before.key, parent.id
                ))
            })?;
            let mut manifest = DiskManifest {
                source_format: "overlay".into(),
                size_bytes: disk.file.size(),
                stored_bytes: 0,
                map: MapId::random()?,
                map_bytes: 0,
                map_hash: BlockHash::from_bytes([0; 32]),
                ..before.clone()
            };
            if let Some((name, now)) = attached.as_ref().and_then(|all| all.get(n)) {
                (manifest.file_name, manifest.adapter) = (name.clone(), now.adapter.clone());
            }
            changed.insert(before.key.clone(), areas(&disk, before.size_bytes));
            let image = Image::from_remote(&manifest.file_name, disk.file).map_err(refuse)?;
            sources.push(SourceDisk { image: DiskSource::Open(image), manifest });
        }
        let changes = Changes::with_growth(parent.id, changed);
        Ok((Self { vm: parent.vm, vmx, nvram, disks: sources, package: None }, changes))
    }
}

/// The disks of `parent` as `vmx` attaches them, in the order of `parent`, with names that differ.
fn attached(vmx: &Vmx, parent: &PointManifest) -> Result<Vec<(String, VmxDisk)>, RepoError> {
    let mut now: BTreeMap<_, _> =
        vmx.disks().into_iter().map(|disk| (disk.key.clone(), disk)).collect();
    let mut names = HashSet::new();
    let known = parent.disks.iter().map(|before| {
        let disk = now.remove(&before.key).ok_or_else(|| {
            RepoError::refused(format!("its .vmx does not attach the disk {} any more", before.key))
        })?;
        Ok((unique_name(Path::new(&disk.file_name), &mut names), disk))
    });
    let known = known.collect::<Result<Vec<_>, RepoError>>()?;
    match now.keys().next() {
        None => Ok(known),
        Some(other) => Err(RepoError::refused(format!(
            "its .vmx attaches the disk {other}, which point {} has not",
            parent.id
        ))),
    }
}

/// What is to be read of a disk that had `size` bytes. Its last block was short if it grew, and is read again.
fn areas(disk: &SuccessorDisk, size: u64) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::with_capacity(disk.written.len() + 1);
    for range in &disk.written {
        let end = range.end.min(size);
        areas.push(Area { start: range.start.min(end), length: end.saturating_sub(range.start) });
    }
    if disk.file.size() > size {
        let start = size.saturating_sub(1);
        areas.push(Area { start, length: disk.file.size() - start });
    }
    areas
}
