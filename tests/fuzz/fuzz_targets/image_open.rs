//! A disk image of any bytes: opened, searched for data and read, as an ingest does.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rekindle_image::{Image, open_image};

/// A descriptor of a delta whose data is the fuzzer's.
fn delta(kind: &str) -> String {
    format!(
        "# Disk DescriptorFile\nCID=2\nparentCID=1\nparentFileNameHint=\"parent.vmdk\"\nRW 64 {kind} \"disk.img\"\n"
    )
}

/// A directory with disks in it, which descriptors and backing names can refer to.
fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().expect("make a directory").keep();
        std::fs::write(dir.join("a"), vec![7; 1 << 16]).expect("write a disk");
        let parent = "# Disk DescriptorFile\nCID=1\nRW 64 FLAT \"a\" 0\n";
        for (name, text) in [
            ("parent.vmdk", parent.to_owned()),
            ("cowd.vmdk", delta("VMFSSPARSE")),
            ("sesparse.vmdk", delta("SESPARSE")),
        ] {
            std::fs::write(dir.join(name), text).expect("write a descriptor");
        }
        let vhd = include_bytes!("../seeds/image_open/dynamic.vhd");
        std::fs::write(dir.join("base.vhd"), vhd).expect("write a disk");
        let vhdx = include_bytes!("../seeds/image_open/plain.vhdx-parts");
        std::fs::write(dir.join("base.vhdx"), vhdx_of(vhdx)).expect("write a disk");
        dir
    })
}

/// The parts of a VHDX that say anything, by where they lie: of the first header, region table, log, block table and its first
/// entry of a bitmap, metadata's table and items, and that bitmap. A whole one is 5 MiB, which is more than a fuzzer tries.
const PARTS: [(usize, usize); 8] = [
    (64 << 10, 512),
    (192 << 10, 512),
    (1 << 20, 24 << 10),
    (2 << 20, 4096),
    ((2 << 20) + (32 << 10), 8),
    (3 << 20, 512),
    ((3 << 20) + (64 << 10), 2048),
    (4 << 20, 4096),
];

/// A VHDX of the fuzzer's parts, its checksums made right.
fn vhdx_of(parts: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 6 << 20];
    bytes[..8].copy_from_slice(b"vhdxfile");
    let mut rest = parts;
    for (at, len) in PARTS {
        let (part, behind) = rest.split_at(len.min(rest.len()));
        bytes[at..at + part.len()].copy_from_slice(part);
        rest = behind;
    }
    seal(&mut bytes[64 << 10..][..4096]);
    seal(&mut bytes[192 << 10..][..65_536]);
    let log = &mut bytes[1 << 20..2 << 20];
    let mut at = 0;
    // Entry behind entry, as far as they are ones.
    while log[at..].starts_with(b"loge") && at < 24 << 10 {
        let len =
            u32::from_le_bytes([log[at + 8], log[at + 9], log[at + 10], log[at + 11]]) as usize;
        let Some(entry) = log.get_mut(at..at.saturating_add(len)) else { break };
        if len < 4096 || !len.is_multiple_of(4096) {
            break;
        }
        seal(entry);
        at += len;
    }
    bytes
}

fn seal(part: &mut [u8]) {
    part[4..8].fill(0);
    let sum = crc32c::crc32c(part);
    part[4..8].copy_from_slice(&sum.to_le_bytes());
}

fuzz_target!(|data: &[u8]| {
    // A fixed VHD is one only by this name.
    for name in ["disk.img", "disk.vhd"] {
        std::fs::write(dir().join(name), data).expect("write the image");
    }
    for name in ["disk.img", "disk.vhd", "cowd.vmdk", "sesparse.vmdk"] {
        try_open(name);
    }
    if data.starts_with(b"head") {
        std::fs::write(dir().join("disk.vhdx"), vhdx_of(data)).expect("write the image");
        try_open("disk.vhdx");
    }
});

fn try_open(name: &str) {
    if let Ok(image) = open_image(&dir().join(name), dir()) {
        exercise(&image);
    }
}

fn exercise(image: &Image) {
    let mut at = 0;
    let mut buf = vec![0; 70_000];
    for _ in 0..64 {
        let Ok(Some(range)) = image.next_data(at) else { break };
        assert!(range.start >= at && range.start < range.end && range.end <= image.size());
        let len = (range.end - range.start).min(buf.len() as u64) as usize;
        let _ = image.read_at(range.start, &mut buf[..len]);
        at = range.end;
    }
    let len = image.size().min(buf.len() as u64) as usize;
    let _ = image.read_at(image.size() - len as u64, &mut buf[..len]);
}
