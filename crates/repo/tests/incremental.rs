//! A list of changes stands for the whole disk: the point is the same, and the rest of the disk is not read.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::slice;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use rekindle_repo::{
    Changes, IngestCounts, IngestOptions, IngestProgress, IngestReport, PointId, RepoError,
    Repository, ingest,
};
use support::{MIB, create, open_disk, qemu_img, read_disk, take_in, write_raw};
use tempfile::TempDir;

const SIZE: u64 = 9 * MIB + 512;
const KEY: &str = "scsi0:0";

fn list(parent: &PointId, key: &str, ranges: &[Range<u64>]) -> Changes {
    let areas: Vec<_> = ranges
        .iter()
        .map(|r| format!("{{\"start\": {}, \"length\": {}}}", r.start, r.end - r.start))
        .collect();
    let json = format!("{{\"{key}\": [{}]}}", areas.join(", "));
    Changes::parse(parent.clone(), json.as_bytes()).unwrap()
}

fn take_changes(
    repository: &Repository,
    source: &Path,
    changes: Changes,
) -> Result<IngestReport, RepoError> {
    let options = IngestOptions {
        name: Some("shop".into()),
        changes: Some(changes),
        ..IngestOptions::default()
    };
    ingest(repository, source, &options, &IngestProgress::default(), &AtomicBool::new(false))
}

fn take_all(repository: &Repository, source: &Path) -> IngestReport {
    let options = IngestOptions { name: Some("shop".into()), ..IngestOptions::default() };
    let cancel = AtomicBool::new(false);
    ingest(repository, source, &options, &IngestProgress::default(), &cancel).unwrap()
}

fn adds_up(counts: &IngestCounts) -> bool {
    let parts = counts.zero + counts.unchanged + counts.deduplicated + counts.written;
    counts.done == counts.total && parts == counts.total
}

/// A repository, a disk and its first point.
struct Shop {
    dir: TempDir,
    repository: Repository,
    first: PointId,
}

impl Shop {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let repository = create(&dir.path().join("repo"));
        write_raw(&dir.path().join("shop.img"), 1, SIZE);
        let first = take_all(&repository, &dir.path().join("shop.img")).point.id;
        Self { dir, repository, first }
    }

    fn disk(&self) -> std::path::PathBuf {
        self.dir.path().join("shop.img")
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.disk()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn read(&self, report: &IngestReport) -> Vec<u8> {
        read_disk(&open_disk(&self.repository, &report.point, 0)).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written, zeros too, a point made from the list of it is the one that reading all would have made; and
    /// what is listed without need changes nothing.
    #[test]
    fn a_listed_point_is_the_whole_one(
        rounds in prop::collection::vec(
            prop::collection::vec((0..SIZE, 1u64..700_000, any::<u8>(), any::<bool>()), 0..6), 1..4),
    ) {
        let shop = Shop::new();
        let mut parent = shop.first.clone();
        for writes in rounds {
            let mut ranges = vec![];
            for (at, len, byte, written) in writes {
                let end = (at + len).min(SIZE);
                ranges.push(at..end);
                if written {
                    shop.write(at, &vec![byte; (end - at) as usize]);
                }
            }
            let changes = list(&parent, KEY, &ranges);
            let report = take_changes(&shop.repository, &shop.disk(), changes).unwrap();
            prop_assert!(shop.read(&report) == std::fs::read(shop.disk()).unwrap());
            prop_assert!(adds_up(&report.counts), "{:?}", report.counts);
            prop_assert_eq!(report.point.parent.as_ref(), Some(&parent));
            let whole = take_all(&shop.repository, &shop.disk());
            prop_assert_eq!(whole.point.disks[0].map_hash, report.point.disks[0].map_hash);
            prop_assert_eq!(whole.point.disks[0].stored_bytes, report.point.disks[0].stored_bytes);
            parent = report.point.id;
        }
    }
}

#[test]
fn what_is_not_listed_is_not_read() {
    let shop = Shop::new();
    shop.write(3 * MIB, &[7; 4096]);
    shop.write(6 * MIB, &[8; 4096]);
    let byte = 6 * MIB + 5..6 * MIB + 6;
    let changes = list(&shop.first, KEY, slice::from_ref(&byte));
    let report = take_changes(&shop.repository, &shop.disk(), changes).unwrap();
    assert_eq!(report.counts.read, 256 << 10, "one block");
    assert_eq!(report.counts.unchanged, SIZE - (256 << 10));
    let found = shop.read(&report);
    assert!(found[6 * MIB as usize..][..4096] == [8; 4096]);
    let old = support::expected(1, 3 * MIB, 4096);
    assert!(found[3 * MIB as usize..][..4096] == old, "a wrong list is the caller's risk");
}

#[test]
fn a_dirty_bitmap_tells_what_changed() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    let (raw, disk) = (dir.path().join("raw.img"), dir.path().join("shop.qcow2"));
    write_raw(&raw, 1, 200 * MIB);
    let path = disk.to_str().unwrap();
    // 4 KiB of bits reach over 128 MiB in granules of 4 KiB: the bitmap has two clusters.
    let options = ["-o", "cluster_size=4k"];
    qemu_img(&[&["convert", "-O", "qcow2"], &options[..], &[raw.to_str().unwrap(), path]].concat());
    let first = take_all(&repository, &disk).point.id;
    qemu_img(&["bitmap", "--add", "-g", "4096", path, "backup"]);
    qemu_img(&["bitmap", "--add", "-g", "65536", path, "other"]);
    let io = |commands: &[&str]| {
        let all = commands.iter().flat_map(|command| ["-c", command]);
        let out = Command::new("qemu-io").args(all).arg(path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    io(&["write -P 1 1M 4k", "write -z 40M 2M", "write -P 2 134213632 64k", "write -P 3 199M 1M"]);
    for name in ["backup", "other"] {
        let changes = Changes::dirty_bitmap(first.clone(), name);
        let report = take_changes(&repository, &disk, changes).unwrap();
        let after = dir.path().join("after.img");
        qemu_img(&["convert", "-O", "raw", path, after.to_str().unwrap()]);
        let found = read_disk(&open_disk(&repository, &report.point, 0)).unwrap();
        assert!(found == std::fs::read(after).unwrap(), "{name}");
        assert!(report.counts.read <= 5 * MIB && adds_up(&report.counts), "{:?}", report.counts);
    }
    let refused = |name: &str, why: &str| {
        let changes = Changes::dirty_bitmap(first.clone(), name);
        let error = take_changes(&repository, &disk, changes).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    };
    refused("nothing", "does not exist");
    // As QEMU leaves it while a guest runs, or was killed: in the directory, of which there are older copies.
    let mut bytes = std::fs::read(&disk).unwrap();
    let names = bytes.windows(6).enumerate().filter(|(_, word)| word == b"backup");
    for name in names.map(|(at, _)| at).collect::<Vec<_>>() {
        bytes[name - 24 + 15] |= 1;
    }
    std::fs::write(&disk, &bytes).unwrap();
    refused("backup", "in use");
    // As software leaves it that does not know of bitmaps: the automatically cleared bit.
    bytes[95] = 0;
    std::fs::write(&disk, &bytes).unwrap();
    refused("other", "kept up to date");
    let error = take_changes(&repository, &raw, Changes::dirty_bitmap(first, "backup"));
    assert!(matches!(error, Err(RepoError::Refused { .. })), "{error:?}");
}

#[test]
fn changes_of_another_vm_or_disk_are_refused() {
    let shop = Shop::new();
    let refused = |changes: Changes, source: &Path, why: &str| {
        let error = take_changes(&shop.repository, source, changes).unwrap_err();
        assert!(matches!(error, RepoError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    };
    let disk = shop.disk();
    refused(list(&shop.first, "scsi0:1", &[]), &disk, "names the disk \"scsi0:1\"");
    refused(Changes::parse(shop.first.clone(), b"{}").unwrap(), &disk, "does not name the disk");
    let over = 0..SIZE + 1;
    refused(list(&shop.first, KEY, slice::from_ref(&over)), &disk, "which has");
    let other = shop.dir.path().join("other.img");
    write_raw(&other, 2, SIZE);
    let others = take_in(&shop.repository, &other).unwrap().point.id;
    refused(list(&others, KEY, &[]), &disk, "is of the VM");
    write_raw(&disk, 1, SIZE + 512);
    refused(list(&shop.first, KEY, &[]), &disk, "ingest all of it");
    let never: PointId = "never".parse().unwrap();
    let result = take_changes(&shop.repository, &disk, list(&never, KEY, &[]));
    assert!(matches!(result, Err(RepoError::NotFound { .. })), "{result:?}");
}
