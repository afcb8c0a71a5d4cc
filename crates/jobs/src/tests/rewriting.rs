//! `.vmx` files as they are found on hosts, rewritten (ESXI.md 3.3, row by row).

use rekindle_image::Vmx;

use crate::vmx::Rewrite;
use crate::{Networks, UuidPolicy};

/// As ESXi 7 leaves it, with a CD, a floppy, a serial port, change tracking and a distributed switch.
const ESXI: &str = r#".encoding = "UTF-8"
config.version = "8"
virtualHW.version = "17"
nvram = "web.nvram"
pciBridge0.present = "TRUE"
svga.present = "TRUE"
floppy0.startConnected = "TRUE"
floppy0.present = "TRUE"
floppy0.fileName = "/vmfs/volumes/5f-aa/boot.flp"
floppy0.fileType = "file"
memSize = "4096"
powerType.suspend = "soft"
tools.upgrade.policy = "manual"
sched.cpu.units = "mhz"
vm.createDate = "1650000000000000"
scsi0.virtualDev = "pvscsi"
scsi0.present = "TRUE"
sata0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "/vmfs/volumes/5f-aa/web/web-000002.vmdk"
scsi0:0.mode = "independent-persistent"
scsi0:0.ctkEnabled = "TRUE"
scsi0:0.redo = ""
sched.scsi0:0.shares = "normal"
scsi0:0.present = "TRUE"
scsi0:1.deviceType = "scsi-hardDisk"
scsi0:1.fileName = "web_1.vmdk"
scsi0:1.present = "TRUE"
scsi0:2.fileName = "scratch.vmdk"
scsi0:2.present = "TRUE"
sata0:0.deviceType = "cdrom-image"
sata0:0.fileName = "/vmfs/volumes/5f-aa/iso/debian.iso"
sata0:0.startConnected = "TRUE"
sata0:0.present = "TRUE"
serial0.present = "TRUE"
serial0.fileType = "device"
serial0.fileName = "/dev/char/serial/uart0"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:aa:bb:cc"
ethernet0.generatedAddressOffset = "0"
ethernet0.present = "TRUE"
ethernet1.virtualDev = "vmxnet3"
ethernet1.dvs.switchId = "50 1a 2b"
ethernet1.dvs.portId = "17"
ethernet1.dvs.portgroupId = "dvportgroup-42"
ethernet1.dvs.connectionId = "99"
ethernet1.present = "TRUE"
pciPassthru0.present = "TRUE"
pciPassthru0.deviceId = "0x1eb8"
displayName = "web"
guestOS = "debian10-64"
disk.EnableUUID = "TRUE"
toolScripts.afterPowerOn = "TRUE"
uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
uuid.location = "56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 01"
vc.uuid = "50 1a 00 00 00 00 00 00-00 00 00 00 00 00 00 02"
migrate.hostLog = "web-12ab.hlog"
sched.swap.derivedName = "/vmfs/volumes/5f-aa/web/web-12ab.vswp"
sched.swap.dir = "/vmfs/volumes/swap"
workingDir = "/vmfs/volumes/redo"
snapshot.redoNotWithParent = "TRUE"
checkpoint.vmState = "web.vmss"
numa.autosize.vcpu.maxPerVirtualNode = "2"
numa.autosize.cookie = "20012"
extendedConfigFile = "web.vmxf"
vmotion.checkpointFBSize = "16777216"
cleanShutdown = "FALSE"
ctkEnabled = "TRUE"
guestinfo.custom = "keep |22me|22"
"#;

fn plan(networks: &Networks, uuid: UuidPolicy) -> Rewrite<'_> {
    Rewrite {
        name: "web (recovered)",
        stem: "web_1",
        networks,
        uuid,
        disks: vec![("scsi0:0", "web_1.vmdk"), ("scsi0:1", "web_1_1.vmdk")],
        nvram: true,
    }
}

fn rewrite(networks: &Networks, uuid: UuidPolicy) -> (Vmx, Vec<String>) {
    let rewritten = plan(networks, uuid).apply(ESXI).unwrap();
    (Vmx::parse(&rewritten.bytes).unwrap(), rewritten.notes)
}

#[track_caller]
fn check(vmx: &Vmx, wanted: &[(&str, Option<&str>)]) {
    for (key, value) in wanted {
        assert_eq!(vmx.get(key), *value, "{key}");
    }
}

#[test]
fn each_row_of_the_table_is_done() {
    let (vmx, notes) = rewrite(&Networks::Keep, UuidPolicy::Keep);
    check(
        &vmx,
        &[
            ("displayName", Some("web (recovered)")),
            ("uuid.action", Some("keep")),
            ("uuid.bios", Some("56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee")),
            ("uuid.location", None),
            ("vc.uuid", None),
            ("scsi0:0.fileName", Some("web_1.vmdk")),
            ("scsi0:0.mode", Some("persistent")),
            ("scsi0:0.ctkEnabled", Some("FALSE")),
            ("scsi0:0.redo", None),
            ("ctkEnabled", Some("FALSE")),
            ("scsi0:1.fileName", Some("web_1_1.vmdk")),
            ("scsi0:2.present", Some("FALSE")),
            ("sata0:0.fileName", Some("emptyBackingString")),
            ("sata0:0.deviceType", Some("atapi-cdrom")),
            ("sata0:0.startConnected", Some("FALSE")),
            ("floppy0.startConnected", Some("FALSE")),
            ("floppy0.fileName", Some("vmware-null-remote-floppy")),
            ("serial0.startConnected", Some("FALSE")),
            ("pciPassthru0.present", Some("FALSE")),
            ("nvram", Some("web_1.nvram")),
            ("workingDir", None),
            ("snapshot.redoNotWithParent", None),
            ("sched.swap.dir", None),
            ("sched.swap.derivedName", None),
            ("migrate.hostLog", None),
            ("numa.autosize.cookie", None),
            ("cleanShutdown", None),
            ("checkpoint.vmState", None),
            ("extendedConfigFile", None),
            ("vmotion.checkpointFBSize", None),
            ("ethernet0.networkName", Some("VM Network")),
            ("ethernet0.generatedAddress", Some("00:50:56:aa:bb:cc")),
            ("ethernet0.startConnected", None),
            ("ethernet1.dvs.portId", None),
            ("ethernet1.dvs.switchId", None),
            ("ethernet1.startConnected", Some("FALSE")),
        ],
    );
    assert_eq!(notes.len(), 3, "{notes:?}");
}

#[test]
fn what_has_no_row_stays_byte_for_byte() {
    let text =
        String::from_utf8(plan(&Networks::Keep, UuidPolicy::Keep).apply(ESXI).unwrap().bytes)
            .unwrap();
    for line in [
        "disk.EnableUUID = \"TRUE\"",
        "guestinfo.custom = \"keep |22me|22\"",
        "scsi0.virtualDev = \"pvscsi\"",
        "sched.scsi0:0.shares = \"normal\"",
        "vm.createDate = \"1650000000000000\"",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    assert!(!text.contains("/vmfs/volumes/5f-aa/web"), "{text}");
}

#[test]
fn a_copy_gets_another_identity_and_no_network() {
    let (vmx, _) = rewrite(&Networks::Disconnect, UuidPolicy::New);
    check(
        &vmx,
        &[
            ("uuid.action", Some("create")),
            ("uuid.bios", None),
            ("ethernet0.startConnected", Some("FALSE")),
            ("ethernet0.generatedAddress", None),
            ("ethernet0.networkName", Some("VM Network")),
            ("ethernet1.startConnected", Some("FALSE")),
        ],
    );
}

#[test]
fn networks_are_mapped_by_name() {
    let map = Networks::Map([("VM Network".to_owned(), "Lab |1|".to_owned())].into());
    let (vmx, _) = rewrite(&map, UuidPolicy::Keep);
    check(
        &vmx,
        &[
            ("ethernet0.networkName", Some("Lab |1|")),
            ("ethernet0.startConnected", None),
            ("ethernet1.startConnected", Some("FALSE")),
        ],
    );
}

#[test]
fn rewriting_again_changes_nothing() {
    let plan = plan(&Networks::Disconnect, UuidPolicy::New);
    let once = plan.apply(ESXI).unwrap();
    let twice = plan.apply(std::str::from_utf8(&once.bytes).unwrap()).unwrap();
    assert_eq!(once.bytes, twice.bytes);
    assert!(twice.notes.is_empty(), "{:?}", twice.notes);
}

#[test]
fn vms_that_need_a_key_are_refused() {
    for line in [
        "vtpm.present = \"TRUE\"",
        "encryption.keySafe = \"vmware:key/list/(pair/(fqid/<VMWARE-NULL>))\"",
        "encryption.data = \"abc\"",
        "dataFileKey = \"abc\"",
    ] {
        let text = format!("{ESXI}{line}\n");
        let refused = plan(&Networks::Keep, UuidPolicy::Keep).apply(&text).unwrap_err();
        assert_eq!(refused.code(), "encrypted_vm", "{line}");
        assert!(refused.to_string().contains("key provider"), "{refused}");
    }
    let without = format!("{ESXI}vtpm.present = \"FALSE\"\n");
    plan(&Networks::Keep, UuidPolicy::Keep).apply(&without).unwrap();
}

#[test]
fn what_is_no_configuration_is_refused() {
    let refused = plan(&Networks::Keep, UuidPolicy::Keep).apply("\u{1}nonsense").unwrap_err();
    assert_eq!(refused.code(), "bad_vmx");
}
