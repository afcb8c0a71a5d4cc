//! Every planted fault is found by whoever reads what it hit, and by a check; and hides nothing else.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use rekindle_repo::{
    CheckOptions, CheckProgress, CheckReport, CheckScope, PointManifest, RepoError, Repository,
    check,
};
use support::{
    MIB, create, create_with_blocks, expected, open_disk, packs, read_disk, take_in, wait,
    write_raw,
};
use tempfile::TempDir;

fn check_all(repository: &Repository) -> CheckReport {
    check(repository, &CheckOptions::default(), &CheckProgress::default(), &AtomicBool::new(false))
        .unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Two VMs, so that damage to one can be told from damage to both.
fn two_points(dir: &Path) -> (Repository, [PointManifest; 2]) {
    let repository = create(&dir.join("repo"));
    let points = [1, 2].map(|disk| {
        let path = dir.join(format!("vm{disk}.img"));
        write_raw(&path, disk, 5 * MIB + 512);
        take_in(&repository, &path).unwrap().point
    });
    (repository, points)
}

#[test]
fn a_sound_repository_checks_out() {
    let dir = TempDir::new().unwrap();
    let (repository, points) = two_points(dir.path());
    let report = check_all(&repository);
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!((report.points, report.blocks), (2, 2 * 13), "{report:?}");
    let scope = CheckScope::Point(points[0].id.clone());
    let one = CheckOptions { scope, ..CheckOptions::default() };
    let progress = CheckProgress::default();
    let report = check(&repository, &one, &progress, &AtomicBool::new(false)).unwrap();
    assert_eq!((report.points, report.blocks), (1, 13));
    assert_eq!((progress.done(), progress.total()), (5 * MIB + 512, 5 * MIB + 512));
    let cancelled = check(&repository, &CheckOptions::default(), &progress, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(RepoError::Cancelled)));
    let scope = CheckScope::Point("none".parse().unwrap());
    let none = CheckOptions { scope, ..CheckOptions::default() };
    assert!(matches!(
        check(&repository, &none, &progress, &AtomicBool::new(false)),
        Err(RepoError::NotFound { .. })
    ));
}

#[test]
fn a_damaged_block_is_an_error_and_never_other_bytes() {
    let dir = TempDir::new().unwrap();
    let (repository, points) = two_points(dir.path());
    for pack in packs(&repository) {
        flip(&pack, 700_000);
    }
    for point in &points {
        let error = read_disk(&open_disk(&repository, point, 0)).unwrap_err();
        assert!(matches!(error, RepoError::Corrupt { .. }), "{error:?}");
    }
    let report = check_all(&repository);
    assert_eq!(report.problem_count, 2, "{:?}", report.problems);
    assert_eq!(report.blocks, 2 * 12, "the other blocks are sound");
}

#[test]
fn every_part_of_a_pack_is_vouched_for() {
    let dir = TempDir::new().unwrap();
    let (repository, _) = two_points(dir.path());
    let pack = &packs(&repository)[0];
    let len = std::fs::metadata(pack).unwrap().len();
    // Head, blocks, index, tail.
    for at in [0, 9, 16, 20_000, len - 65, len - 64 - 48 * 5, len - 64, len - 50, len - 40, len - 1]
    {
        flip(pack, at);
        let sound = check_all(&repository).is_sound();
        // Bytes 24..32 of the tail are spare.
        assert_eq!(sound, (len - 40..len - 32).contains(&at), "byte {at} of {len}");
        flip(pack, at);
    }
    assert!(check_all(&repository).is_sound());
}

#[test]
fn a_missing_or_cut_pack_is_corrupt_and_not_retried() {
    let dir = TempDir::new().unwrap();
    let (repository, points) = two_points(dir.path());
    let all = packs(&repository);
    std::fs::remove_file(&all[0]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&all[1]).unwrap().set_len(50_000).unwrap();
    for point in &points {
        let error = read_disk(&open_disk(&repository, point, 0)).unwrap_err();
        assert!(matches!(error, RepoError::Corrupt { .. }), "{error:?}");
    }
    assert!(!check_all(&repository).is_sound());
    // What is damaged is not reused: a new ingest stores it again and is sound.
    std::fs::remove_file(&all[1]).unwrap();
    let point = take_in(&repository, &dir.path().join("vm1.img")).unwrap().point;
    assert!(
        read_disk(&open_disk(&repository, &point, 0)).unwrap()
            == expected(1, 0, 5 * MIB as usize + 512)
    );
}

#[test]
fn a_page_put_in_the_place_of_another_is_found() {
    let dir = TempDir::new().unwrap();
    let repository = create_with_blocks(&dir.path().join("repo"), 4096);
    let path = dir.path().join("vm.img");
    // Full of data, so that every page of its map has the same length.
    std::fs::write(
        &path,
        (0..12 * MIB / 3)
            .flat_map(|n| (n as u32 * 7).to_le_bytes()[..3].to_vec())
            .collect::<Vec<_>>(),
    )
    .unwrap();
    let point = take_in(&repository, &path).unwrap().point;
    let map = support::path(&repository).join("maps").join(format!("{}.map", point.disks[0].map));
    let bytes = std::fs::read(&map).unwrap();
    let page = 512 * 48;
    assert!(bytes.len() > 16 + 2 * page);
    let mut swapped = bytes.clone();
    swapped[16..16 + page].copy_from_slice(&bytes[16 + page..16 + 2 * page]);
    std::fs::write(&map, swapped).unwrap();
    let error = read_disk(&open_disk(&repository, &point, 0)).unwrap_err();
    assert!(matches!(error, RepoError::Corrupt { .. }), "{error:?}");
    assert_eq!(check_all(&repository).problem_count, 1);
}

#[test]
fn a_damaged_map_is_found_wherever_the_bit_is() {
    let dir = TempDir::new().unwrap();
    let (repository, points) = two_points(dir.path());
    let map =
        support::path(&repository).join("maps").join(format!("{}.map", points[0].disks[0].map));
    let len = std::fs::metadata(&map).unwrap().len();
    for at in (16..len).step_by(37) {
        flip(&map, at);
        let read = wait(repository.open_disk(&points[0], 0)).and_then(|map| read_disk(&map));
        assert!(matches!(read, Err(RepoError::Corrupt { .. })), "byte {at} of {len}");
        flip(&map, at);
    }
    let other = points[1].disks[0].map.to_string();
    let exchanged = PointManifest { disks: points[1].disks.clone(), ..points[0].clone() };
    assert!(
        read_disk(&open_disk(&repository, &exchanged, 0)).unwrap()
            == expected(2, 0, 5 * MIB as usize + 512)
    );
    std::fs::copy(&map, map.with_file_name(format!("{other}.map"))).unwrap();
    let error = wait(repository.open_disk(&points[1], 0)).unwrap_err();
    assert!(matches!(error, RepoError::Corrupt { .. }), "{error:?}");
    std::fs::remove_file(&map).unwrap();
    assert!(matches!(wait(repository.open_disk(&points[0], 0)), Err(RepoError::Corrupt { .. })));
}

#[test]
fn damaged_manifests_hide_nothing_else() {
    let dir = TempDir::new().unwrap();
    let (repository, points) = two_points(dir.path());
    let points_dir = support::path(&repository).join("points");
    let manifest = points_dir.join(points[0].vm.id.as_str()).join(format!("{}.json", points[0].id));
    flip(&manifest, 300);
    // A stray file, a directory by a manifest's name, and the manifest of another point.
    std::fs::write(points_dir.join("README"), b"hello").unwrap();
    let vm_dir = points_dir.join(points[1].vm.id.as_str());
    std::fs::create_dir(vm_dir.join("x.json")).unwrap();
    let good = std::fs::read(vm_dir.join(format!("{}.json", points[1].id))).unwrap();
    std::fs::write(vm_dir.join("20200101t000000z-00000000.json"), &good).unwrap();
    let huge = std::fs::File::create(vm_dir.join("huge.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let listing = wait(repository.points()).unwrap();
    assert_eq!(listing.points, [points[1].clone()]);
    assert_eq!(listing.damaged.len(), 5, "{:?}", listing.damaged);
    assert!(matches!(wait(repository.point(&points[0].id)), Err(RepoError::Corrupt { .. })));
    assert!(matches!(
        wait(repository.point(&"none".parse().unwrap())),
        Err(RepoError::NotFound { .. })
    ));
    assert!(matches!(wait(repository.latest("nobody")), Err(RepoError::NotFound { .. })));
    assert_eq!(check_all(&repository).problem_count, 5);
}

#[test]
fn what_is_no_repository_is_not_opened() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(Repository::open(dir.path()), Err(RepoError::NotFound { .. })));
    let repository = create(&dir.path().join("repo"));
    let record = support::path(&repository).join("repository.json");
    let good = std::fs::read_to_string(&record).unwrap();
    let cases = [
        (good.replace("\"version\": 1", "\"version\": 2"), "version 2"),
        (good.replace("262144", "1000"), "1000"),
        (good.replace("null", "{\"kind\":\"x\"}"), "encrypted"),
        (good[..20].to_owned(), "corrupt"),
        (" ".repeat(70_000), "longer"),
    ];
    for (text, wanted) in cases {
        std::fs::write(&record, text).unwrap();
        let error = Repository::open(support::path(&repository)).unwrap_err();
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
    }
    let full = Repository::create(support::path(&repository), &Default::default()).unwrap_err();
    assert!(matches!(full, RepoError::Refused { .. }), "{full:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A map of any bytes, vouched for by a manifest that lies, is an error or zeros; never a panic or a large
    /// allocation.
    #[test]
    fn a_forged_map_is_refused(
        seed in prop::collection::vec((0usize..30_000, any::<[u8; 8]>()), 1..8),
        size in prop_oneof![Just(5 * MIB + 512), 1u64..64 << 40],
        root in any::<bool>(),
    ) {
        let dir = TempDir::new().unwrap();
        let (repository, points) = two_points(dir.path());
        let mut point = points[0].clone();
        let map = support::path(&repository).join("maps").join(format!("{}.map", point.disks[0].map));
        let mut bytes = std::fs::read(&map).unwrap();
        for (at, word) in seed {
            let at = at % (bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&word);
        }
        std::fs::write(&map, &bytes).unwrap();
        point.disks[0].size_bytes = size.next_multiple_of(512);
        if root {
            let root_bytes = bytes.len().min(112);
            point.disks[0].map_hash = rekindle_block::BlockHash::of(&bytes[bytes.len() - root_bytes..]);
        }
        if let Ok(map) = wait(repository.open_disk(&point, 0)) {
            for idx in [0, 1, 5, 20, 511, 512, 1 << 20, u64::MAX] {
                let idx = rekindle_block::BlockIdx(idx);
                let _ = map.try_entry(idx);
                if let Ok(rekindle_repo::MapEntry::Stored(block)) = wait(map.entry(idx)) {
                    let _ = wait(map.read_block(&block));
                }
            }
        }
    }
}
