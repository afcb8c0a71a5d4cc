//! What an image says about its size costs no memory: a disk of 62 TiB, described by a file of 1 to 4 MiB, is opened, searched
//! and read with what its tables take, which lie in the file.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]
#![allow(unsafe_code)]

#[path = "support/counting.rs"]
mod counting;
#[path = "support/deltas.rs"]
mod deltas;
#[path = "support/hyperv.rs"]
mod hyperv;
#[path = "support/images.rs"]
mod support;

use std::path::Path;

use counting::peak_of;
use rekindle_image::{ImageError, open_image};
use support::{MIB, qemu_img, reseal};
use tempfile::TempDir;

const TIB: u64 = 1 << 40;
const SIZE: u64 = 62 * TIB;
/// Tables of 1 MiB, and twice a grain or cluster of 2 MiB.
const MOST: usize = 6 << 20;

/// `KDMV`, with grains of 2 MiB: a directory of 254 KiB.
fn sparse(compressed: bool) -> Vec<u8> {
    let grain = 4096_u64;
    let entries = SIZE / 512 / grain / 512;
    let mut head = vec![0; 512];
    head[..4].copy_from_slice(b"KDMV");
    head[4] = if compressed { 3 } else { 1 };
    head[8..12].copy_from_slice(&if compressed { 0x3_0001_u32 } else { 1 }.to_le_bytes());
    head[12..20].copy_from_slice(&(SIZE / 512).to_le_bytes());
    head[20..28].copy_from_slice(&grain.to_le_bytes());
    head[44..48].copy_from_slice(&512_u32.to_le_bytes());
    head[56..64].copy_from_slice(&1_u64.to_le_bytes());
    head[64..72].copy_from_slice(&1024_u64.to_le_bytes());
    head[73..77].copy_from_slice(b"\n \r\n");
    head[77] = u8::from(compressed);
    head.resize(512 + entries as usize * 4, 0);
    head.resize(MIB as usize, 0);
    head
}

/// A dynamic VHD with blocks of 256 MiB: a table of 1 MiB.
fn vhd() -> Vec<u8> {
    let parent = hyperv::Parent { id: [0; 16], relative: "", absolute: "" };
    let mut small = hyperv::vhd_child(1, 512, &parent);
    let blocks = (SIZE / (256 * MIB)) as usize;
    let footer = small.len() - 512;
    let mut bytes = small[..2560].to_vec();
    bytes.extend(vec![0xff; blocks * 4]);
    bytes.extend(small.split_off(footer));
    let last = bytes.len() - 512;
    for footer in [0, last] {
        bytes[footer + 48..footer + 56].copy_from_slice(&SIZE.to_be_bytes());
        bytes[footer + 60..footer + 64].copy_from_slice(&3_u32.to_be_bytes());
    }
    bytes[512 + 28..512 + 32].copy_from_slice(&(blocks as u32).to_be_bytes());
    bytes[512 + 32..512 + 36].copy_from_slice(&(256_u32 << 20).to_be_bytes());
    reseal(&mut bytes);
    bytes
}

fn create(path: &Path, args: &[&str]) {
    qemu_img(&[&["create", "-q"], args, &[path.to_str().unwrap(), "62T"]].concat());
}

fn write_all(dir: &Path) -> Vec<&'static str> {
    let descriptor = |line: &str| format!("# Disk DescriptorFile\nCID=1\n{line}\n");
    let sectors = SIZE / 512;
    std::fs::write(dir.join("zero.vmdk"), descriptor(&format!("RW {sectors} ZERO"))).unwrap();
    std::fs::write(dir.join("sparse.vmdk"), sparse(false)).unwrap();
    std::fs::write(dir.join("stream.vmdk"), sparse(true)).unwrap();
    std::fs::write(dir.join("dynamic.vhd"), vhd()).unwrap();
    create(&dir.join("d.vhdx"), &["-f", "vhdx", "-o", "block_size=256M"]);
    create(&dir.join("d.qcow2"), &["-f", "qcow2", "-o", "cluster_size=512k"]);
    // The smallest clusters that QEMU has for that size: an L1 table of 1 MiB.
    create(&dir.join("small.qcow2"), &["-f", "qcow2", "-o", "cluster_size=64k"]);
    vec![
        "zero.vmdk",
        "sparse.vmdk",
        "stream.vmdk",
        "dynamic.vhd",
        "d.vhdx",
        "d.qcow2",
        "small.qcow2",
    ]
}

#[test]
fn a_disk_of_62_tib_costs_no_memory() {
    let dir = TempDir::new().unwrap();
    for name in write_all(dir.path()) {
        let path = dir.path().join(name);
        let stored = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
        // A VHDX needs 2 MiB of table.
        assert!(stored <= 4 * MIB, "{name}: a file of {stored} bytes");
        let (size, peak) = peak_of(|| {
            let image = open_image(&path, dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(image.next_data(0).unwrap(), None, "{name}");
            let mut buf = vec![1; 1 << 16];
            for at in [0, SIZE / 2 + 7, SIZE - buf.len() as u64] {
                buf.fill(1);
                image.read_at(at, &mut buf).unwrap();
                assert!(buf.iter().all(|byte| *byte == 0), "{name}");
            }
            image.size()
        });
        assert_eq!(size, SIZE, "{name}");
        assert!(peak < MOST, "{name}: {peak} bytes");
    }
    // Formats whose tables are larger than that are refused before memory is taken for them.
    let mut cowd = deltas::cowd(1, 8 << 20);
    cowd[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    cowd[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut se_sparse = deltas::se_sparse(1, 8 << 20);
    se_sparse[16..24].copy_from_slice(&(SIZE / 512).to_le_bytes());
    for (kind, bytes) in [("VMFSSPARSE", cowd), ("SESPARSE", se_sparse)] {
        let text = format!("# Disk DescriptorFile\nCID=1\nRW {} {kind} \"x\"\n", SIZE / 512);
        std::fs::write(dir.path().join("delta.vmdk"), text).unwrap();
        std::fs::write(dir.path().join("x"), bytes).unwrap();
        let (result, peak) = peak_of(|| open_image(&dir.path().join("delta.vmdk"), dir.path()));
        assert!(matches!(result, Err(ImageError::Corrupt { .. })), "{kind}: {result:?}");
        assert!(peak < MOST, "{kind}: {peak} bytes");
    }
}
