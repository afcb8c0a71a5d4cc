//! Images where they lie: every format byte for byte, in a directory that nothing is written to.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "support/points.rs"]
mod points;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use points::{MIB, create, expected, open_disk, qemu_img, read_disk, take_in, wait, write_raw};
use rekindle_block::BlockIdx;
use rekindle_repo::{
    CheckOptions, CheckProgress, MapEntry, PointListing, PointManifest, RepoError, Repository,
    check,
};

/// No whole number of blocks, so that the last is short.
const SIZE: u64 = 7 * MIB + 17 * 512;

fn open(dir: &Path) -> Repository {
    Repository::open_images(dir).unwrap()
}

fn listing(repository: &Repository) -> PointListing {
    wait(repository.points()).unwrap()
}

/// The one point of the VM `name`.
fn point(repository: &Repository, name: &str) -> PointManifest {
    let mut found = listing(repository).points;
    found.retain(|point| point.vm.name == name);
    assert_eq!(found.len(), 1, "{name}");
    found.remove(0)
}

fn convert(raw: &Path, format: &str, options: &str, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let (raw, to) = (raw.to_str().unwrap(), to.to_str().unwrap());
    let compress = if format == "qcow2" && options.is_empty() { &["-c"][..] } else { &[] };
    let options = if options.is_empty() { vec![] } else { vec!["-o", options] };
    qemu_img(&[&["convert", "-f", "raw", "-O", format], compress, &options, &[raw, to]].concat());
}

/// What `qemu-img` makes of a disk image.
fn by_qemu(image: &Path, format: &str, to: &Path) -> Vec<u8> {
    qemu_img(&[
        "convert",
        "-f",
        format,
        "-O",
        "raw",
        image.to_str().unwrap(),
        to.to_str().unwrap(),
    ]);
    fs::read(to).unwrap()
}

fn vmx(name: &str, disks: &[&str]) -> String {
    let mut text =
        format!("displayName = \"{name}\"\nmemSize = \"64\"\nscsi0.present = \"TRUE\"\n");
    for (unit, disk) in disks.iter().enumerate() {
        text += &format!("scsi0:{unit}.present = \"TRUE\"\nscsi0:{unit}.fileName = \"{disk}\"\n");
    }
    text
}

/// Every file below `dir` with its bytes, and when each was changed.
fn state(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(state(&path)),
            false => {
                let modified = entry.metadata().unwrap().modified().unwrap();
                all.insert(path.clone(), (fs::read(path).unwrap(), modified));
            }
        }
    }
    all
}

#[test]
fn every_format_is_a_point_at_once_and_reads_as_qemu_img_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, vms) = (dir.path().join("disk.raw"), dir.path().join("vms"));
    write_raw(&raw, 7, SIZE);
    let formats = [
        ("flat", "vmdk", "subformat=monolithicFlat", "flat.vmdk"),
        ("sparse", "vmdk", "subformat=monolithicSparse", "sparse.vmdk"),
        ("split-sparse", "vmdk", "subformat=twoGbMaxExtentSparse", "split-sparse.vmdk"),
        ("split-flat", "vmdk", "subformat=twoGbMaxExtentFlat", "split-flat.vmdk"),
        ("stream", "vmdk", "subformat=streamOptimized", "stream.vmdk"),
        ("packed", "qcow2", "", "packed.qcow2"),
        ("plain", "qcow2", "cluster_size=4096", "plain.qcow2"),
        ("dynamic", "vpc", "subformat=dynamic,force_size=on", "dynamic.vhd"),
        ("fixed", "vpc", "subformat=fixed,force_size=on", "fixed.vhd"),
        ("hyperv", "vhdx", "subformat=dynamic", "hyperv.vhdx"),
    ];
    for (name, format, options, file) in formats {
        convert(&raw, format, options, &vms.join(name).join(file));
    }
    fs::create_dir(vms.join("bare")).unwrap();
    fs::copy(&raw, vms.join("bare/bare.img")).unwrap();
    let before = state(&vms);
    let repository = open(&vms);
    assert_eq!(repository.kind(), "images");
    let all = listing(&repository);
    assert!(all.damaged.is_empty(), "{:?}", all.damaged);
    assert_eq!(all.points.len(), formats.len() + 1, "{:#?}", all.points);
    for (name, format, _, file) in formats.into_iter().chain([("bare", "raw", "", "bare.img")]) {
        let mut wanted = by_qemu(&vms.join(name).join(file), format, &dir.path().join("by-qemu"));
        // What a VHDX holds is a whole number of MiB, by its own measure.
        let found = read_disk(&open_disk(&repository, &point(&repository, name), 0)).unwrap();
        wanted.resize(found.len(), 0);
        assert!(found == wanted, "{name}");
        assert!(found[..SIZE as usize] == expected(7, 0, SIZE as usize), "{name}");
    }
    assert_eq!(state(&vms), before, "nothing was written");
}

#[test]
fn a_vm_is_a_point_with_its_disks_and_what_they_need_is_none_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.raw"), dir.path().join("b.raw"));
    write_raw(&a, 1, 9 * MIB);
    write_raw(&b, 2, 3 * MIB);
    let vms = dir.path().join("vms");
    convert(&a, "vmdk", "subformat=monolithicFlat", &vms.join("web/web.vmdk"));
    convert(&b, "vmdk", "subformat=streamOptimized", &vms.join("web/data.vmdk"));
    fs::write(vms.join("web/web.vmx"), vmx("web", &["web.vmdk", "data.vmdk"])).unwrap();
    convert(&a, "qcow2", "cluster_size=65536", &vms.join("chain/base.qcow2"));
    let over = vms.join("chain/over.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", over.to_str().unwrap()]);
    fs::write(vms.join("README"), "no VM").unwrap();
    let repository = open(&vms);
    let names: Vec<_> = listing(&repository).points.iter().map(|p| p.vm.name.clone()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let web = point(&repository, "web");
    assert_eq!(web.disks.len(), 2);
    for (index, disk, size) in [(0, 1, 9 * MIB), (1, 2, 3 * MIB)] {
        let found = read_disk(&open_disk(&repository, &web, index)).unwrap();
        assert!(found == expected(disk, 0, size as usize), "disk {index}");
    }
    let over = read_disk(&open_disk(&repository, &point(&repository, "over"), 0)).unwrap();
    assert!(over == expected(1, 0, 9 << 20));
}

#[test]
fn packages_are_read_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, vms) = (dir.path().join("disk.raw"), dir.path().join("vms"));
    write_raw(&raw, 3, 5 * MIB);
    convert(&raw, "vmdk", "subformat=streamOptimized", &vms.join("ovf/app-disk1.vmdk"));
    let ovf = r#"<Envelope xmlns:ovf="o" xmlns:rasd="r">
        <References><File ovf:id="f" ovf:href="app-disk1.vmdk"/></References>
        <DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1"/></DiskSection>
        <VirtualSystem ovf:id="NAME"><VirtualHardwareSection>
        <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>
        <Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>
        <rasd:Parent>1</rasd:Parent><rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:HostResource>ovf:/disk/d</rasd:HostResource></Item>
        </VirtualHardwareSection></VirtualSystem></Envelope>"#;
    fs::write(vms.join("ovf/app.ovf"), ovf.replace("NAME", "from-ovf")).unwrap();
    let made = dir.path().join("ova");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("app.ovf"), ovf.replace("NAME", "from-ova")).unwrap();
    fs::copy(vms.join("ovf/app-disk1.vmdk"), made.join("app-disk1.vmdk")).unwrap();
    let tar = std::process::Command::new("tar")
        .args(["--format=ustar", "-cf"])
        .arg(vms.join("app.ova"))
        .arg("-C")
        .args([made.as_os_str(), "app.ovf".as_ref(), "app-disk1.vmdk".as_ref()])
        .status();
    assert!(tar.unwrap().success());
    let repository = open(&vms);
    let all = listing(&repository);
    assert_eq!((all.points.len(), all.damaged.len()), (2, 0), "{all:#?}");
    for name in ["from-ovf", "from-ova"] {
        let found = read_disk(&open_disk(&repository, &point(&repository, name), 0)).unwrap();
        assert!(found == expected(3, 0, 5 << 20), "{name}");
    }
}

#[test]
fn a_changed_file_is_another_point_and_an_error_for_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("vm.raw");
    write_raw(&raw, 4, 4 * MIB);
    let repository = open(dir.path());
    let before = point(&repository, "vm");
    assert_eq!(point(&open(dir.path()), "vm"), before, "the same after a restart");
    let disk = open_disk(&repository, &before, 0);
    let MapEntry::Stored(block) = wait(disk.entry(BlockIdx(0))).unwrap() else { panic!("data") };
    assert_eq!(wait(disk.read_block(&block)).unwrap().bytes(), &expected(4, 0, 256 << 10));
    // The bytes of one place, of the same length, and the times as they were.
    let times = fs::metadata(&raw).unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(&raw).unwrap();
    file.write_all_at(b"other bytes", 100).unwrap();
    file.set_modified(times).unwrap();
    let error = wait(disk.read_block(&block)).unwrap_err();
    assert!(matches!(&error, RepoError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("written to"), "{error}");
    let gone = wait(repository.point(&before.id)).unwrap_err();
    assert!(matches!(&gone, RepoError::NotFound { .. }), "{gone}");
    assert!(wait(repository.open_disk(&before, 0)).is_err());
    let after = point(&repository, "vm");
    assert_ne!((&after.id, after.disks[0].map_hash), (&before.id, before.disks[0].map_hash));
    let disk = open_disk(&repository, &after, 0);
    let MapEntry::Stored(new) = wait(disk.entry(BlockIdx(0))).unwrap() else { panic!("data") };
    assert_ne!(new.hash(), block.hash(), "no cache takes one for the other");
    assert_eq!(&wait(disk.read_block(&new)).unwrap().bytes()[100..111], b"other bytes");
}

#[test]
fn what_is_hostile_or_no_image_hides_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let vms = dir.path().join("vms");
    fs::create_dir_all(vms.join("links")).unwrap();
    fs::create_dir(vms.join(".snapshots")).unwrap();
    write_raw(&dir.path().join("secret.raw"), 5, MIB);
    write_raw(&vms.join("good.raw"), 6, MIB);
    write_raw(&vms.join(".snapshots/hidden.raw"), 6, MIB);
    symlink(dir.path().join("secret.raw"), vms.join("link.raw")).unwrap();
    symlink("../good.raw", vms.join("links/inside.raw")).unwrap();
    symlink(dir.path(), vms.join("up")).unwrap();
    for (name, disk) in [
        ("dots", "../../secret.raw"),
        ("root", dir.path().join("secret.raw").to_str().unwrap()),
        ("linked", "inside.raw"),
    ] {
        fs::write(vms.join("links").join(format!("{name}.vmx")), vmx(name, &[disk])).unwrap();
    }
    fs::write(vms.join("broken.vmdk"), b"KDMV and no more").unwrap();
    File::create(vms.join("empty.qcow2")).unwrap();
    let all = listing(&open(&vms));
    let names: Vec<_> = all.points.iter().map(|point| point.vm.name.as_str()).collect();
    assert_eq!(names, ["good"]);
    let mut bad: Vec<_> = all.damaged.iter().map(|one| one.object.as_str()).collect();
    bad.sort_unstable();
    let wanted = [
        "broken.vmdk",
        "empty.qcow2",
        "link.raw",
        "links/dots.vmx",
        "links/inside.raw",
        "links/linked.vmx",
        "links/root.vmx",
        "up",
    ];
    assert_eq!(bad, wanted, "{:#?}", all.damaged);
    let linked = all.damaged.iter().find(|one| one.object == "links/linked.vmx").unwrap();
    assert!(linked.reason.contains("leads out"), "{}", linked.reason);
}

#[test]
fn the_listing_follows_what_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let repository = open(dir.path());
    assert!(listing(&repository).points.is_empty());
    write_raw(&dir.path().join("one.raw"), 1, MIB);
    let one = point(&repository, "one");
    fs::write(dir.path().join("late.vmx"), vmx("late", &["two.raw"])).unwrap();
    assert_eq!(listing(&repository).damaged.len(), 1, "its disk is not there yet");
    write_raw(&dir.path().join("two.raw"), 2, MIB);
    point(&repository, "late");
    assert_eq!(point(&repository, "one"), one);
    fs::remove_file(dir.path().join("late.vmx")).unwrap();
    point(&repository, "two");
    fs::remove_file(dir.path().join("two.raw")).unwrap();
    assert_eq!(listing(&repository).points, [one]);
}

#[test]
fn what_it_cannot_do_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (vms, own) = (dir.path().join("vms"), dir.path().join("own"));
    fs::create_dir(&vms).unwrap();
    write_raw(&vms.join("vm.raw"), 1, MIB);
    let repository = open(&vms);
    let before = state(&vms);
    let refused = |result: Result<(), RepoError>| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("repository of images cannot"), "{error}");
    };
    refused(take_in(&repository, &vms.join("vm.raw")).map(drop));
    let (progress, cancel) = (CheckProgress::default(), AtomicBool::new(false));
    refused(check(&repository, &CheckOptions::default(), &progress, &cancel).map(drop));
    let vm = point(&repository, "vm");
    refused(rekindle_repo::move_point(&repository, &vm, rekindle_repo::Tier::Warm).map(drop));
    assert!(repository.add_passkey(&points::passkey("some passkey of ours"), "x").is_err());
    assert!(repository.remove_passkey("x").is_err());
    assert!(rekindle_repo::readiness(&repository, &vm).unwrap().ready);
    assert!(!rekindle_repo::has_cold_packs(&repository).unwrap());
    assert_eq!(state(&vms), before);
    assert!(Repository::open_images(&vms.join("nowhere")).is_err());
    assert!(Repository::open_images(&vms.join("vm.raw")).is_err());
    // A repository of ours holds no images of VMs, and a place of images is none of ours.
    assert!(Repository::open(&vms).is_err());
    create(&own);
    assert!(listing(&open(&own)).points.is_empty());
}

/// An empty disk of the largest size has pages, and no data to read.
#[test]
fn a_huge_empty_disk_is_known_by_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("huge.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-o", "cluster_size=2M", image.to_str().unwrap(), "62T"]);
    let repository = open(dir.path());
    let huge = point(&repository, "huge");
    assert!(huge.disks[0].stored_bytes < 64 * MIB);
    let disk = open_disk(&repository, &huge, 0);
    for idx in [0, 1 << 20, (62 << 22) - 1, 62 << 22] {
        assert_eq!(wait(disk.entry(BlockIdx(idx))).unwrap(), MapEntry::Zero, "{idx}");
    }
}
