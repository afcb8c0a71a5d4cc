//! OVF descriptors become configurations, and damaged ones and hostile archives end in an error.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/images.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rekindle_image::{Folder, Image, ImageError, Vmx};
use support::{MIB, expected, write_raw};
use tempfile::TempDir;

/// As vSphere exports a VM, with a disk before its controller.
const VSPHERE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment -->
<Envelope vmw:buildId="build-1" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="web%20server-disk1.vmdk" ovf:id="file1" ovf:size="1"/>
    <File ovf:href="disk2.vmdk" ovf:id="file2"/>
    <File ovf:href="web.nvram" ovf:id="file3"/>
  </References>
  <DiskSection>
    <Disk ovf:capacity="16" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1"/>
    <Disk ovf:capacity="5" ovf:diskId="vmdisk2" ovf:fileRef="file2"/>
  </DiskSection>
  <VirtualSystem ovf:id="web">
    <Name>Web &amp; &#x22;Mail&#34;</Name>
    <OperatingSystemSection ovf:id="112" vmw:osType="windows9Server64Guest"><Info/></OperatingSystemSection>
    <VirtualHardwareSection>
      <System><vssd:VirtualSystemType xmlns:vssd="v">vmx-09 vmx-19</vssd:VirtualSystemType></System>
      <Item><rasd:InstanceID>9</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>4</rasd:Parent>
        <rasd:AddressOnParent>3</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity>
        <vmw:CoresPerSocket ovf:required="false">2</vmw:CoresPerSocket></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>8192</rasd:VirtualQuantity></Item>
      <Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
      <Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceSubType>vmware.sata.ahci</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
      <Item><rasd:InstanceID>10</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>5</rasd:Parent>
        <rasd:HostResource>ovf:/disk/vmdisk2</rasd:HostResource></Item>
      <Item><rasd:InstanceID>11</rasd:InstanceID><rasd:ResourceType>15</rasd:ResourceType><rasd:Parent>5</rasd:Parent></Item>
      <Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>DMZ</rasd:Connection>
        <rasd:InstanceID>12</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:ExtraConfig vmw:key="nvram" vmw:value="ovf:/file/file3"/>
      <vmw:ExtraConfig vmw:key="scsi0:5.fileName" vmw:value="/etc/passwd"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#;

fn disks(vmx: &Vmx) -> Vec<(String, String, String)> {
    vmx.disks().into_iter().map(|disk| (disk.key, disk.file_name, disk.adapter)).collect()
}

#[test]
fn a_descriptor_of_vsphere_becomes_a_configuration() {
    let vmx = Vmx::from_ovf(VSPHERE.as_bytes()).unwrap();
    for (key, value) in [
        ("displayName", "Web & \"Mail\""),
        ("guestOS", "windows9srv-64"),
        ("virtualHW.version", "19"),
        ("numvcpus", "4"),
        ("cpuid.coresPerSocket", "2"),
        ("memSize", "8192"),
        ("firmware", "efi"),
        ("nvram", "web.nvram"),
        ("ethernet0.virtualDev", "vmxnet3"),
        ("ethernet0.networkName", "DMZ"),
        ("ethernet0.startConnected", "TRUE"),
    ] {
        assert_eq!(vmx.get(key), Some(value), "{key}");
    }
    let found = disks(&vmx);
    let want = [("scsi0:3", "web server-disk1.vmdk", "pvscsi"), ("sata0:0", "disk2.vmdk", "ahci")];
    assert_eq!(found, want.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    assert_eq!(vmx.get("scsi0:5.fileName"), None, "settings of a hypervisor are left out");
    assert_eq!(Vmx::parse(&vmx.to_bytes()).unwrap().get("displayName"), Some("Web & \"Mail\""));
}

#[test]
fn a_descriptor_of_virtualbox_becomes_a_configuration() {
    let text = VSPHERE
        .replace("vmx-09 vmx-19", "virtualbox-2.2")
        .replace("ovf:/disk/", "/disk/")
        .replace("byte * 2^20", "MegaBytes")
        .replace("vmware.sata.ahci", "AHCI")
        .replace("VirtualSCSI", "lsilogic")
        .replace(" vmw:osType=\"windows9Server64Guest\"", "")
        .replace("<Item>", "<StorageItem>")
        .replace("</Item>", "</StorageItem>");
    let vmx = Vmx::from_ovf(text.as_bytes()).unwrap();
    assert_eq!(vmx.get("virtualHW.version"), Some("13"));
    assert_eq!((vmx.get("guestOS"), vmx.get("memSize")), (Some("other-64"), Some("8192")));
    assert_eq!(disks(&vmx).len(), 2);
    assert_eq!(disks(&vmx)[0].2, "lsilogic");
}

#[test]
fn what_an_ovf_cannot_say_here_is_refused() {
    let deep = format!("<Envelope>{}", "<a>".repeat(100));
    let wide = format!("<Envelope>{}</Envelope>", "<a/>".repeat(100_000));
    let many: String = (0..100).map(|n| format!(" a{n}=\"\"")).collect();
    for (from, to, why) in [
        ("<References>", "<VirtualSystemCollection/><References>", "exactly one VM"),
        ("ovf:size=\"1\"", "ovf:compression=\"gzip\"", "unpack it"),
        ("ovf:size=\"1\"", "ovf:chunkSize=\"7\"", "unpack it"),
        ("ovf:fileRef=\"file1\"", "", "is empty"),
        ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file1\" ovf:parentRef=\"x\"", "has a parent"),
        ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file9\"", "no file"),
        ("/vmdisk1<", "/vmdisk9<", "no disk"),
        ("<rasd:Parent>4<", "<rasd:Parent>44<", "controller"),
        (">8192<", ">99999999999999999999<", "quantity"),
        (">8192<", ">9999999999999999999<", "impossible"),
        ("byte * 2^20", "furlong", "counted in"),
        ("<!-- a comment -->", "<!DOCTYPE x [<!ENTITY y \"z\">]>", "document type"),
        ("&amp;", "&y;", "entity"),
        ("</Envelope>", "", "too early"),
        ("<Envelope vmw", &deep, "in one another"),
        ("</Envelope>", &wide, "elements"),
        ("<References>", &format!("<References{many}>"), "one too many"),
    ] {
        let error =
            Vmx::from_ovf(VSPHERE.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{from} to {to:.60}: {error}");
    }
    let long = VSPHERE.replace("disk2.vmdk", &"d".repeat(600));
    assert!(Vmx::from_ovf(long.as_bytes()).is_err());
    assert!(Vmx::from_ovf(&vec![b' '; 5 << 20]).is_err());
    assert!(Vmx::from_ovf(b"\xff\xfe").is_err());
}

/// A tar file of a disk under a long name and a short one, as `tar` writes it.
fn archive(dir: &TempDir, format: &str) -> Vec<u8> {
    let long = format!("{}.img", "n".repeat(120));
    write_raw(&dir.path().join(&long), 3 * MIB + 512);
    write_raw(&dir.path().join("b.img"), MIB);
    let out = Command::new("tar")
        .args(["-C", dir.path().to_str().unwrap(), "-cf", "-", &format!("--format={format}")])
        .args(["./b.img", &long])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn members_of_an_archive_are_read_where_they_lie() {
    for format in ["gnu", "pax"] {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("vm.ova"), archive(&dir, format)).unwrap();
        let folder = Folder::open(dir.path()).unwrap().open_archive(Path::new("vm.ova")).unwrap();
        let names: Vec<_> = folder.members().map(Path::to_owned).collect();
        assert_eq!(names.len(), 2, "{format}");
        for (name, size) in [(names[0].as_path(), MIB), (&names[1], 3 * MIB + 512)] {
            let image = Image::open(&folder, name).unwrap();
            assert_eq!(image.size(), size);
            let mut found = vec![1; size as usize];
            image.read_at(0, &mut found).unwrap();
            assert!(found == expected(0, found.len()), "{format}");
            let data = image.next_data(0).unwrap().unwrap();
            assert!(data.start == 0 && data.end <= size);
        }
        let missing = Image::open(&folder, Path::new("c.img")).unwrap_err();
        assert!(matches!(missing, ImageError::NotFound { .. }), "{missing}");
        for name in ["../vm.ova", "/etc/passwd"] {
            let error = Image::open(&folder, Path::new(name)).unwrap_err();
            assert!(matches!(error, ImageError::Escapes { .. }), "{name}: {error}");
        }
    }
}

#[test]
fn an_archive_cut_short_or_with_one_name_twice_is_refused() {
    let dir = TempDir::new().unwrap();
    let whole = archive(&dir, "gnu");
    let first = MIB as usize + 512;
    let twice = [&whole[..first], &whole[..first], &[0; 1024]].concat();
    for bytes in [&whole[..first], &whole[..first + 100], &whole[..700], &twice] {
        std::fs::write(dir.path().join("vm.ova"), bytes).unwrap();
        let error =
            Folder::open(dir.path()).unwrap().open_archive(Path::new("vm.ova")).unwrap_err();
        assert!(matches!(error, ImageError::Corrupt { .. }), "{}: {error}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_descriptor_panics(changes in prop::collection::vec((0..VSPHERE.len(), any::<u8>()), 1..8)) {
        let mut bytes = VSPHERE.as_bytes().to_vec();
        changes.iter().for_each(|(at, value)| bytes[*at] = *value);
        if let Ok(vmx) = Vmx::from_ovf(&bytes) {
            let again = Vmx::parse(&vmx.to_bytes()).unwrap();
            prop_assert_eq!(again.disks(), vmx.disks());
        }
    }

    #[test]
    fn no_archive_panics(changes in prop::collection::vec((0usize..512, 0usize..3, any::<u8>()), 1..6), sealed: bool) {
        let dir = TempDir::new().unwrap();
        // Three headers: a long name's, its member's, and the second member's.
        let mut bytes = tar_of(&["a".repeat(200).as_str(), "b"]);
        let headers = [0, 1024, 1536];
        for (at, header, value) in changes {
            bytes[headers[header] + at] = value;
        }
        for at in headers.into_iter().filter(|_| sealed) {
            bytes[at + 148..at + 156].fill(b' ');
            let sum: u32 = bytes[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
            bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        std::fs::write(dir.path().join("vm.ova"), &bytes).unwrap();
        if let Ok(folder) = Folder::open(dir.path()).unwrap().open_archive(Path::new("vm.ova")) {
            for name in folder.members() {
                let _ = Image::open(&folder, name);
            }
        }
    }
}

/// Empty members, names over 100 bytes by a GNU header before.
fn tar_of(names: &[&str]) -> Vec<u8> {
    let header = |name: &str, kind: u8, len: usize| {
        let mut header = vec![0; 512];
        let name = &name.as_bytes()[..name.len().min(100)];
        header[..name.len()].copy_from_slice(name);
        header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    };
    let mut out = vec![];
    for name in names {
        if name.len() > 100 {
            out.extend(header("././@LongLink", b'L', name.len()));
            out.extend(name.as_bytes());
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.extend(header(name, b'0', 0));
    }
    out.resize(out.len() + 1024, 0);
    out
}
