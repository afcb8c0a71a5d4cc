//! A disk image of any bytes: opened, searched for data and read, as an ingest does.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rekindle_image::open_image;

/// A directory with a raw disk in it, which descriptors and backing names can refer to.
fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().expect("make a directory").keep();
        std::fs::write(dir.join("a"), vec![7; 1 << 16]).expect("write a disk");
        dir
    })
}

fuzz_target!(|data: &[u8]| {
    let path = dir().join("disk.img");
    std::fs::write(&path, data).expect("write the image");
    let Ok(image) = open_image(&path, dir()) else { return };
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
});
