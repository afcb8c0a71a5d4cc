//! The smallest VM that can hold disks: nobody runs it, its disks are attached to another.

use rekindle_image::Vmx;

use super::{Rewrite, parse};
use crate::JobError;

/// Its memory, in MB.
const MEMORY: &str = "100";

impl Rewrite<'_> {
    /// The text of a VM of 100 MB, one processor, one video card and the disks of the plan, on
    /// controllers as they had in `original`.
    pub(crate) fn minimum(&self, original: &str) -> Result<String, JobError> {
        let original = parse(original)?;
        let mut vmx = Vmx::blank(self.name);
        vmx.set("memSize", MEMORY);
        vmx.set("numvcpus", "1");
        let keep = |vmx: &mut Vmx, key: &str| {
            if let Some(value) = original.get(key) {
                vmx.set(key, value);
            }
        };
        keep(&mut vmx, "virtualHW.version");
        for (disk, _) in &self.disks {
            let controller = disk.split(':').next().unwrap_or(disk);
            vmx.set(&format!("{controller}.present"), "TRUE");
            keep(&mut vmx, &format!("{controller}.virtualDev"));
            keep(&mut vmx, &format!("{disk}.deviceType"));
        }
        Ok(vmx.to_text())
    }
}
