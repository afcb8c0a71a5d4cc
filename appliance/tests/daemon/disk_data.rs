//! What belongs at each byte of the test disks: data is a function of its address.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

/// Bytes of the sample disk: some blocks of 256 KiB, and a last one that is short.
pub(crate) const DISK_BYTES: u64 = 9 * 1024 * 1024 + 512;
const PIECE: usize = 64 * 1024;

/// The byte at `offset` of the sample disk. Every fourth MiB is zero, as in real images.
pub(crate) fn image_byte(offset: u64) -> u8 {
    if (offset >> 20) % 4 == 2 { 0 } else { mixed(1, offset) }
}

/// `len` bytes at `offset` that a guest wrote as its `version`th write there.
pub(crate) fn written(version: u32, offset: u64, len: usize) -> Vec<u8> {
    let seed = u64::from(version) + 1000;
    (offset..offset + len as u64).map(|at| mixed(seed, at)).collect()
}

fn mixed(seed: u64, offset: u64) -> u8 {
    let word = (offset / 8 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ seed.wrapping_mul(0xD134_2543_DE82_EF95);
    ((word ^ (word >> 29)) >> (8 * (offset % 8))) as u8
}

/// `len` bytes at `offset` of the sample disk.
pub(crate) fn image(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(image_byte).collect()
}

/// Writes the sample disk as a raw image.
pub(crate) fn make_image(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    for (offset, len) in pieces() {
        let data = image(offset, len);
        if data.iter().any(|byte| *byte != 0) {
            file.write_all_at(&data, offset).unwrap();
        }
    }
}

/// The disk in pieces that one READ takes.
pub(crate) fn pieces() -> impl Iterator<Item = (u64, usize)> {
    (0..DISK_BYTES)
        .step_by(PIECE)
        .map(|offset| (offset, (DISK_BYTES - offset).min(PIECE as u64) as usize))
}
