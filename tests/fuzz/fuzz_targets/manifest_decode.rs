//! A manifest of any bytes: as an object, and as a body that its checksum vouches for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rekindle_block::BlockHash;
use rekindle_repo::PointManifest;

fuzz_target!(|data: &[u8]| {
    let _ = PointManifest::decode("object", data);
    let head = format!("{{\"version\":1,\"blake3\":\"{}\",\"point\":", BlockHash::of(data));
    let vouched = [head.as_bytes(), data, b"}\n"].concat();
    if let Ok(point) = PointManifest::decode("object", &vouched) {
        assert!(point.disks.len() <= rekindle_repo::MAX_DISKS);
        for disk in &point.disks {
            assert!((1..=rekindle_repo::MAX_DISK_BYTES).contains(&disk.size_bytes));
            assert!(!disk.file_name.contains('/'));
        }
    }
});
