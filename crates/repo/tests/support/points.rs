//! Repositories and VMs whose disks' bytes are a function of their address.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use rekindle_block::{BlockIdx, BlockSize};
use rekindle_repo::{
    CreateOptions, DiskMap, IngestOptions, IngestProgress, IngestReport, MapEntry, Passkey,
    PointManifest, RepoError, Repository, ingest,
};

pub(crate) const MIB: u64 = 1 << 20;

/// The byte at `offset` of the test disk `disk`. One MiB in three is a hole; half of the rest is noise and half
/// compresses. No two words of a disk are alike, nor two disks.
pub(crate) fn expected_byte(disk: u64, offset: u64) -> u8 {
    let word = offset / 8;
    match (offset / MIB) % 3 {
        1 => 0,
        2 => ((word / 512) ^ disk.rotate_left(7)).to_le_bytes()[(offset % 8) as usize],
        _ => mix(word ^ disk << 48).to_le_bytes()[(offset % 8) as usize],
    }
}

fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

pub(crate) fn expected(disk: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| expected_byte(disk, at)).collect()
}

/// Writes test disk `disk` as a raw file of `size` bytes with its holes.
pub(crate) fn write_raw(path: &Path, disk: u64, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut at = 0;
    while at < size {
        let len = MIB.min(size - at);
        if (at / MIB) % 3 != 1 {
            file.write_all_at(&expected(disk, at, len as usize), at).unwrap();
        }
        at += len;
    }
}

pub(crate) fn qemu_img(args: &[&str]) {
    let out = Command::new("qemu-img").args(args).output().expect("qemu-img (package qemu-utils)");
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub(crate) fn create(dir: &Path) -> Repository {
    Repository::create(dir, &CreateOptions::default()).unwrap()
}

pub(crate) fn create_with_blocks(dir: &Path, bytes: u32) -> Repository {
    let block_size = BlockSize::new(bytes).unwrap();
    Repository::create(dir, &CreateOptions { block_size, ..CreateOptions::default() }).unwrap()
}

pub(crate) fn passkey(text: &str) -> Passkey {
    Passkey::new(text).unwrap()
}

pub(crate) const PASSKEY: &str = "correct horse battery staple";

/// A repository that [`PASSKEY`] opens.
pub(crate) fn create_sealed(dir: &Path, block_bytes: u32) -> Repository {
    let options = CreateOptions {
        block_size: BlockSize::new(block_bytes).unwrap(),
        passkey: Some(passkey(PASSKEY)),
        passkey_label: "first".into(),
    };
    Repository::create(dir, &options).unwrap()
}

pub(crate) fn take_in(repository: &Repository, source: &Path) -> Result<IngestReport, RepoError> {
    let progress = IngestProgress::default();
    ingest(repository, source, &IngestOptions::default(), &progress, &AtomicBool::new(false))
}

/// A future of this crate, run on a runtime of its own.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn open_disk(repository: &Repository, point: &PointManifest, index: usize) -> DiskMap {
    wait(repository.open_disk(point, index)).unwrap()
}

/// All bytes of a disk, block by block.
pub(crate) fn read_disk(map: &DiskMap) -> Result<Vec<u8>, RepoError> {
    wait(async {
        let mut bytes = Vec::new();
        for idx in 0..map.block_size().count(map.size()) {
            match map.entry(BlockIdx(idx)).await? {
                MapEntry::Zero => {
                    let range = map.block_size().range_of(BlockIdx(idx), map.size());
                    bytes.resize(bytes.len() + (range.end - range.start) as usize, 0);
                }
                MapEntry::Stored(block) => {
                    bytes.extend_from_slice(map.read_block(&block).await?.bytes())
                }
            }
        }
        Ok(bytes)
    })
}

/// All regular files below `dir`, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub(crate) fn packs(repository: &Repository) -> Vec<PathBuf> {
    files(&path(repository).join("packs"))
}

/// The directory of a repository.
pub(crate) fn path(repository: &Repository) -> &Path {
    repository.location().path().unwrap()
}
