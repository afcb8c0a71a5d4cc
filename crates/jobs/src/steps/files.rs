//! The VM's folder: configuration, descriptors, disks, firmware variables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekindle_disk::Disk;
use rekindle_image::Vmx;
use rekindle_nfs::Export;
use rekindle_repo::PointManifest;

use super::{Found, Work, export};
use crate::boot::Boot;
use crate::descriptor::Descriptor;
use crate::env::Env;
use crate::journal::{DiskRecord, Record};
use crate::live::disk_id;
use crate::mover::{Image, ImageId};
use crate::staging::Staging;
use crate::vmx::Rewrite;
use crate::{ImageFormat, JobError, Mode, Step, failure};

/// Permissions as ESXi gives them to its own files.
const VMX_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o600;

/// A small file of a VM's folder.
pub(crate) struct SmallFile {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

impl Work<'_> {
    pub(super) async fn write_files(&mut self) -> Result<Found, JobError> {
        let point = self.live.point(self.env, self.record).await?;
        let disks = self.live.disks(self.env, self.record).await?;
        // Before the guest can ask for anything.
        self.live.boot = Boot::start(self.env, self.record, &point, &disks);
        let (files, notes) = small_files(&point.manifest, self.record)?;
        let folder = Folder {
            export: export::get(self.env, self.record)?,
            path: PathBuf::from(&self.record.place.folder),
        };
        let records = self.record.disks.clone();
        failure::blocking(move || folder.fill(&files, &records, &disks)).await?;
        Ok(Found { notes, ..Found::default() })
    }

    /// Removes the folder with all that the client put there, also when the export is gone already.
    pub(super) async fn remove_files(&mut self) -> Result<(), JobError> {
        let name = PathBuf::from(&self.record.place.folder);
        let dir = self.env.folder(self.record);
        let served = self.env.exports.get(&self.record.place.export);
        failure::blocking(move || match served {
            Some(export) => {
                export.remove_tree(&name).map_err(|e| failure::nfs("remove the VM's folder", e))
            }
            None => export::remove_dir(&dir),
        })
        .await
    }
}

/// A VM's folder in an export.
struct Folder {
    export: Arc<Export>,
    path: PathBuf,
}

impl Folder {
    /// The disks come last: a folder with its extents is complete.
    fn fill(
        &self,
        files: &[SmallFile],
        records: &[DiskRecord],
        disks: &[Arc<Disk>],
    ) -> Result<(), JobError> {
        let failed = |e| failure::nfs("write the VM's folder", e);
        self.export.make_dir(&self.path).map_err(failed)?;
        for file in files {
            let path = self.path.join(&file.name);
            self.export.put_file(&path, &file.bytes, file.mode).map_err(failed)?;
        }
        for (record, disk) in records.iter().zip(disks) {
            let path = self.path.join(&record.extent);
            let attached = self.export.attach_disk(&path, &disk_id(&record.id)?, disk.clone());
            attached.map_err(failed)?;
        }
        Ok(())
    }
}

/// All files of the folder but the extents, and what a person should know about them.
pub(crate) fn small_files(
    point: &PointManifest,
    record: &Record,
) -> Result<(Vec<SmallFile>, Vec<String>), JobError> {
    if record.request.attach_to.is_some() {
        return Ok((descriptors(point, record, |disk| disk.size), Vec::new()));
    }
    let stem = &record.place.folder;
    let rewrite = Rewrite {
        name: &record.name,
        stem,
        networks: record.request.networks(),
        adapters: &record.request.adapters,
        mac: record.request.mac(),
        uuid: record.request.uuid(),
        swap: record.request.swap(),
        redo: record.redo_path(),
        disks: record.disks.iter().map(|d| (d.key.as_str(), d.descriptor.as_str())).collect(),
        nvram: record.nvram,
    };
    let rewritten = match record.request.mode {
        Mode::DiskOnly => rewrite.apply(&rewrite.minimum(&point.vmx)?)?,
        Mode::LiveRecovery | Mode::LiveMount | Mode::FullRestore => rewrite.apply(&point.vmx)?,
    };
    let mut files = descriptors(point, record, |disk| disk.size);
    if let Some(nvram) = point.nvram.as_ref().filter(|_| record.nvram) {
        let name = format!("{stem}.nvram");
        files.push(SmallFile { name, bytes: nvram.to_vec(), mode: FILE_MODE });
    }
    let name = format!("{stem}.vmx");
    files.push(SmallFile { name, bytes: rewritten.bytes, mode: VMX_MODE });
    Ok((files, rewritten.notes))
}

/// What disks are where they are copied to.
pub(crate) struct Kinds {
    pub(crate) format: ImageFormat,
    /// The controllers' kinds, by the disk's place in the recovery point.
    pub(crate) adapters: Vec<String>,
}

/// The name of a disk's file where it is copied to.
fn image_name(disk: &DiskRecord, format: ImageFormat) -> String {
    let stem = disk.descriptor.strip_suffix(".vmdk").unwrap_or(&disk.descriptor);
    match format {
        ImageFormat::Flat => disk.extent.clone(),
        ImageFormat::Sparse => disk.descriptor.clone(),
        ImageFormat::Qcow2 => format!("{stem}.qcow2"),
        ImageFormat::Raw => format!("{stem}.raw"),
    }
}

/// The file that a disk is copied to.
pub(crate) fn image(
    staging: &Staging,
    disk: &DiskRecord,
    kinds: &Kinds,
    size: u64,
) -> Result<Image, JobError> {
    let name = image_name(disk, kinds.format);
    let adapter = kinds.adapters.get(disk.index).map_or("", String::as_str);
    let id = ImageId { name: &name, adapter: ddb_adapter(adapter), content: blake3_of(&disk.id) };
    let image = Image::open(staging.open(&name)?, kinds.format, size, &id);
    image.map_err(|e| JobError::io(format!("make {name}"), e))
}

/// Has the VM's configuration name the files that there are.
pub(crate) fn name_images(
    files: &mut [SmallFile],
    record: &Record,
    format: ImageFormat,
) -> Result<(), JobError> {
    if matches!(format, ImageFormat::Flat | ImageFormat::Sparse) {
        return Ok(());
    }
    let name = format!("{}.vmx", record.place.folder);
    for file in files.iter_mut().filter(|file| file.name == name) {
        let mut vmx = Vmx::parse(&file.bytes)
            .map_err(|e| JobError::conflict("bad_vmx", format!("the VM's configuration: {e}")))?;
        for disk in &record.disks {
            vmx.set(&format!("{}.fileName", disk.key), image_name(disk, format));
        }
        file.bytes = vmx.to_bytes();
    }
    Ok(())
}

/// The descriptors of disks that have the sizes that `size` tells.
pub(crate) fn descriptors(
    point: &PointManifest,
    record: &Record,
    size: impl Fn(&DiskRecord) -> u64,
) -> Vec<SmallFile> {
    let descriptor = |disk: &DiskRecord| {
        let adapter = point.disks.get(disk.index).map_or("", |d| d.adapter.as_str());
        let hash = blake3_of(&disk.id);
        let text = Descriptor {
            extent: &disk.extent,
            size: size(disk),
            adapter: ddb_adapter(adapter),
            content: hash,
        };
        let bytes = text.text().into_bytes();
        SmallFile { name: disk.descriptor.clone(), bytes, mode: FILE_MODE }
    };
    record.disks.iter().map(descriptor).collect()
}

/// The adapter in a descriptor, from the controller's kind. There are fewer words for it than kinds
/// of controllers; ESXi itself writes `lsilogic` for all the others.
fn ddb_adapter(controller: &str) -> &'static str {
    match controller {
        "ide" => "ide",
        "buslogic" => "buslogic",
        _ => "lsilogic",
    }
}

/// A content id that stays the same when the step is done again.
fn blake3_of(id: &str) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&rekindle_block::BlockHash::of(id.as_bytes()).as_bytes()[..16]);
    first
}

/// The code of a VM that has snapshots which are not for the appliance to remove.
pub(crate) const HAS_SNAPSHOTS: &str = "vm_has_snapshots";

/// A client that made snapshots writes to files of its own; the disks alone lack what is in them.
pub(crate) fn check_snapshots(record: &Record, vmx: &[u8]) -> Result<(), JobError> {
    let vmx = Vmx::parse(vmx)
        .map_err(|e| JobError::conflict("bad_vmx", format!("the VM's configuration: {e}")))?;
    for disk in &record.disks {
        let named = vmx.get(&format!("{}.fileName", disk.key)).unwrap_or_default();
        let named = named.rsplit('/').next().unwrap_or_default();
        if named != disk.descriptor {
            return Err(JobError::conflict(
                HAS_SNAPSHOTS,
                format!("{} is {named} now: remove the VM's snapshots first", disk.key),
            ));
        }
    }
    Ok(())
}

/// A small file of the export as the client left it. What is not served no client has changed.
pub(crate) async fn read_exported(
    env: &Env,
    record: &Record,
    path: &Path,
) -> Result<Option<Vec<u8>>, JobError> {
    if !record.plan.has_begun(Step::Export) {
        return Ok(None);
    }
    let (export, path) = (export::get(env, record)?, path.to_owned());
    failure::blocking(move || {
        export.read_file(&path).map_err(|e| failure::nfs("read a file of the export", e))
    })
    .await
}

/// The path of a VM's configuration within its export.
pub(crate) fn vmx_path(record: &Record) -> PathBuf {
    Path::new(&record.place.folder).join(format!("{}.vmx", record.place.folder))
}

/// The same for the firmware's variables.
pub(crate) fn nvram_path(record: &Record) -> PathBuf {
    Path::new(&record.place.folder).join(format!("{}.nvram", record.place.folder))
}
