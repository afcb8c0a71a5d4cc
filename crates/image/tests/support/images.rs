//! Images whose bytes are a function of their address, in every format that `qemu-img` writes.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const MIB: u64 = 1 << 20;

/// The byte at `offset` of every test disk. One MiB in three is a hole; half of the rest is noise and half
/// compresses. No two words are alike.
pub(crate) fn expected_byte(offset: u64) -> u8 {
    let word = offset / 8;
    match (offset / MIB) % 3 {
        1 => 0,
        2 => (word >> 3 >> (8 * (offset % 4))) as u8,
        _ => (mix(word) >> (8 * (offset % 8))) as u8,
    }
}

fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

pub(crate) fn expected(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(expected_byte).collect()
}

/// Writes a raw disk of `size` bytes with its holes.
pub(crate) fn write_raw(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut at = 0;
    while at < size {
        let len = MIB.min(size - at);
        if (at / MIB) % 3 != 1 {
            file.write_all_at(&expected(at, len as usize), at).unwrap();
        }
        at += len;
    }
}

pub(crate) fn qemu_img(args: &[&str]) {
    let out = Command::new("qemu-img").args(args).output().expect("qemu-img (package qemu-utils)");
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Converts `raw` to `to`.
pub(crate) fn convert(raw: &Path, to: &Path, args: &[&str]) -> PathBuf {
    let mut all = vec!["convert", "-f", "raw", raw.to_str().unwrap()];
    all.extend(args);
    all.push(to.to_str().unwrap());
    qemu_img(&all);
    to.to_owned()
}

/// A format to test: its name, the arguments of `qemu-img convert`, and the file's ending.
pub(crate) const FORMATS: [(&str, &[&str], &str); 18] = [
    ("raw", &["-O", "raw"], "img"),
    ("vmdk-sparse", &["-O", "vmdk", "-o", "subformat=monolithicSparse"], "vmdk"),
    ("vmdk-stream", &["-O", "vmdk", "-o", "subformat=streamOptimized"], "vmdk"),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"], "vmdk"),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"], "vmdk"),
    ("vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"], "vmdk"),
    ("vmdk-sparse", &["-O", "vmdk", "-o", "subformat=monolithicSparse,zeroed_grain=on"], "vmdk"),
    ("qcow2", &["-O", "qcow2"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-c"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-o", "compat=0.10,cluster_size=512"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-c", "-o", "cluster_size=2M"], "qcow2"),
    ("qcow2", &["-O", "qcow2", "-o", "preallocation=metadata,lazy_refcounts=on"], "qcow2"),
    ("vhd", &["-O", "vpc"], "vhd"),
    ("vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"], "vhd"),
    ("vhdx", &["-O", "vhdx"], "vhdx"),
    ("vhdx", &["-O", "vhdx", "-o", "block_size=1M"], "vhdx"),
    ("vhdx", &["-O", "vhdx", "-o", "subformat=fixed"], "vhdx"),
];

/// A streamOptimized VMDK of `grains` grains of 64 KiB with its directory at the end, as VMware's tools write
/// them and qemu-img does not.
pub(crate) fn stream_with_footer(grains: u64) -> Vec<u8> {
    let mut out = stream_header(grains, u64::MAX);
    out.resize(128 * 512, 0);
    let mut table = vec![];
    for grain in 0..grains {
        let plain = expected(grain * 65_536, 65_536);
        let packed = zlib(&plain);
        table.push((out.len() / 512) as u32);
        out.extend((grain * 128).to_le_bytes());
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
        pad(&mut out);
    }
    let marker = |sectors: u64, kind: u32| {
        let mut marker = vec![0; 512];
        marker[..8].copy_from_slice(&sectors.to_le_bytes());
        marker[12..16].copy_from_slice(&kind.to_le_bytes());
        marker
    };
    out.extend(marker(4, 1));
    let table_at = out.len() / 512;
    table.resize(512, 0);
    out.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    out.extend(marker(1, 2));
    let directory_at = out.len() / 512;
    out.extend((table_at as u32).to_le_bytes());
    pad(&mut out);
    out.extend(marker(1, 3));
    out.extend(&stream_header(grains, directory_at as u64)[..512]);
    out.extend(marker(0, 0));
    out
}

fn stream_header(grains: u64, directory: u64) -> Vec<u8> {
    let mut head = vec![0; 512];
    head[..4].copy_from_slice(b"KDMV");
    head[4..8].copy_from_slice(&3_u32.to_le_bytes());
    head[8..12].copy_from_slice(&0x3_0001_u32.to_le_bytes());
    head[12..20].copy_from_slice(&(grains * 128).to_le_bytes());
    head[20..28].copy_from_slice(&128_u64.to_le_bytes());
    head[44..48].copy_from_slice(&512_u32.to_le_bytes());
    head[56..64].copy_from_slice(&directory.to_le_bytes());
    head[64..72].copy_from_slice(&128_u64.to_le_bytes());
    head[73..77].copy_from_slice(b"\n \r\n");
    head[77..79].copy_from_slice(&1_u16.to_le_bytes());
    head
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Makes the checksums of a VHD's or VHDX's headers right again, so that a change behind them is looked at.
pub(crate) fn reseal(bytes: &mut [u8]) {
    if bytes.starts_with(b"vhdxfile") {
        for (at, len) in
            [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65_536), (256 << 10, 65_536)]
        {
            let Some(part) = bytes.get_mut(at..at + len) else { continue };
            part[4..8].fill(0);
            let sum = crc32c::crc32c(part);
            part[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    } else if bytes.starts_with(b"conectix") && bytes.len() > 2048 {
        for (at, len, own) in [(0, 512, 64), (512, 1024, 36)] {
            let part = &mut bytes[at..at + len];
            part[own..own + 4].fill(0);
            let sum = !part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            part[own..own + 4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes.copy_within(..512, bytes.len() - 512);
    }
}
