use super::Vmx;

/// A hard disk that a .vmx attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmxDisk {
    /// Where: `scsi0:0`, lower case.
    pub key: String,
    /// Its file as written: usually relative to the .vmx. Untrusted.
    pub file_name: String,
    /// The controller's kind: `pvscsi`, `lsilogic`, `lsisas1068`, `buslogic`, `ide`, `ahci`, `nvme`.
    pub adapter: String,
}

impl Vmx {
    /// The hard disks that are attached, in the order of the file. CD-ROMs, floppies, devices that are
    /// not present and disks without a file are left out.
    pub fn disks(&self) -> Vec<VmxDisk> {
        self.entries().filter_map(|(key, file)| self.disk(key, file)).collect()
    }

    fn disk(&self, key: &str, file_name: &str) -> Option<VmxDisk> {
        let key = key.to_ascii_lowercase();
        let device = key.strip_suffix(".filename")?;
        let (controller, _) = device_parts(device)?;
        // Workstation leaves out what it takes for granted, so only a clear FALSE counts.
        let absent = |key: &str| self.get(&format!("{key}.present")).is_some_and(|v| !is_true(v));
        if !self.is_true(&format!("{device}.present")) || absent(controller) {
            return None;
        }
        let kind = self.get(&format!("{device}.deviceType")).unwrap_or_default();
        is_hard_disk(kind, file_name).then(|| VmxDisk {
            key: device.to_owned(),
            file_name: file_name.to_owned(),
            adapter: self.adapter(controller),
        })
    }

    fn adapter(&self, controller: &str) -> String {
        let named = self.get(&format!("{controller}.virtualDev")).filter(|name| !name.is_empty());
        let by_bus = match controller.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "sata" => "ahci",
            "ide" => "ide",
            "nvme" => "nvme",
            _ => "lsilogic",
        };
        named.unwrap_or(by_bus).chars().take(64).collect::<String>().to_ascii_lowercase()
    }
}

fn is_true(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

/// `scsi0:12` is unit 12 of controller `scsi0`.
fn device_parts(device: &str) -> Option<(&str, &str)> {
    let (controller, unit) = device.split_once(':')?;
    let bus = controller.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = |text: &str| !text.is_empty() && text.parse::<u8>().is_ok();
    (["scsi", "sata", "ide", "nvme"].contains(&bus)
        && number(&controller[bus.len()..])
        && number(unit))
    .then_some((controller, unit))
}

fn is_hard_disk(kind: &str, file: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let file = file.trim().to_ascii_lowercase();
    let no_disk = ["cdrom", "floppy", "passthru"].iter().any(|word| kind.contains(word));
    let no_file = ["", "auto detect", "emptybackingstring"].contains(&file.as_str());
    // Older files leave the device type out of a CD-ROM with an image.
    let iso = kind.is_empty() && [".iso", ".flp"].iter().any(|end| file.ends_with(end));
    !no_disk && !no_file && !iso
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attached_hard_disks_count() {
        let text = r#"
scsi0.present = "TRUE"
scsi0.virtualDev = "PVSCSI"
scsi0:0.present = "TRUE"
SCSI0:0.fileName = "a.vmdk"
scsi0:1.fileName = "not-present.vmdk"
scsi0:2.present = "FALSE"
scsi0:2.fileName = "absent.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "cd.vmdk"
ide1:1.present = "TRUE"
ide1:1.fileName = "old.iso"
ide0:0.present = "TRUE"
ide0:0.fileName = "b.vmdk"
sata0:0.present = "true"
sata0:0.deviceType = "disk"
sata0:0.fileName = "sub/c.vmdk"
scsi1.present = "FALSE"
scsi1:0.present = "TRUE"
scsi1:0.fileName = "no-controller.vmdk"
floppy0.fileName = "f.flp"
scsi0:3.present = "TRUE"
scsi0:3.fileName = ""
scsi0:999.present = "TRUE"
scsi0:999.fileName = "x.vmdk"
"#;
        let disks = Vmx::parse(text.as_bytes()).unwrap().disks();
        let found: Vec<_> = disks
            .iter()
            .map(|d| (d.key.as_str(), d.file_name.as_str(), d.adapter.as_str()))
            .collect();
        let expected = [
            ("scsi0:0", "a.vmdk", "pvscsi"),
            ("ide0:0", "b.vmdk", "ide"),
            ("sata0:0", "sub/c.vmdk", "ahci"),
        ];
        assert_eq!(found, expected);
    }
}
