//! The guest's writes are put over the copy, by name, and the VM is registered where that is.

use std::path::Path;

use rekindle_image::Vmx;

use super::super::files::HAS_SNAPSHOTS;
use super::super::{Found, Work, files};
use super::chain;
use crate::JobError;
use crate::journal::DiskRecord;

impl Work<'_> {
    /// The descriptors of what the guest has written since the snapshot, each with its disk: exactly one over each.
    pub(super) async fn deltas(&self) -> Result<Vec<(&DiskRecord, String)>, JobError> {
        let vmx = parse(&self.exported_vmx().await?)?;
        let mut deltas = Vec::with_capacity(self.record.disks.len());
        for disk in &self.record.disks {
            let named = vmx.get(&format!("{}.fileName", disk.key)).unwrap_or_default();
            let name = named.rsplit('/').next().unwrap_or_default().to_owned();
            if name == disk.descriptor {
                let message = format!("{} is {name} after a snapshot", disk.key);
                return Err(JobError::conflict("no_snapshot", message));
            }
            let parent = chain::parent(&self.exported(&name).await?)?;
            if parent.rsplit('/').next() != Some(disk.descriptor.as_str()) {
                let message = format!(
                    "{} is {name}, over {parent}: remove the VM's snapshots first",
                    disk.key
                );
                return Err(JobError::conflict(HAS_SNAPSHOTS, message));
            }
            deltas.push((disk, name));
        }
        Ok(deltas)
    }

    /// What of them is still in the export.
    pub(super) async fn deltas_left(&self) -> Result<Vec<String>, JobError> {
        let vmx = parse(&self.exported_vmx().await?)?;
        let mut left = Vec::new();
        for disk in &self.record.disks {
            let named = vmx.get(&format!("{}.fileName", disk.key)).unwrap_or_default();
            let name = named.rsplit('/').next().unwrap_or_default().to_owned();
            let path = Path::new(&self.record.place.folder).join(&name);
            let there = files::read_exported(self.env, self.record, &path).await?.is_some();
            left.extend((there && name != disk.descriptor).then_some(name));
        }
        Ok(left)
    }

    /// Cut anywhere, all of it is done again: each file is written whole, the configuration last.
    pub(in super::super) async fn hand_over(&mut self) -> Result<Found, JobError> {
        let (link, mount, vmx_path) = self.link()?;
        let home = self.new_home()?;
        let deltas = self.deltas().await?;
        let mut vmx = parse(&self.exported_vmx().await?)?;
        link.unregister(mount, &vmx_path).await?;
        for (disk, delta) in &deltas {
            let copy = link.read_file(mount, &format!("{home}/{}", disk.descriptor)).await?;
            let parent = volume_path(&format!("{home}/{}", disk.descriptor));
            self.put_over(delta, &parent, &chain::content_id(&copy)?).await?;
            let ours = format!("[{}] {}/{delta}", mount.datastore, self.record.place.folder);
            vmx.set(&format!("{}.fileName", disk.key), volume_path(&ours));
        }
        // Where the swap file was is the old place; that the place is another must not be asked about.
        vmx.remove("sched.swap.derivedName");
        vmx.set("uuid.action", "keep");
        let path = files::nvram_path(self.record);
        if let Some(nvram) = files::read_exported(self.env, self.record, &path).await? {
            let name = format!("{home}/{}.nvram", self.record.place.folder);
            link.write_file(mount, &name, &nvram).await?;
        }
        let there = self.new_vmx()?;
        link.write_file(mount, &there, &vmx.to_bytes()).await?;
        let vm = link.register(mount, &there, &self.record.name, None).await?;
        self.put_on_port_groups(&vm).await?;
        Ok(Found { host_vm: Some(vm), ..Found::default() })
    }

    /// Puts what the guest wrote over this disk, which has this content.
    async fn put_over(&self, delta: &str, parent: &str, content: &str) -> Result<(), JobError> {
        let before = self.exported(delta).await?;
        let after = chain::over(&before, parent, content)?;
        match before == after {
            true => Ok(()),
            false => self.put_exported(delta, after).await,
        }
    }

    /// The VM is ours again, with what its guest wrote over our disks. What is thrown away is not put back.
    pub(in super::super) async fn take_back_hand_over(&mut self) -> Result<Found, JobError> {
        if self.has_migrated() {
            return Ok(Found::default());
        }
        let (link, mount, vmx_path) = self.link()?;
        link.unregister(mount, &self.new_vmx()?).await?;
        if self.record.plan.is_unwinding() {
            return Ok(Found::default());
        }
        for (disk, delta) in self.deltas().await? {
            let own = chain::content_id(&self.exported(&disk.descriptor).await?)?;
            self.put_over(&delta, &disk.descriptor, &own).await?;
        }
        let vm = link.register(mount, &vmx_path, &self.record.name, None).await?;
        self.put_on_port_groups(&vm).await?;
        Ok(Found { host_vm: Some(vm), ..Found::default() })
    }
}

fn parse(bytes: &[u8]) -> Result<Vmx, JobError> {
    Vmx::parse(bytes)
        .map_err(|e| JobError::conflict("bad_vmx", format!("the VM's configuration: {e}")))
}

/// The path as files name each other on a host, of `[datastore] dir/file`.
fn volume_path(path: &str) -> String {
    let (datastore, file) = path.trim_start_matches('[').split_once("] ").unwrap_or(("", path));
    format!("/vmfs/volumes/{datastore}/{file}")
}
