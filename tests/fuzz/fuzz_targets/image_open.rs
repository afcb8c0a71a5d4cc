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
        dir
    })
}

fuzz_target!(|data: &[u8]| {
    // A fixed VHD is one only by this name.
    for name in ["disk.img", "disk.vhd"] {
        std::fs::write(dir().join(name), data).expect("write the image");
    }
    for name in ["disk.img", "disk.vhd", "cowd.vmdk", "sesparse.vmdk"] {
        if let Ok(image) = open_image(&dir().join(name), dir()) {
            exercise(&image);
        }
    }
});

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
