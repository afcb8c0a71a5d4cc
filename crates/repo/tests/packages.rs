//! OVF packages go in as a .vmx does: from a directory, and as one OVA that is read in place.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use rekindle_repo::{PointManifest, RepoError, Repository};
use support::{MIB, create, expected, open_disk, qemu_img, read_disk, take_in, write_raw};
use tempfile::TempDir;

const SIZE: u64 = 7 * MIB + 512;

const OVF: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="r">
  <References>
    <File ovf:id="f1" ovf:href="one.vmdk"/><File ovf:id="f2" ovf:href="two.vhd"/>
  </References>
  <DiskSection>
    <Disk ovf:diskId="d1" ovf:fileRef="f1"/><Disk ovf:diskId="d2" ovf:fileRef="f2"/>
  </DiskSection>
  <VirtualSystem ovf:id="shop"><Name>Shop</Name><VirtualHardwareSection>
    <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
    <Item><rasd:ResourceType>6</rasd:ResourceType><rasd:InstanceID>1</rasd:InstanceID></Item>
    <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>1</rasd:Parent><rasd:HostResource>ovf:/disk/d1</rasd:HostResource></Item>
    <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>1</rasd:Parent><rasd:HostResource>ovf:/disk/d2</rasd:HostResource></Item>
  </VirtualHardwareSection></VirtualSystem>
</Envelope>"#;

/// A package of a streamOptimized VMDK and a VHD.
fn write_package(dir: &Path) {
    for (disk, name, args) in [
        (1, "one.vmdk", ["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        (2, "two.vhd", ["-O", "vpc", "-o", "force_size=on"]),
    ] {
        let raw = dir.join("source.img");
        write_raw(&raw, disk, SIZE);
        let (raw, to) = (raw.to_str().unwrap(), dir.join(name));
        let base = ["convert", "-f", "raw", raw];
        qemu_img(&[&base[..], &args, &[to.to_str().unwrap()]].concat());
    }
    std::fs::write(dir.join("shop.ovf"), OVF).unwrap();
}

fn pack(dir: &Path, names: &[&str]) {
    let out = Command::new("tar")
        .current_dir(dir)
        .args(["--format=ustar", "-cf", "shop.ova"])
        .args(names)
        .status();
    assert!(out.unwrap().success());
}

fn assert_is_the_shop(repository: &Repository, point: &PointManifest) {
    assert_eq!(point.vm.name, "Shop");
    let vmx = rekindle_image::Vmx::parse(point.vmx.as_bytes()).unwrap();
    assert_eq!((vmx.get("numvcpus"), vmx.get("firmware")), (Some("2"), Some("bios")));
    let keys: Vec<_> = vmx.disks().into_iter().map(|disk| disk.key).collect();
    assert_eq!(keys, ["scsi0:0", "scsi0:1"]);
    let formats: Vec<_> = point.disks.iter().map(|disk| disk.source_format.as_str()).collect();
    assert_eq!(formats, ["vmdk-stream", "vhd"]);
    for (index, disk) in [(0, 1), (1, 2)] {
        let bytes = read_disk(&open_disk(repository, point, index)).unwrap();
        assert!(bytes[..SIZE as usize] == expected(disk, 0, SIZE as usize), "disk {disk}");
    }
}

#[test]
fn a_package_comes_out_as_it_went_in() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_package(dir.path());
    let from_ovf = take_in(&repository, &dir.path().join("shop.ovf")).unwrap().point;
    assert_is_the_shop(&repository, &from_ovf);
    pack(dir.path(), &["shop.ovf", "one.vmdk", "two.vhd"]);
    // Only the archive is left to read from.
    for name in ["shop.ovf", "one.vmdk", "two.vhd"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let report = take_in(&repository, &dir.path().join("shop.ova")).unwrap();
    assert_is_the_shop(&repository, &report.point);
    assert_eq!(report.counts.written, 0, "the same VM has the same blocks");
}

#[test]
fn a_package_that_lacks_a_part_is_refused() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_package(dir.path());
    for (names, why) in [
        (&["one.vmdk", "two.vhd"][..], "exactly one .ovf"),
        (&["shop.ovf", "one.vmdk"], "two.vhd does not exist"),
    ] {
        pack(dir.path(), names);
        let error = take_in(&repository, &dir.path().join("shop.ova")).unwrap_err();
        assert!(matches!(error, RepoError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// The manifest of a package whose files are as they are now.
fn write_manifest(dir: &Path) {
    let out = Command::new("sha256sum")
        .current_dir(dir)
        .args(["--tag", "shop.ovf", "one.vmdk", "two.vhd"])
        .output()
        .unwrap();
    assert!(out.status.success());
    std::fs::write(dir.join("shop.mf"), out.stdout).unwrap();
}

#[test]
fn a_package_that_is_not_what_its_manifest_says_is_refused() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_package(dir.path());
    write_manifest(dir.path());
    let all = ["shop.ovf", "shop.mf", "one.vmdk", "two.vhd"];
    pack(dir.path(), &all);
    for name in ["shop.ovf", "shop.ova"] {
        assert_is_the_shop(
            &repository,
            &take_in(&repository, &dir.path().join(name)).unwrap().point,
        );
    }
    // A byte of the disk's data, which the format does not check; and one of the descriptor's comments.
    for (name, at) in [("two.vhd", 3 * MIB as usize), ("shop.ovf", 14)] {
        let path = dir.path().join(name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        pack(dir.path(), &all);
        for source in ["shop.ovf", "shop.ova"] {
            let error = take_in(&repository, &dir.path().join(source)).unwrap_err();
            assert!(matches!(error, RepoError::Refused { .. }), "{source}: {error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("manifest"), "{source}: {text}");
        }
        std::fs::write(&path, good).unwrap();
    }
    let maps = std::fs::read_dir(dir.path().join("repo/maps")).unwrap().count();
    assert_eq!(maps, 4, "maps of the refused are taken back");
}
