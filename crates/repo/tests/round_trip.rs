//! What goes in comes out: for each format, as `qemu-img` reads it, each block stored once.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use rekindle_block::BlockIdx;
use rekindle_repo::{
    CheckOptions, CheckProgress, IngestOptions, IngestProgress, MapEntry, RepoError, Repository,
    check, ingest,
};
use support::{
    MIB, create, create_sealed, create_with_blocks, expected, open_disk, packs, qemu_img,
    read_disk, take_in, wait, write_raw,
};
use tempfile::TempDir;

/// No multiple of any block size.
const SIZE: u64 = 9 * MIB + 5 * 512;

const FORMATS: [(&str, &[&str], &str); 8] = [
    ("raw", &["-O", "raw"], "img"),
    ("vmdk-sparse", &["-O", "vmdk", "-o", "subformat=monolithicSparse"], "vmdk"),
    ("vmdk-stream", &["-O", "vmdk", "-o", "subformat=streamOptimized"], "vmdk"),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"], "vmdk"),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"], "vmdk"),
    ("qcow2", &["-O", "qcow2"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-c"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"], "qcow2"),
];

#[test]
fn every_format_comes_out_as_it_went_in_and_is_stored_once() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    let raw = dir.path().join("source.img");
    write_raw(&raw, 1, SIZE);
    for (number, (format, args, end)) in FORMATS.iter().enumerate() {
        let image = dir.path().join(format!("disk{number}.{end}"));
        let base = ["convert", "-f", "raw", raw.to_str().unwrap()];
        qemu_img(&[&base[..], args, &[image.to_str().unwrap()]].concat());
        let report = take_in(&repository, &image).unwrap();
        let disk = &report.point.disks[0];
        assert_eq!(disk.source_format, *format);
        assert!(disk.size_bytes >= SIZE && disk.size_bytes < SIZE + 65_536, "{format}");
        let bytes = read_disk(&open_disk(&repository, &report.point, 0)).unwrap();
        assert!(bytes[..SIZE as usize] == expected(1, 0, SIZE as usize), "{format} {args:?}");
        assert!(bytes[SIZE as usize..].iter().all(|byte| *byte == 0));
        let counts = report.counts;
        assert_eq!(counts.done, counts.total, "{format}");
        assert_eq!(counts.zero + counts.deduplicated + counts.written, counts.total);
        assert!(counts.zero >= 3 * MIB, "{format}: {counts:?}");
        if number > 0 {
            // A format may round the disk up, so its last block may differ.
            assert!(counts.written <= 262_144 && counts.stored < 262_144, "{format}: {counts:?}");
        }
    }
    let listing = wait(repository.points()).unwrap();
    assert_eq!((listing.points.len(), listing.damaged.len()), (FORMATS.len(), 0));
}

#[test]
fn every_block_size_works() {
    for block in [4096, 65_536, 4 << 20] {
        let dir = TempDir::new().unwrap();
        let repository = create_with_blocks(&dir.path().join("repo"), block);
        let raw = dir.path().join("source.img");
        write_raw(&raw, 2, SIZE);
        let report = take_in(&repository, &raw).unwrap();
        let map = open_disk(&repository, &report.point, 0);
        assert!(read_disk(&map).unwrap() == expected(2, 0, SIZE as usize), "{block}");
    }
}

/// A VM of two disks, one of them in a folder, with a CD and an nvram file.
/// Text that a level can do better or worse at: words in no order.
fn write_text(path: &Path, bytes: usize) {
    let words = ["recovery ", "point ", "of ", "a ", "virtual ", "machine ", "\n", "snapshot "];
    let mut text = String::new();
    let mut seed = 1_u64;
    while text.len() < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += words[(seed >> 61) as usize];
    }
    text.truncate(bytes);
    std::fs::write(path, text).unwrap();
}

#[test]
fn every_block_size_from_64_kib_to_4_mib_holds_a_disk_plain_and_sealed() {
    for shift in 16..=22 {
        for sealed in [false, true] {
            let dir = TempDir::new().unwrap();
            let (at, block_bytes) = (dir.path().join("repo"), 1 << shift);
            let repository = match sealed {
                false => create_with_blocks(&at, block_bytes),
                true => create_sealed(&at, block_bytes),
            };
            let raw = dir.path().join("disk.img");
            write_raw(&raw, 3, SIZE);
            let report = take_in(&repository, &raw).unwrap();
            assert_eq!(repository.block_size().bytes(), u64::from(block_bytes));
            let bytes = read_disk(&open_disk(&repository, &report.point, 0)).unwrap();
            assert!(bytes == expected(3, 0, SIZE as usize), "{block_bytes} {sealed}");
            let again = take_in(&repository, &raw).unwrap();
            assert_eq!(again.counts.written, 0, "{block_bytes} {sealed}");
            let (progress, never) = (CheckProgress::default(), AtomicBool::new(false));
            let checked = check(&repository, &CheckOptions::default(), &progress, &never).unwrap();
            assert!(checked.is_sound() && checked.points == 2, "{:?}", checked.problems);
        }
    }
}

#[test]
fn a_higher_level_stores_less_and_what_is_there_is_found_whatever_the_level() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("text.img");
    write_text(&text, 2 * MIB as usize);
    let take_in = |repository: &Repository, level| {
        let options = IngestOptions { compression_level: level, ..IngestOptions::default() };
        let (progress, never) = (IngestProgress::default(), AtomicBool::new(false));
        ingest(repository, &text, &options, &progress, &never)
    };
    let mut stored = Vec::new();
    for level in [None, Some(1), Some(3), Some(19)] {
        let repository = create(&dir.path().join(format!("repo-{level:?}")));
        let report = take_in(&repository, level).unwrap();
        let bytes = read_disk(&open_disk(&repository, &report.point, 0)).unwrap();
        assert!(bytes == std::fs::read(&text).unwrap(), "{level:?}");
        stored.push(report.counts.stored);
        assert_eq!(take_in(&repository, Some(19)).unwrap().counts.written, 0);
        for bad in [0, 20, -1, i32::MAX] {
            let refused = take_in(&repository, Some(bad));
            assert!(matches!(refused, Err(RepoError::Refused { .. })), "{bad}");
        }
    }
    assert_eq!(stored[0], stored[1], "1 is the default");
    assert!(stored[3] < stored[1] * 9 / 10, "{stored:?}");
}

fn write_vm(dir: &Path, disk: u64) {
    std::fs::create_dir_all(dir.join("data")).unwrap();
    write_raw(&dir.join("disk.img"), disk, 2 * MIB);
    write_raw(&dir.join("data/disk.img"), disk + 1, 3 * MIB);
    std::fs::write(dir.join("web.nvram"), [7; 8684]).unwrap();
    let vmx = "displayName = \"Web |22one|22\"\nuuid.bios = \"56 4d 00 11 22 33 44 55-66 77 88 99 aa bb cc dd\"\n\
        nvram = \"web.nvram\"\nscsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\n\
        scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"disk.img\"\n\
        scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"data/disk.img\"\n\
        ide0:0.present = \"TRUE\"\nide0:0.deviceType = \"cdrom-image\"\nide0:0.fileName = \"none.iso\"\n";
    std::fs::write(dir.join("web.vmx"), vmx).unwrap();
}

#[test]
fn a_vm_is_kept_with_all_it_has() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_vm(&dir.path().join("vm"), 10);
    let first = take_in(&repository, &dir.path().join("vm/web.vmx")).unwrap().point;
    assert_eq!(first.vm.name, "Web \"one\"");
    assert_eq!(first.vm.id.as_str(), "564d00112233445566778899aabbccdd");
    assert_eq!(first.nvram.as_deref(), Some(&[7; 8684][..]));
    let disks: Vec<_> = first
        .disks
        .iter()
        .map(|d| (d.key.as_str(), d.file_name.as_str(), d.adapter.as_str()))
        .collect();
    assert_eq!(disks, [("scsi0:0", "disk.img", "pvscsi"), ("scsi0:1", "2-disk.img", "pvscsi")]);
    for (index, disk) in [(0, 10), (1, 11)] {
        let map = open_disk(&repository, &first, index);
        assert!(read_disk(&map).unwrap() == expected(disk, 0, map.size() as usize));
    }
    // The next point of the VM knows the one before, and stores what changed.
    write_raw(&dir.path().join("vm/disk.img"), 12, 2 * MIB);
    let report = take_in(&repository, &dir.path().join("vm/web.vmx")).unwrap();
    assert_eq!(report.point.parent.as_ref(), Some(&first.id));
    assert_eq!((report.counts.deduplicated, report.counts.written), (2 * MIB, MIB));
    let latest = wait(repository.latest("Web \"one\"")).unwrap();
    assert_eq!(latest, report.point);
    assert_eq!(wait(repository.point(&first.id)).unwrap(), first);
    // The parent's blocks are read through the child's own map only.
    assert!(
        read_disk(&open_disk(&repository, &latest, 1)).unwrap()
            == expected(11, 0, 3 * MIB as usize)
    );
}

#[test]
fn a_bare_image_gets_a_configuration() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_raw(&dir.path().join("My Server 1.img"), 3, MIB);
    let point = take_in(&repository, &dir.path().join("My Server 1.img")).unwrap().point;
    assert_eq!(point.vm.name, "My Server 1");
    let vmx = rekindle_image::Vmx::parse(point.vmx.as_bytes()).unwrap();
    assert_eq!(vmx.get("displayName"), Some("My Server 1"));
    let disks = vmx.disks();
    assert_eq!(disks.len(), 1);
    assert_eq!(disks[0].key, point.disks[0].key);
    assert_eq!(disks[0].file_name, point.disks[0].file_name);
    assert_eq!(disks[0].adapter, point.disks[0].adapter);
}

#[test]
fn a_block_that_is_there_twice_is_stored_once() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    let block = expected(4, 0, 262_144);
    std::fs::write(dir.path().join("d.img"), block.repeat(100)).unwrap();
    let report = take_in(&repository, &dir.path().join("d.img")).unwrap();
    assert_eq!((report.counts.written, report.counts.deduplicated), (262_144, 99 * 262_144));
    assert_eq!(packs(&repository).len(), 1);
    let bytes = read_disk(&open_disk(&repository, &report.point, 0)).unwrap();
    assert!(bytes == block.repeat(100));
}

/// A disk of 62 TiB with three blocks in it: no memory, no time, and each entry where it belongs.
#[test]
fn a_huge_sparse_disk_costs_nothing() {
    use std::os::unix::fs::FileExt;
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    let path = dir.path().join("huge.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "62T"]);
    let at = [5 << 30, 20 << 40, (62 << 40) - MIB];
    let part = dir.path().join("part");
    std::fs::File::create(&part).unwrap().write_all_at(&expected(5, 0, MIB as usize), 0).unwrap();
    for offset in at {
        let command = format!("write -q -s {} {offset} {MIB}", part.display());
        let out = std::process::Command::new("qemu-io")
            .args(["-c", &command, path.to_str().unwrap()])
            .output();
        assert!(out.unwrap().status.success());
    }
    let started = std::time::Instant::now();
    let report = take_in(&repository, &path).unwrap();
    let map = open_disk(&repository, &report.point, 0);
    assert_eq!(map.size(), 62 << 40);
    assert!(report.point.disks[0].map_bytes < 200_000, "{:?}", report.point.disks[0]);
    wait(async {
        for offset in at {
            let idx = map.block_size().block_at(offset);
            for (step, stored) in [(-1_i64, false), (0, true), (3, true), (4, false)] {
                let idx = BlockIdx(idx.0.wrapping_add_signed(step));
                let entry = map.entry(idx).await.unwrap();
                assert_eq!(matches!(entry, MapEntry::Stored(_)), stored, "{idx:?}");
                assert_eq!(map.try_entry(idx), Some(entry));
            }
        }
    });
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn sources_that_cannot_be_kept_are_refused_and_change_nothing() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    let before = support::files(support::path(&repository));
    let vm = dir.path().join("vm");
    std::fs::create_dir(&vm).unwrap();
    write_raw(&dir.path().join("secret.img"), 6, MIB);
    let vmx = |file: &str| {
        format!("displayName = \"x\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{file}\"\n")
    };
    let absolute = dir.path().join("secret.img").display().to_string();
    let cases = [
        ("outside", vmx("../secret.img")),
        ("absolute", vmx(&absolute)),
        ("missing", vmx("none.vmdk")),
        ("no disk", "displayName = \"x\"\n".into()),
        ("no vmx", "\0\u{1}garbage".into()),
        ("nvram outside", vmx("ok.img") + "nvram = \"../secret.img\"\n"),
    ];
    write_raw(&vm.join("ok.img"), 6, MIB);
    for (what, text) in cases {
        std::fs::write(vm.join("v.vmx"), text).unwrap();
        let error = take_in(&repository, &vm.join("v.vmx")).unwrap_err();
        assert!(matches!(error, RepoError::Refused { .. }), "{what}: {error:?}");
    }
    std::fs::write(vm.join("cut.vmdk"), b"KDMV").unwrap();
    assert!(matches!(take_in(&repository, &vm.join("cut.vmdk")), Err(RepoError::Refused { .. })));
    assert!(matches!(take_in(&repository, &vm.join("none.img")), Err(RepoError::NotFound { .. })));
    let mut after = support::files(support::path(&repository));
    after.retain(|path| !path.ends_with("lock"));
    assert_eq!(
        before.iter().filter(|path| !path.ends_with("lock")).collect::<Vec<_>>(),
        after.iter().collect::<Vec<_>>()
    );
}
