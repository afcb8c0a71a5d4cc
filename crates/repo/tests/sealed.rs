//! A sealed repository: what goes in comes out with a passkey, nothing without one, and nothing that was changed or
//! moved.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rekindle_block::{BlockHash, BlockIdx};
use rekindle_repo::{
    CheckOptions, CheckProgress, CheckReport, IngestOptions, IngestProgress, MapEntry,
    PointManifest, RepoError, Repository, check, ingest,
};
use support::{
    MIB, PASSKEY, create, create_sealed, expected, files, open_disk, packs, passkey, path,
    qemu_img, read_disk, take_in, wait, write_raw,
};
use tempfile::TempDir;

const SIZE: u64 = 5 * MIB + 512;

fn check_all(repository: &Repository) -> CheckReport {
    check(repository, &CheckOptions::default(), &CheckProgress::default(), &AtomicBool::new(false))
        .unwrap()
}

fn reopen(repository: &Repository) -> Repository {
    Repository::open_with(path(repository), Some(&passkey(PASSKEY))).unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// A VM with a name, a disk file's name, a tag and an nvram that can be searched for.
fn write_vm(dir: &Path, disk: u64) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    write_raw(&dir.join("disk-needle.img"), disk, SIZE);
    std::fs::write(dir.join("web.nvram"), b"nvram-needle".repeat(700)).unwrap();
    let vmx = "displayName = \"vm-needle\"\nnvram = \"web.nvram\"\nscsi0.present = \"TRUE\"\n\
        uuid.bios = \"56 4d 00 11 22 33 44 55-66 77 88 99 aa bb cc dd\"\n\
        scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"disk-needle.img\"\n";
    std::fs::write(dir.join("web.vmx"), vmx).unwrap();
    dir.join("web.vmx")
}

fn take_in_vm(repository: &Repository, dir: &Path, disk: u64) -> PointManifest {
    let source = write_vm(dir, disk);
    let options = IngestOptions {
        tags: vec!["tag-needle".into()],
        created_at: Some(format!("2025-01-02T03:04:0{disk}Z").parse().unwrap()),
        ..IngestOptions::default()
    };
    let never = AtomicBool::new(false);
    let report = ingest(repository, &source, &options, &IngestProgress::default(), &never);
    report.unwrap().point
}

#[test]
fn every_format_and_block_size_comes_out_as_it_went_in() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("source.img");
    write_raw(&raw, 1, SIZE);
    let qcow2 = dir.path().join("source.qcow2");
    let names = [raw.to_str().unwrap(), qcow2.to_str().unwrap()];
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", names[0], names[1]]);
    for block in [4096, 65_536, 262_144, 4 << 20] {
        let repository = create_sealed(&dir.path().join(format!("repo{block}")), block);
        for (image, stored_again) in [(&raw, false), (&qcow2, true)] {
            let report = take_in(&reopen(&repository), image).unwrap();
            let map = open_disk(&reopen(&repository), &report.point, 0);
            assert!(read_disk(&map).unwrap() == expected(1, 0, SIZE as usize), "{block}");
            // What is sealed is still stored once.
            assert_eq!(report.counts.written == 0, stored_again, "{block}: {:?}", report.counts);
        }
        assert!(check_all(&repository).is_sound(), "{block}");
    }
}

#[test]
fn the_vm_is_kept_with_all_it_has_and_knows_its_parent() {
    let dir = TempDir::new().unwrap();
    let repository = create_sealed(&dir.path().join("repo"), 65_536);
    let first = take_in_vm(&repository, &dir.path().join("vm"), 1);
    let second = take_in_vm(&repository, &dir.path().join("vm"), 2);
    assert_eq!(second.parent.as_ref(), Some(&first.id));
    let opened = reopen(&repository);
    assert!(wait(opened.point(&first.id)).unwrap() == first);
    assert!(wait(opened.latest("vm-needle")).unwrap() == second);
    assert!(wait(opened.points()).unwrap().points == [first, second]);
}

#[test]
fn no_object_tells_anything_of_what_is_in_it() {
    let dir = TempDir::new().unwrap();
    let vm = dir.path().join("vm");
    let search = |repository: &Repository| {
        let point = take_in_vm(repository, &vm, 1);
        let map = open_disk(repository, &point, 0);
        let mut needles: Vec<Vec<u8>> =
            ["needle", "web.nvram", "564d0011", "scsi0", "displayName", "nvram"]
                .map(|text| text.as_bytes().to_vec())
                .to_vec();
        needles.push(point.disks[0].map_hash.as_bytes().to_vec());
        for idx in 0..map.block_size().count(map.size()) {
            if let MapEntry::Stored(block) = wait(map.entry(BlockIdx(idx))).unwrap() {
                let plain = expected(1, idx * 65_536, block.plain_len() as usize);
                assert_eq!(BlockHash::of(&plain), block.hash());
                needles.push(block.hash().as_bytes()[..8].to_vec());
                needles.push(block.hash().to_string().into_bytes());
                needles.push(plain[..24].to_vec());
            }
        }
        let mut found = 0;
        for file in files(path(repository)) {
            let name = file.strip_prefix(path(repository)).unwrap().to_str().unwrap().to_owned();
            let bytes = [name.into_bytes(), std::fs::read(&file).unwrap()].concat();
            found += needles.iter().filter(|needle| contains(&bytes, needle)).count();
        }
        found
    };
    let open = create_with_64k(&dir.path().join("open"));
    assert!(search(&open) > 100, "the search finds what is there");
    assert_eq!(search(&create_sealed(&dir.path().join("sealed"), 65_536)), 0);
}

fn create_with_64k(dir: &Path) -> Repository {
    support::create_with_blocks(dir, 65_536)
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|part| part == needle)
}

#[test]
fn only_the_passkey_opens_it_and_a_wrong_one_is_told_at_once() {
    let dir = TempDir::new().unwrap();
    let repository = create_sealed(&dir.path().join("repo"), 65_536);
    let dir_of = path(&repository);
    let started = Instant::now();
    for wrong in [None, Some(&passkey("correct horse battery stable"))] {
        let error = Repository::open_with(dir_of, wrong).unwrap_err();
        assert!(matches!(error, RepoError::Locked { .. }), "{error:?}");
    }
    // A second where nothing else runs; tests share their cores.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(reopen(&repository).check_passkey(&passkey("nonsense")).is_err());
    assert!(reopen(&repository).check_passkey(&passkey(PASSKEY)).is_ok());
    // Another repository in its place, to have something written in the clear.
    let open = create(&dir.path().join("open"));
    let error = Repository::open_with(path(&open), Some(&passkey(PASSKEY))).unwrap_err();
    assert!(error.to_string().contains("not sealed"), "{error}");
    assert!(!dir.path().join("open/keys").exists());
}

#[test]
fn a_passkey_is_changed_and_nothing_else_is() {
    let dir = TempDir::new().unwrap();
    let repository = create_sealed(&dir.path().join("repo"), 65_536);
    let point = take_in_vm(&repository, &dir.path().join("vm"), 1);
    let content = || {
        let kept = files(path(&repository)).into_iter();
        let kept = kept.filter(|file| !file.starts_with(path(&repository).join("keys")));
        kept.map(|file| (std::fs::read(&file).unwrap(), file)).collect::<Vec<_>>()
    };
    let before = content();
    let only = repository.remove_passkey("first").unwrap_err();
    assert!(matches!(only, RepoError::Refused { .. }), "{only:?}");
    let added = repository.add_passkey(&passkey("second passkey"), "second").unwrap();
    assert_eq!(repository.passkeys().unwrap().len(), 2);
    assert!(matches!(repository.remove_passkey("third"), Err(RepoError::NotFound { .. })));
    assert_eq!(repository.remove_passkey("first").unwrap().label, "first");
    assert_eq!(repository.passkeys().unwrap(), [added]);
    assert!(content() == before, "no other object was touched");
    let old = Repository::open_with(path(&repository), Some(&passkey(PASSKEY))).unwrap_err();
    assert!(matches!(old, RepoError::Locked { .. }), "{old:?}");
    assert!(repository.check_passkey(&passkey(PASSKEY)).is_err(), "also by who has it open");
    let opened =
        Repository::open_with(path(&repository), Some(&passkey("second passkey"))).unwrap();
    let bytes = read_disk(&open_disk(&opened, &point, 0)).unwrap();
    assert!(bytes == expected(1, 0, SIZE as usize));
    // Sixteen and no more.
    for number in 1..16 {
        opened.add_passkey(&passkey("second passkey"), &number.to_string()).unwrap();
    }
    let full = opened.add_passkey(&passkey("one too many"), "").unwrap_err();
    assert!(matches!(full, RepoError::Refused { .. }), "{full:?}");
}

#[test]
fn keys_of_another_repository_or_damaged_ones_open_nothing_and_hide_none() {
    let dir = TempDir::new().unwrap();
    let repository = create_sealed(&dir.path().join("repo"), 65_536);
    let other = create_sealed(&dir.path().join("other"), 65_536);
    let keys = path(&repository).join("keys");
    let own = files(&keys).remove(0);
    let foreign = files(&path(&other).join("keys")).remove(0);
    std::fs::copy(&foreign, keys.join(foreign.file_name().unwrap())).unwrap();
    std::fs::write(keys.join("0000000000000000.json"), b"{}").unwrap();
    std::fs::write(keys.join("README"), vec![0; 100_000]).unwrap();
    reopen(&repository);
    for at in (0..std::fs::metadata(&own).unwrap().len()).step_by(41) {
        flip(&own, at);
        let opened = Repository::open_with(path(&repository), Some(&passkey(PASSKEY)));
        assert!(matches!(opened, Err(RepoError::Locked { .. })), "byte {at}");
        flip(&own, at);
    }
    reopen(&repository);
    // A record that says another block size, or another key, breaks the keys.
    let record = path(&repository).join("repository.json");
    let good = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, good.replace("65536", "4096")).unwrap();
    let error = Repository::open_with(path(&repository), Some(&passkey(PASSKEY))).unwrap_err();
    assert!(matches!(error, RepoError::Locked { .. }), "{error:?}");
    let cipher = good.replace("aes-256-gcm", "rot13");
    std::fs::write(&record, cipher).unwrap();
    let error = Repository::open_with(path(&repository), Some(&passkey(PASSKEY))).unwrap_err();
    assert!(error.to_string().contains("encrypted in a way"), "{error}");
}

#[test]
fn each_flipped_bit_is_found_wherever_it_is() {
    let dir = TempDir::new().unwrap();
    let repository = create_sealed(&dir.path().join("repo"), 65_536);
    let point = take_in_vm(&repository, &dir.path().join("vm"), 1);
    for folder in ["maps", "packs", "points"] {
        let path = files(&path(&repository).join(folder)).remove(0);
        let len = std::fs::metadata(&path).unwrap().len();
        let ends = (0..len).filter(|at| *at < 200 || at + 200 >= len);
        for at in ends.chain((200..len.saturating_sub(200)).step_by(50_021)) {
            flip(&path, at);
            let sound = check_all(&repository).is_sound();
            // The magic of a map is before its first page, and bytes 24..32 of a pack's tail are spare.
            let spare = match folder {
                "maps" => at < 16,
                "packs" => (len - 40..len - 32).contains(&at),
                _ => false,
            };
            assert_eq!(sound, spare, "byte {at} of {len} in {folder}");
            flip(&path, at);
        }
    }
    assert!(check_all(&repository).is_sound());
    assert!(wait(repository.points()).unwrap().points == [point]);
}

#[test]
fn what_is_moved_to_another_place_does_not_open() {
    let dir = TempDir::new().unwrap();
    let repository = create_sealed(&dir.path().join("repo"), 65_536);
    let points = [1, 2].map(|disk| take_in_vm(&repository, &dir.path().join("vm"), disk));
    let place = |map: &rekindle_repo::DiskMap, idx| match wait(map.entry(BlockIdx(idx))).unwrap() {
        MapEntry::Stored(block) => block,
        MapEntry::Zero => panic!("block {idx} is stored"),
    };
    let map = open_disk(&repository, &points[0], 0);
    let (a, b) = (place(&map, 0), place(&map, 1));
    assert_eq!(a.stored_len(), b.stored_len(), "noise does not shrink");
    // Blocks 0 and 1 lie first in the first point's pack, behind its head of 16 bytes.
    let len = a.stored_len() as usize;
    let broken = packs(&repository).into_iter().filter(|path| {
        let good = std::fs::read(path).unwrap();
        let mut bytes = good.clone();
        let (first, rest) = bytes[16..].split_at_mut(len);
        first.swap_with_slice(&mut rest[..len]);
        std::fs::write(path, bytes).unwrap();
        let broken = [a, b].map(|block| wait(map.read_block(&block)).is_err());
        std::fs::write(path, good).unwrap();
        broken == [true, true]
    });
    assert_eq!(broken.count(), 1, "blocks that changed places do not open");
    assert!([a, b].iter().all(|block| wait(map.read_block(block)).is_ok()));
    // A map and a manifest under each other's name.
    let maps = path(&repository).join("maps");
    let [first, second] = [0, 1].map(|n| maps.join(format!("{}.map", points[n].disks[0].map)));
    let good = std::fs::read(&second).unwrap();
    std::fs::copy(&first, &second).unwrap();
    assert!(matches!(wait(repository.open_disk(&points[1], 0)), Err(RepoError::Corrupt { .. })));
    std::fs::write(&second, good).unwrap();
    let manifests = files(&path(&repository).join("points"));
    assert_eq!(manifests.len(), 2);
    std::fs::copy(&manifests[0], &manifests[1]).unwrap();
    let listing = wait(repository.points()).unwrap();
    assert_eq!((listing.points.len(), listing.damaged.len()), (1, 1), "{:?}", listing.damaged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Objects of any bytes are errors or what was written; never a panic or other bytes.
    #[test]
    fn forged_objects_are_refused(
        object in 0usize..8,
        words in prop::collection::vec((any::<usize>(), any::<[u8; 8]>()), 1..8),
        cut in prop::option::of(any::<usize>()),
    ) {
        let dir = TempDir::new().unwrap();
        let repository = create_sealed(&dir.path().join("repo"), 65_536);
        take_in_vm(&repository, &dir.path().join("vm"), 1);
        let all = files(path(&repository));
        let file = &all[object % all.len()];
        let mut bytes = std::fs::read(file).unwrap();
        if bytes.len() > 8 {
            for (at, word) in words {
                let at = at % (bytes.len() - 8);
                bytes[at..at + 8].copy_from_slice(&word);
            }
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut % (bytes.len() + 1)));
        std::fs::write(file, bytes).unwrap();
        if let Ok(opened) = Repository::open_with(path(&repository), Some(&passkey(PASSKEY))) {
            let _ = check(&opened, &CheckOptions::default(), &CheckProgress::default(), &AtomicBool::new(false));
            for point in wait(opened.points()).unwrap().points {
                if let Ok(map) = wait(opened.open_disk(&point, 0))
                    && let Ok(bytes) = read_disk(&map)
                {
                    prop_assert!(bytes == expected(1, 0, SIZE as usize));
                }
            }
        }
    }
}
