//! An ingest that is cancelled, killed or out of space leaves no point, and can be run again at once.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/points.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rekindle_repo::{
    CheckOptions, CheckProgress, IngestOptions, IngestProgress, RepoError, Repository, check,
    ingest,
};
use support::{MIB, create, files, packs, read_disk, take_in, wait, write_raw};
use tempfile::TempDir;

const CHILD: &str = "REKINDLE_TEST_INGEST_CHILD";

/// Three packs' worth of disk with hardly a hole.
fn write_noise(path: &Path, mib: u64) {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for mib in 0..mib {
        // MiB 0 of each test disk is noise, and no two disks are alike.
        out.write_all(&support::expected(mib + 1000, 0, MIB as usize)).unwrap();
    }
    out.flush().unwrap();
}

fn is_sound(repository: &Repository) -> bool {
    let none = AtomicBool::new(false);
    check(repository, &CheckOptions::default(), &CheckProgress::default(), &none)
        .unwrap()
        .is_sound()
}

/// Not a test of its own: what the next one starts as a process and kills.
#[test]
fn child_that_ingests() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = PathBuf::from(dir);
    let repository = Repository::open(&dir.join("repo")).unwrap();
    println!("child has started");
    take_in(&repository, &dir.join("disk.img")).unwrap();
}

/// Starts a process that ingests and kills it as soon as `when` says so.
fn kill_an_ingest(dir: &Path, when: impl Fn() -> bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_ingests", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("child has started")));
    while !when() {
        assert!(child.try_wait().unwrap().is_none(), "the child was done before it was killed");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_ingest_leaves_no_point_and_its_packs_are_used() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_noise(&dir.path().join("disk.img"), 220);
    let tmp = support::path(&repository).join("tmp");
    // First as soon as it writes at all, then when it has a whole pack.
    kill_an_ingest(dir.path(), || !files(&tmp).is_empty());
    assert!(wait(repository.points()).unwrap().points.is_empty());
    kill_an_ingest(dir.path(), || !packs(&repository).is_empty());
    let listing = wait(repository.points()).unwrap();
    assert!(listing.points.is_empty() && listing.damaged.is_empty());
    assert!(!packs(&repository).is_empty());

    let report = take_in(&repository, &dir.path().join("disk.img")).unwrap();
    assert!(report.counts.deduplicated >= 64 * MIB, "{:?}", report.counts);
    assert_eq!(report.counts.done, 220 * MIB);
    assert!(files(&tmp).is_empty(), "what was half written is gone");
    let bytes = read_disk(&support::open_disk(&repository, &report.point, 0)).unwrap();
    assert!(bytes == std::fs::read(dir.path().join("disk.img")).unwrap());
    assert!(is_sound(&repository));
}

#[test]
fn a_cancelled_ingest_leaves_no_point() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_noise(&dir.path().join("disk.img"), 100);
    let (progress, cancel) = (IngestProgress::default(), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            ingest(
                &repository,
                &dir.path().join("disk.img"),
                &IngestOptions::default(),
                &progress,
                &cancel,
            )
        });
        while progress.counts().done == 0 {
            std::thread::yield_now();
        }
        cancel.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(matches!(result, Err(RepoError::Cancelled)), "{result:?}");
    assert!(wait(repository.points()).unwrap().points.is_empty());
    assert!(files(&support::path(&repository).join("tmp")).is_empty());
    assert!(files(&support::path(&repository).join("maps")).is_empty());
    take_in(&repository, &dir.path().join("disk.img")).unwrap();
    assert!(is_sound(&repository));
}

#[test]
fn one_writer_at_a_time_and_readers_any_time() {
    let dir = TempDir::new().unwrap();
    let repository = create(&dir.path().join("repo"));
    write_raw(&dir.path().join("a.img"), 1, MIB);
    let point = take_in(&repository, &dir.path().join("a.img")).unwrap().point;
    let lock = std::fs::File::open(support::path(&repository).join("lock")).unwrap();
    lock.lock().unwrap();
    let error = take_in(&repository, &dir.path().join("a.img")).unwrap_err();
    assert!(matches!(error, RepoError::Unavailable { .. }), "{error:?}");
    assert_eq!(wait(repository.points()).unwrap().points, [point]);
    lock.unlock().unwrap();
    take_in(&repository, &dir.path().join("a.img")).unwrap();
}

/// A file system of its own of a few MiB, if this process may mount one.
struct Small(TempDir);

impl Small {
    fn mount(mib: u64) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", dir.path().to_str().unwrap()])
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_repository_says_so_and_keeps_nothing_of_the_point() {
    let Some(small) = Small::mount(180) else {
        eprintln!("skipped: this process may not mount a tmpfs");
        return;
    };
    let dir = TempDir::new().unwrap();
    let repository = create(&small.0.path().join("repo"));
    write_noise(&dir.path().join("small.img"), 8);
    let kept = take_in(&repository, &dir.path().join("small.img")).unwrap().point;
    let before = files(support::path(&repository));
    // Fills it in the third pack, so that whole packs have to be taken back.
    write_noise(&dir.path().join("big.img"), 250);
    let error = take_in(&repository, &dir.path().join("big.img")).unwrap_err();
    assert!(matches!(error, RepoError::Full), "{error:?}");
    assert_eq!(files(support::path(&repository)), before);
    assert_eq!(wait(repository.points()).unwrap().points, [kept]);
    assert!(is_sound(&repository));
    write_noise(&dir.path().join("fits.img"), 20);
    take_in(&repository, &dir.path().join("fits.img")).unwrap();
    assert!(is_sound(&repository));
}
