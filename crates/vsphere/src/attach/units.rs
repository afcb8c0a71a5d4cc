//! The places that a VM's SCSI controllers have for disks.

use std::collections::BTreeSet;

use crate::xml::Element;

/// Units of a SCSI bus: 0 to 15. Some controllers of late have 64, which not every host gives.
const UNITS: i32 = 16;
/// The controller's own unit where it names none.
const OWN_UNIT: i32 = 7;

const SCSI: &[&str] = &[
    "ParaVirtualSCSIController",
    "VirtualLsiLogicController",
    "VirtualLsiLogicSASController",
    "VirtualBusLogicController",
];

/// A place for a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The controller's device key.
    pub(super) controller: i32,
    pub(super) number: i32,
}

fn number(device: &Element, name: &str) -> Option<i32> {
    device.text_at(&[name])?.parse().ok()
}

fn is_scsi(device: &Element) -> bool {
    device.xsi_type.as_deref().is_some_and(|kind| SCSI.contains(&kind))
}

/// The SCSI controllers that share their bus with no other VM, by bus.
pub(super) fn units_of(devices: &[Element]) -> impl Iterator<Item = &Element> {
    let own = |device: &&Element| {
        is_scsi(device) && matches!(device.text_at(&["sharedBus"]), None | Some("noSharing"))
    };
    let mut controllers: Vec<&Element> = devices.iter().filter(own).collect();
    controllers.sort_by_key(|controller| number(controller, "busNumber"));
    controllers.into_iter()
}

/// All units that nothing is on, in the order in which a person would take them.
pub(super) fn free_units(devices: &[Element]) -> Vec<Unit> {
    let mut free = Vec::new();
    for controller in units_of(devices) {
        let Some(key) = number(controller, "key") else { continue };
        let on_it = devices.iter().filter(|device| number(device, "controllerKey") == Some(key));
        let mut used: BTreeSet<i32> = on_it.filter_map(|d| number(d, "unitNumber")).collect();
        used.insert(number(controller, "scsiCtlrUnitNumber").unwrap_or(OWN_UNIT));
        let units = (0..UNITS).filter(|unit| !used.contains(unit));
        free.extend(units.map(|number| Unit { controller: key, number }));
    }
    free
}

/// Where a device is: `scsi0:1`.
pub(super) fn place(devices: &[Element], device: &Element) -> Option<String> {
    let key = number(device, "controllerKey")?;
    let controller = devices.iter().find(|other| number(other, "key") == Some(key))?;
    let bus = number(controller, "busNumber")?;
    Some(format!("scsi{bus}:{}", number(device, "unitNumber")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn devices(text: &str) -> Vec<Element> {
        xml::parse(format!("<list>{text}</list>").as_bytes()).unwrap().children
    }

    fn controller(kind: &str, key: i32, bus: i32, more: &str) -> String {
        let space = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"";
        format!(
            "<d {space} xsi:type=\"{kind}\"><key>{key}</key><busNumber>{bus}</busNumber>{more}</d>"
        )
    }

    fn disk(controller: i32, unit: i32) -> String {
        format!("<d><controllerKey>{controller}</controllerKey><unitNumber>{unit}</unitNumber></d>")
    }

    #[test]
    fn a_unit_is_free_if_nothing_is_on_it() {
        let lsi = controller("VirtualLsiLogicController", 1000, 0, "");
        let text = lsi + &disk(1000, 0) + &disk(1000, 2) + &disk(200, 1);
        let free = free_units(&devices(&text));
        let numbers: Vec<i32> = free.iter().map(|unit| unit.number).collect();
        assert_eq!(numbers, [1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert!(free.iter().all(|unit| unit.controller == 1000));
    }

    #[test]
    fn no_other_bus_and_none_that_is_shared_is_used() {
        let shared = "<sharedBus>virtualSharing</sharedBus>";
        let own = "<sharedBus>noSharing</sharedBus><scsiCtlrUnitNumber>7</scsiCtlrUnitNumber>";
        let text = controller("ParaVirtualSCSIController", 1001, 1, own)
            + &controller("ParaVirtualSCSIController", 1000, 0, shared)
            + &controller("VirtualAHCIController", 15000, 0, "")
            + &(0..15).map(|unit| disk(1001, unit)).collect::<String>();
        let devices = devices(&text);
        assert_eq!(free_units(&devices), [Unit { controller: 1001, number: 15 }]);
        assert_eq!(place(&devices, &devices[5]).unwrap(), "scsi1:2");
    }
}
