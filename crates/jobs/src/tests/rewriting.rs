//! `.vmx` files as they are found on hosts, rewritten (ESXI.md 3.3, row by row).

use rekindle_image::Vmx;

use std::collections::BTreeMap;

use crate::vmx::Rewrite;
use crate::{AdapterNetwork, AdapterRule, MacPolicy, Networks, SwapPolicy, UuidPolicy};

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

static NO_RULES: BTreeMap<String, AdapterRule> = BTreeMap::new();

fn plan(networks: &Networks, uuid: UuidPolicy) -> Rewrite<'static> {
    let mac = if uuid == UuidPolicy::Keep { MacPolicy::Keep } else { MacPolicy::New };
    Rewrite {
        name: "web (recovered)",
        stem: "web_1",
        networks: networks.clone(),
        adapters: &NO_RULES,
        mac,
        uuid,
        swap: SwapPolicy::Beside,
        redo: None,
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

/// The keys of [`ESXI`] that are changed or dropped when networks, MAC addresses and UUID are kept.
const TOUCHED: &[&str] = &[
    "nvram",
    "floppy0.startConnected",
    "floppy0.fileName",
    "floppy0.fileType",
    "scsi0:0.fileName",
    "scsi0:0.mode",
    "scsi0:0.ctkEnabled",
    "scsi0:0.redo",
    "scsi0:1.fileName",
    "scsi0:2.present",
    "sata0:0.deviceType",
    "sata0:0.fileName",
    "sata0:0.startConnected",
    "ethernet1.dvs.switchId",
    "ethernet1.dvs.portId",
    "ethernet1.dvs.portgroupId",
    "ethernet1.dvs.connectionId",
    "pciPassthru0.present",
    "displayName",
    "uuid.location",
    "vc.uuid",
    "migrate.hostLog",
    "sched.swap.derivedName",
    "sched.swap.dir",
    "workingDir",
    "snapshot.redoNotWithParent",
    "checkpoint.vmState",
    "numa.autosize.vcpu.maxPerVirtualNode",
    "numa.autosize.cookie",
    "extendedConfigFile",
    "vmotion.checkpointFBSize",
    "cleanShutdown",
    "ctkEnabled",
];

/// Rules for the two adapters.
fn rules(of: [AdapterRule; 2]) -> BTreeMap<String, AdapterRule> {
    ["ethernet0", "ethernet1"].map(str::to_owned).into_iter().zip(of).collect()
}

fn apply(plan: &Rewrite<'_>) -> Vmx {
    Vmx::parse(&plan.apply(ESXI).unwrap().bytes).unwrap()
}

#[test]
fn each_adapter_may_have_a_rule_of_its_own() {
    let of = |network| AdapterRule { network: Some(network), mac: None };
    let connect = AdapterNetwork::Connect("Lab".into());
    let rules = rules([of(AdapterNetwork::Remove), of(connect)]);
    let vmx = apply(&Rewrite { adapters: &rules, ..plan(&Networks::Disconnect, UuidPolicy::Keep) });
    check(
        &vmx,
        &[
            ("ethernet0.present", Some("FALSE")),
            ("ethernet0.virtualDev", Some("vmxnet3")),
            ("ethernet1.present", Some("TRUE")),
            ("ethernet1.networkName", Some("Lab")),
            ("ethernet1.startConnected", None),
            ("ethernet1.dvs.portId", None),
        ],
    );
}

#[test]
fn a_rule_wins_over_what_holds_for_all() {
    let keep = AdapterRule { network: Some(AdapterNetwork::Keep), mac: Some(MacPolicy::Keep) };
    let rules = rules([keep, AdapterRule::default()]);
    let vmx = apply(&Rewrite { adapters: &rules, ..plan(&Networks::Remove, UuidPolicy::New) });
    check(
        &vmx,
        &[
            ("ethernet0.present", Some("TRUE")),
            ("ethernet0.startConnected", None),
            ("ethernet0.address", Some("00:50:56:aa:bb:cc")),
            ("ethernet1.present", Some("FALSE")),
        ],
    );
}

#[test]
fn an_adapter_that_is_not_there_is_refused() {
    let rules = [("ethernet7".to_owned(), AdapterRule::default())].into();
    let plan = Rewrite { adapters: &rules, ..plan(&Networks::Keep, UuidPolicy::Keep) };
    assert_eq!(plan.apply(ESXI).unwrap_err().code(), "unknown_adapter");
}

/// Keep or new, for a VM that keeps its UUID and for one that is copied.
#[test]
fn mac_addresses_are_kept_or_new() {
    let of = |mac, uuid| apply(&Rewrite { mac, ..plan(&Networks::Keep, uuid) });
    let generated = "ethernet0.generatedAddress";
    let mac = Some("00:50:56:aa:bb:cc");
    check(
        &of(MacPolicy::Keep, UuidPolicy::Keep),
        &[(generated, mac), ("ethernet0.addressType", Some("vpx")), ("ethernet0.address", None)],
    );
    check(
        &of(MacPolicy::Keep, UuidPolicy::New),
        &[
            (generated, None),
            ("ethernet0.generatedAddressOffset", None),
            ("ethernet0.addressType", Some("static")),
            ("ethernet0.address", mac),
            ("ethernet0.checkMACAddress", Some("FALSE")),
        ],
    );
    for uuid in [UuidPolicy::Keep, UuidPolicy::New] {
        check(
            &of(MacPolicy::New, uuid),
            &[
                (generated, None),
                ("ethernet0.generatedAddressOffset", None),
                ("ethernet0.addressType", Some("generated")),
                ("ethernet0.address", None),
            ],
        );
    }
    let fixed = format!(
        "{ESXI}ethernet1.addressType = \"static\"\nethernet1.address = \"02:00:00:00:00:01\"\n"
    );
    let kept = plan(&Networks::Keep, UuidPolicy::Keep).apply(&fixed).unwrap();
    check(&Vmx::parse(&kept.bytes).unwrap(), &[("ethernet1.address", Some("02:00:00:00:00:01"))]);
    let copied = plan(&Networks::Keep, UuidPolicy::New).apply(&fixed).unwrap();
    check(&Vmx::parse(&copied.bytes).unwrap(), &[("ethernet1.address", None)]);
}

#[test]
fn adapters_are_taken_out() {
    let (vmx, _) = rewrite(&Networks::Remove, UuidPolicy::Keep);
    check(&vmx, &[("ethernet0.present", Some("FALSE")), ("ethernet1.present", Some("FALSE"))]);
}

#[test]
fn swap_is_placed_by_policy() {
    let of = |swap| apply(&Rewrite { swap, ..plan(&Networks::Keep, UuidPolicy::Keep) });
    let own = "sched.swap.vmxSwapEnabled";
    check(&of(SwapPolicy::Beside), &[("sched.swap.dir", None), (own, None)]);
    check(
        &of(SwapPolicy::Datastore("fast one".into())),
        &[("sched.swap.dir", Some("/vmfs/volumes/fast one")), (own, Some("FALSE"))],
    );
    check(
        &of(SwapPolicy::Reserved),
        &[
            ("sched.mem.min", Some("4096")),
            ("sched.mem.pin", Some("TRUE")),
            ("sched.swap.dir", None),
            (own, Some("FALSE")),
        ],
    );
    let reserved =
        Rewrite { swap: SwapPolicy::Reserved, ..plan(&Networks::Keep, UuidPolicy::Keep) };
    let without = ESXI.replace("memSize = \"4096\"\n", "");
    assert_eq!(reserved.apply(&without).unwrap_err().code(), "bad_vmx");
}

#[test]
fn what_the_guest_writes_may_go_elsewhere() {
    let redo = Some("/vmfs/volumes/fast/rekindle-1".to_owned());
    let vmx = apply(&Rewrite { redo, ..plan(&Networks::Keep, UuidPolicy::Keep) });
    check(
        &vmx,
        &[
            ("workingDir", Some("/vmfs/volumes/fast/rekindle-1")),
            ("snapshot.redoNotWithParent", Some("TRUE")),
        ],
    );
}

#[test]
fn a_medium_without_a_type_is_a_cd() {
    let text = format!("{ESXI}ide0:0.present = \"TRUE\"\nide0:0.fileName = \"/iso/Old.ISO\"\n");
    let rewritten = plan(&Networks::Keep, UuidPolicy::Keep).apply(&text).unwrap();
    let vmx = Vmx::parse(&rewritten.bytes).unwrap();
    check(
        &vmx,
        &[
            ("ide0:0.present", Some("TRUE")),
            ("ide0:0.fileName", Some("emptyBackingString")),
            ("ide0:0.startConnected", Some("FALSE")),
        ],
    );
    assert!(!rewritten.notes.iter().any(|note| note.contains("ide0:0")), "{:?}", rewritten.notes);
}

/// Every line of the source is in the result as it was to the byte, or its key is one that a row of
/// the table names.
#[test]
fn only_the_rows_of_the_table_touch_a_line() {
    let text = ESXI.replace("memSize = \"4096\"", "MemSize=  \"4096\" \t\r")
        + "# a comment \r\n\nmigrate.encryptionMode = \"opportunistic\"\n\
           msg.autoAnswer = \"TRUE\"\nsomething.new = \"|22\"\n";
    let rewritten = plan(&Networks::Keep, UuidPolicy::Keep).apply(&text).unwrap();
    let after = String::from_utf8(rewritten.bytes).unwrap();
    let kept: Vec<&str> = after.split('\n').collect();
    let gone: Vec<&str> = text
        .split('\n')
        .filter(|line| !kept.contains(line))
        .map(|line| line.split([' ', '=']).next().unwrap())
        .collect();
    assert_eq!(gone, TOUCHED);
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
