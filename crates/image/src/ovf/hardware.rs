use std::collections::{HashMap, HashSet};

use super::{Element, Files, OvfError, short};
use crate::Vmx;

/// A VM of vSphere has at most 10; what is past it is a mistake.
const MAX_NETWORKS: usize = 16;

/// A virtual hardware section on its way into a .vmx. CIM resource types: 3 processor, 4 memory, 5 IDE, 6 SCSI,
/// 10 Ethernet, 17 disk, 20 other storage controller.
pub(super) struct Hardware<'a> {
    vmx: &'a mut Vmx,
    files: &'a Files<'a>,
    /// Instance id to `scsi0`.
    controllers: HashMap<String, String>,
    units: HashSet<String>,
    networks: usize,
}

impl<'a> Hardware<'a> {
    pub(super) fn new(vmx: &'a mut Vmx, files: &'a Files<'a>) -> Self {
        let (controllers, units) = (HashMap::new(), HashSet::new());
        Self { vmx, files, controllers, units, networks: 0 }
    }

    pub(super) fn read(mut self, section: &Element) -> Result<(), OvfError> {
        self.set_version(section);
        let kinds = ["Item", "StorageItem", "EthernetPortItem"];
        let items = || section.children.iter().filter(|item| kinds.contains(&item.name.as_str()));
        for item in items() {
            match resource_type(item) {
                3 => self.set_processors(item)?,
                4 => self.set_memory(item)?,
                5 => self.add_controller(item, "ide", None),
                6 => self.add_controller(item, "scsi", Some(scsi_kind(item))),
                10 => self.add_network(item)?,
                20 if subtype(item).contains("nvme") => self.add_controller(item, "nvme", None),
                20 => self.add_controller(item, "sata", None),
                _ => {}
            }
        }
        // A disk may stand before its controller.
        items()
            .filter(|item| resource_type(item) == 17)
            .try_for_each(|item| self.add_disk(item))?;
        for setting in section.all("Config").chain(section.all("ExtraConfig")) {
            self.set_config(setting)?;
        }
        Ok(())
    }

    fn set_version(&mut self, section: &Element) {
        let kinds = section.child("System").and_then(|system| system.value("VirtualSystemType"));
        let versions = kinds.unwrap_or_default().split_whitespace();
        let newest =
            versions.filter_map(|kind| kind.strip_prefix("vmx-")?.parse::<u8>().ok()).max();
        if let Some(version) = newest {
            self.vmx.set("virtualHW.version", version.to_string());
        }
    }

    fn set_processors(&mut self, item: &Element) -> Result<(), OvfError> {
        let count = quantity(item)?;
        self.vmx.set("numvcpus", count.to_string());
        let cores = item.value("CoresPerSocket").and_then(|cores| cores.parse::<u64>().ok());
        if let Some(cores) = cores.filter(|cores| *cores > 0 && count.is_multiple_of(*cores)) {
            self.vmx.set("cpuid.coresPerSocket", cores.to_string());
        }
        Ok(())
    }

    fn set_memory(&mut self, item: &Element) -> Result<(), OvfError> {
        let unit = item.value("AllocationUnits").unwrap_or("byte * 2^20");
        let shift = unit_shift(unit)
            .ok_or_else(|| OvfError::new(format!("its memory is counted in {:?}", short(unit))))?;
        let bytes = quantity(item)?.checked_mul(1 << shift);
        let mib = bytes.map(|bytes| bytes >> 20).filter(|mib| (4..=64 << 20).contains(mib));
        let mib = mib.ok_or_else(|| OvfError::new("its memory is of an impossible size"))?;
        self.vmx.set("memSize", mib.to_string());
        Ok(())
    }

    fn add_controller(&mut self, item: &Element, bus: &str, kind: Option<&str>) {
        let Some(id) = item.value("InstanceID") else { return };
        let number = self.controllers.values().filter(|name| name.starts_with(bus)).count();
        let name = format!("{bus}{number}");
        // Nothing has more than four; a disk at one of these is then refused.
        if number >= 4 || self.controllers.contains_key(id) {
            return;
        }
        self.set_controller(&name, kind);
        self.controllers.insert(id.to_owned(), name);
    }

    fn set_controller(&mut self, name: &str, kind: Option<&str>) {
        self.vmx.set(&format!("{name}.present"), "TRUE");
        if let Some(kind) = kind {
            self.vmx.set(&format!("{name}.virtualDev"), kind);
        }
    }

    fn add_disk(&mut self, item: &Element) -> Result<(), OvfError> {
        let source = item.value("HostResource");
        let source = source.ok_or_else(|| OvfError::new("a disk has no HostResource"))?;
        let file = self.files.resolve(source)?;
        let controller = match item.value("Parent") {
            Some(id) => self.controllers.get(id).cloned().ok_or_else(|| {
                OvfError::new(format!("a disk is at the controller {:?}", short(id)))
            })?,
            None => {
                self.set_controller("scsi0", None);
                "scsi0".to_owned()
            }
        };
        let units = self.units_of(&controller);
        let wanted = item.value("AddressOnParent").and_then(|unit| unit.parse::<u32>().ok());
        let wanted = wanted.filter(|unit| *unit < units);
        let free = wanted.into_iter().chain(0..units).map(|unit| format!("{controller}:{unit}"));
        // 7 is the SCSI controller's own.
        let key = free
            .filter(|key| !(controller.starts_with("scsi") && key.ends_with(":7")))
            .find(|key| !self.units.contains(key))
            .ok_or_else(|| OvfError::new(format!("{controller} has too many disks")))?;
        let kind = if controller.starts_with("scsi") { "scsi-hardDisk" } else { "disk" };
        self.vmx.set(&format!("{key}.present"), "TRUE");
        self.vmx.set(&format!("{key}.deviceType"), kind);
        self.vmx.set(&format!("{key}.fileName"), file);
        self.units.insert(key);
        Ok(())
    }

    fn units_of(&self, controller: &str) -> u32 {
        match controller.get(..3) {
            Some("ide") => 2,
            Some("sat") => 30,
            Some("nvm") => 15,
            _ if self.vmx.get(&format!("{controller}.virtualDev")) == Some("pvscsi") => 64,
            _ => 16,
        }
    }

    fn add_network(&mut self, item: &Element) -> Result<(), OvfError> {
        let key = format!("ethernet{}", self.networks);
        self.networks += 1;
        if self.networks > MAX_NETWORKS {
            return Err(OvfError::new(format!("it has more than {MAX_NETWORKS} networks")));
        }
        let known = ["vmxnet3", "e1000e", "e1000"].into_iter();
        let kind = subtype(item);
        let kind = known.into_iter().find(|known| kind.contains(known)).unwrap_or("e1000");
        let connected = item.value("AutomaticAllocation") != Some("false");
        self.vmx.set(&format!("{key}.present"), "TRUE");
        self.vmx.set(&format!("{key}.virtualDev"), kind);
        self.vmx.set(&format!("{key}.addressType"), "generated");
        let network = item.value("Connection").unwrap_or("VM Network");
        self.vmx.set(&format!("{key}.networkName"), short(network));
        let connected = if connected { "TRUE" } else { "FALSE" };
        self.vmx.set(&format!("{key}.startConnected"), connected);
        Ok(())
    }

    fn set_config(&mut self, setting: &Element) -> Result<(), OvfError> {
        match (setting.attribute("key"), setting.attribute("value")) {
            (Some("firmware"), Some(kind @ ("efi" | "bios"))) => self.vmx.set("firmware", kind),
            (Some("bootOptions.efiSecureBootEnabled" | "uefi.secureBoot.enabled"), Some(on)) => {
                let on = if on.eq_ignore_ascii_case("true") { "TRUE" } else { "FALSE" };
                self.vmx.set("uefi.secureBoot.enabled", on);
            }
            (Some("nvram"), Some(file)) if file.starts_with("ovf:/file/") => {
                self.vmx.set("nvram", self.files.resolve(file)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn resource_type(item: &Element) -> u32 {
    item.value("ResourceType").and_then(|kind| kind.parse().ok()).unwrap_or(0)
}

fn subtype(item: &Element) -> String {
    item.value("ResourceSubType").unwrap_or_default().to_ascii_lowercase()
}

fn scsi_kind(item: &Element) -> &'static str {
    let kind = subtype(item);
    match kind.as_str() {
        "virtualscsi" | "pvscsi" => "pvscsi",
        "lsilogicsas" | "lsisas1068" => "lsisas1068",
        "buslogic" => "buslogic",
        _ => "lsilogic",
    }
}

fn quantity(item: &Element) -> Result<u64, OvfError> {
    let quantity = item.value("VirtualQuantity").and_then(|count| count.parse().ok());
    quantity.filter(|count| *count > 0).ok_or_else(|| OvfError::new("a quantity is no number"))
}

/// `byte * 2^20` and the names of older versions, as a power of two.
fn unit_shift(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_lowercase().replace(' ', "");
    match unit.as_str() {
        "byte" | "bytes" => Some(0),
        "kilobytes" | "kb" => Some(10),
        "megabytes" | "mb" => Some(20),
        "gigabytes" | "gb" => Some(30),
        _ => unit.strip_prefix("byte*2^")?.parse().ok().filter(|shift| *shift <= 40),
    }
}
