//! A host whose snapshots, copies and files are real enough to be compared.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rekindle_cache::Priority;
use rekindle_disk::{Disk, DiskId, Disks};
use rekindle_image::Vmx;
use rekindle_nfs::{Export, Exports};

use super::{FakeHost, FakeVm, State};
use crate::JobError;
use crate::journal::HostMount;
use crate::target::{FilePart, FileReader};

/// What the guest wrote, by the disk's number: places and bytes, in order.
pub(crate) type Over = Vec<(usize, u64, Vec<u8>)>;

/// What the host reaches over NFS, for want of a client of its own.
#[derive(Default)]
pub(crate) struct Appliance {
    pub(crate) exports: Option<Exports>,
    pub(crate) disks: Option<Arc<Disks>>,
}

impl std::fmt::Debug for Appliance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Appliance")
    }
}

const DELTA: &str = "-000001.vmdk";

fn refused(why: impl Into<String>) -> JobError {
    JobError::refused("target_refused", why)
}

/// `key = value` of a descriptor, with or without spaces and quotes.
fn value(text: &str, wanted: &str) -> String {
    let of =
        |line: &str| line.split_once('=').map(|(k, v)| (k.trim() == wanted, v.trim().to_owned()));
    let found = text.lines().filter_map(of).find(|(is, _)| *is);
    found.unwrap_or_else(|| panic!("no {wanted} in {text}")).1.trim_matches('"').to_owned()
}

/// `[datastore] file` of a path that files name each other by.
fn datastore_path(path: &str) -> String {
    let (datastore, file) = path.strip_prefix("/vmfs/volumes/").unwrap().split_once('/').unwrap();
    format!("[{datastore}] {file}")
}

impl State {
    /// Where a file of the export is; `None` for one of another datastore.
    fn exported(&self, path: &str) -> Option<(Arc<Export>, PathBuf)> {
        let (datastore, file) = path.trim_start_matches('[').split_once("] ").unwrap();
        let export = self.mounted.iter().find(|(_, name)| *name == datastore)?.0;
        let exports = self.appliance.exports.as_ref().unwrap();
        Some((exports.get(export.trim_start_matches('/')).unwrap(), file.into()))
    }

    fn text(&self, path: &str) -> Option<String> {
        let bytes = match self.exported(path) {
            Some((export, file)) => export.read_file(&file).unwrap(),
            None => self.files.get(path).cloned(),
        };
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn write(&mut self, path: &str, bytes: Vec<u8>) {
        match self.exported(path) {
            Some((export, file)) => export.put_file(&file, &bytes, 0o600).unwrap(),
            None => drop(self.files.insert(path.to_owned(), bytes)),
        }
    }

    /// The keys and paths of a VM's disks.
    fn disks(&self, vmx_path: &str) -> Vec<(String, String)> {
        let Some(text) = self.text(vmx_path) else { return Vec::new() };
        let (home, _) = vmx_path.rsplit_once('/').unwrap();
        let vmx = Vmx::parse(text.as_bytes()).unwrap();
        let disks = vmx.entries().filter(|(key, _)| key.to_lowercase().ends_with(".filename"));
        let path = |name: &str| match name.starts_with('/') {
            true => datastore_path(name),
            false => format!("{home}/{name}"),
        };
        disks.map(|(key, name)| (key.to_owned(), path(name))).collect()
    }

    pub(super) fn is_chained(&self, vmx_path: &str) -> bool {
        self.disks(vmx_path).iter().any(|(_, disk)| disk.ends_with(DELTA))
    }

    fn name_disk(&mut self, vmx_path: &str, key: &str, name: &str) {
        let mut vmx = Vmx::parse(self.text(vmx_path).unwrap().as_bytes()).unwrap();
        vmx.set(key, name);
        self.write(vmx_path, vmx.to_bytes());
    }

    pub(super) fn put_deltas(&mut self, vmx_path: &str) {
        for (key, disk) in self.disks(vmx_path) {
            assert!(!disk.ends_with(DELTA), "a snapshot over a snapshot");
            let base = self.text(&disk).unwrap();
            let (_, name) = disk.rsplit_once('/').unwrap();
            let delta = disk.replace(".vmdk", DELTA);
            let text = format!(
                "CID=0badcafe\nparentCID={}\nparentFileNameHint=\"{name}\"\n",
                value(&base, "CID")
            );
            self.write(&delta, text.into_bytes());
            self.name_disk(vmx_path, &key, delta.rsplit_once('/').unwrap().1);
        }
    }

    /// Another snapshot lies between the disks and what is over them.
    pub(super) fn put_between(&mut self, vmx_path: &str) {
        for (_, delta) in self.disks(vmx_path) {
            let text = self.text(&delta).unwrap().replace(".vmdk\"", "-000002.vmdk\"");
            self.write(&delta, text.into_bytes());
        }
    }

    /// The disk that a delta lies over.
    fn parent(&self, delta: &str) -> Result<String, JobError> {
        let text = self.text(delta).ok_or_else(|| refused("FileNotFound"))?;
        let hint = value(&text, "parentFileNameHint");
        let parent = match hint.starts_with('/') {
            true => datastore_path(&hint),
            false => format!("{}/{hint}", delta.rsplit_once('/').unwrap().0),
        };
        let base = self.text(&parent).ok_or_else(|| refused(format!("no {parent}")))?;
        match value(&base, "CID") == value(&text, "parentCID") {
            true => Ok(parent),
            false => Err(refused(
                "the parent virtual disk has been modified since the child was created",
            )),
        }
    }

    /// A disk is started only over the very disk that it was made for.
    pub(super) fn check_chain(&self, vmx_path: &str) -> Result<(), JobError> {
        for (_, disk) in self.disks(vmx_path) {
            let over = disk.ends_with(DELTA).then(|| self.parent(&disk)).transpose()?;
            let base = over.unwrap_or(disk);
            // Of a VM that the fake itself has moved there are no files.
            let known = self.exported(&base).is_some() || !self.files.is_empty();
            if known && self.text(&base).is_none() {
                return Err(refused(format!("no {base}")));
            }
        }
        Ok(())
    }

    pub(super) fn datastores_of(&self, vmx_path: &str, vm: &FakeVm) -> Vec<String> {
        let name = |path: &str| path.trim_start_matches('[').split(']').next().unwrap().to_owned();
        let mut found = vec![name(vmx_path)];
        if vm.snapshot {
            found.extend(self.disks(vmx_path).iter().map(|(_, disk)| name(disk)));
        }
        found.sort();
        found.dedup();
        found
    }

    /// The disk of the one job that there is, by its place in the VM.
    fn disk(&self, number: usize) -> Arc<Disk> {
        let disks = self.appliance.disks.as_ref().unwrap();
        let ids: Vec<DiskId> = disks.list();
        let id = ids.iter().find(|id| id.to_string().ends_with(&format!(".{number}"))).unwrap();
        disks.attached(id).unwrap()
    }

    /// The guest of a VM with a snapshot writes.
    pub(crate) fn guest_writes(&mut self, disk: usize, at: u64, bytes: Vec<u8>) {
        assert!(self.vms.values().any(|vm| vm.runs && vm.snapshot));
        self.over.push((disk, at, bytes));
    }

    /// Somebody makes a snapshot, whose files are as ours.
    pub(crate) fn snapshot_of_others(&mut self, vmx_path: &str) {
        self.put_deltas(vmx_path);
        self.others = true;
        self.vms.get_mut(vmx_path).unwrap().snapshot = true;
    }

    /// The disks' contents at a VM's home, without what lies over them.
    pub(crate) fn flats(&self, home: &str) -> BTreeMap<String, Vec<u8>> {
        let of_home = self.files.iter().filter(|(path, _)| path.starts_with(home));
        of_home
            .filter(|(p, _)| p.ends_with("-flat.vmdk"))
            .map(|(p, b)| (p.clone(), b.clone()))
            .collect()
    }
}

/// The number of the disk with this descriptor, as the appliance names them.
fn number(descriptor: &str) -> usize {
    let (home, file) = descriptor.rsplit_once('/').unwrap();
    let folder = home.rsplit_once("] ").unwrap().1;
    let stem = file.strip_suffix(".vmdk").unwrap();
    stem.strip_prefix(folder).unwrap().trim_start_matches('_').parse().unwrap_or(0)
}

impl FakeHost {
    pub(crate) async fn has_snapshot(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        _name: &str,
    ) -> Result<bool, JobError> {
        let state = self.call("has_snapshot")?;
        Ok(!state.others && state.vms.get(vmx_path).is_some_and(|vm| vm.snapshot))
    }

    pub(crate) async fn remove_snapshots(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        _name: &str,
    ) -> Result<(), JobError> {
        let mut state = self.call("remove_snapshots")?;
        if state.others || !state.vms[vmx_path].snapshot {
            return Ok(());
        }
        for (key, delta) in state.disks(vmx_path) {
            let base = delta.replace(DELTA, ".vmdk");
            let (export, file) = state.exported(&delta).unwrap();
            export.remove_tree(&file).unwrap();
            state.name_disk(vmx_path, &key, base.rsplit_once('/').unwrap().1);
        }
        state.vms.get_mut(vmx_path).unwrap().snapshot = false;
        state.doubles = false;
        Ok(())
    }

    pub(crate) async fn copy_disk(
        &self,
        _mount: &HostMount,
        (from, to): (&str, &str),
        progress: impl Fn(u8) + Send + Sync,
    ) -> Result<(), JobError> {
        let (disk, miscopies, hangs) = {
            let state = self.call("copy_disk")?;
            assert!(state.dirs.contains(to.rsplit_once('/').unwrap().0));
            assert!(!state.files.contains_key(to), "FileAlreadyExists");
            (state.disk(number(from)), state.miscopies, state.hangs)
        };
        if hangs {
            progress(1);
            return std::future::pending().await;
        }
        let mut flat = Vec::new();
        for bytes in disk.read(0..disk.size(), Priority::Guest).await.unwrap() {
            flat.extend_from_slice(&bytes);
        }
        if let Some(byte) = miscopies.and_then(|at| flat.get_mut(at)) {
            *byte ^= 1;
        }
        progress(50);
        let extent = to.replace(".vmdk", "-flat.vmdk");
        let (_, name) = extent.rsplit_once('/').unwrap();
        let text =
            format!("CID=3333444{}\nRW {} VMFS \"{name}\"\n", number(from), flat.len() / 512);
        let mut state = self.call("copied")?;
        state.files.insert(to.to_owned(), text.into_bytes());
        state.files.insert(extent, flat);
        Ok(())
    }

    pub(crate) async fn end_copies(&self, _directory: &str) -> Result<(), JobError> {
        self.call("end_copies").map(drop)
    }

    pub(crate) async fn open_file(
        &self,
        mount: &HostMount,
        path: &str,
    ) -> Result<FileReader, JobError> {
        let bytes = self.read_file(mount, path).await?;
        Ok(FileReader::Fake(bytes.chunks(333_333).map(<[u8]>::to_vec).collect()))
    }

    /// Whole files only, if it is such a host.
    pub(crate) async fn open_part(
        &self,
        mount: &HostMount,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<FilePart>, JobError> {
        let bytes = self.read_file(mount, path).await?;
        let mut state = self.state();
        if state.whole_files {
            return Ok(None);
        }
        let end = range.end.min(bytes.len() as u64);
        let part = &bytes[range.start as usize..end as usize];
        state.parts_read += part.len() as u64;
        let file = FileReader::Fake(part.chunks(333_333).map(<[u8]>::to_vec).collect());
        Ok(Some(FilePart { file, of_bytes: bytes.len() as u64 }))
    }

    pub(crate) async fn read_file(
        &self,
        _mount: &HostMount,
        path: &str,
    ) -> Result<Vec<u8>, JobError> {
        let state = self.call("read_file")?;
        let file = state.files.get(path).cloned();
        file.ok_or_else(|| JobError::refused("not_on_target", format!("no file {path}")))
    }

    pub(crate) async fn write_file(
        &self,
        _mount: &HostMount,
        path: &str,
        bytes: &[u8],
    ) -> Result<(), JobError> {
        let mut state = self.call("write_file")?;
        assert!(state.dirs.contains(path.rsplit_once('/').unwrap().0));
        state.files.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    pub(crate) async fn shut_down(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        _within: Duration,
    ) -> Result<bool, JobError> {
        let mut state = self.call("shut_down")?;
        let deaf = state.deaf;
        let vm = state.vms.get_mut(vmx_path);
        let vm = vm.ok_or_else(|| JobError::conflict("vm_gone", "not registered"))?;
        vm.runs &= deaf;
        Ok(!vm.runs)
    }

    pub(crate) async fn settle(
        &self,
        _mount: &HostMount,
        vmx_path: &str,
        _within: Duration,
    ) -> Result<(), JobError> {
        let state = self.call("settle")?;
        let vm = state.vms.get(vmx_path);
        vm.map(drop).ok_or_else(|| JobError::conflict("vm_gone", "not registered"))
    }

    pub(crate) async fn merge(&self, vm: &str) -> Result<bool, JobError> {
        let mut ours = Vec::new();
        {
            let mut state = self.call("merge")?;
            let Some(vmx_path) =
                state.vms.iter().find(|(_, found)| found.id == vm).map(|(path, _)| path.clone())
            else {
                return Ok(false);
            };
            for (number, (key, delta)) in state.disks(&vmx_path).into_iter().enumerate() {
                if !delta.ends_with(DELTA) {
                    continue;
                }
                let base = state.parent(&delta)?;
                let mine = state.over.iter().filter(|(disk, ..)| *disk == number);
                let mine: Over = mine.cloned().collect();
                match state.exported(&base) {
                    Some(_) => ours.extend(mine.into_iter().map(|w| (state.disk(w.0), w))),
                    None => {
                        let flat =
                            state.files.get_mut(&base.replace(".vmdk", "-flat.vmdk")).unwrap();
                        for (_, at, bytes) in mine {
                            flat[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
                        }
                    }
                }
                let (export, file) = state.exported(&delta).unwrap();
                export.remove_tree(&file).unwrap();
                state.name_disk(&vmx_path, &key, base.rsplit_once('/').unwrap().1);
            }
            state.vms.get_mut(&vmx_path).unwrap().snapshot = false;
        }
        for (disk, (_, at, bytes)) in ours {
            disk.write(at, Bytes::from(bytes)).await.unwrap();
        }
        self.state().over.clear();
        Ok(true)
    }
}
