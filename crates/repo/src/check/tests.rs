use std::path::{Path, PathBuf};
use std::thread;

use rekindle_block::BlockSize;
use tempfile::TempDir;

use super::*;
use crate::prune::{PruneOptions, PruneProgress, Retention, prune};
use crate::store::Writer;
use crate::{CreateOptions, IngestOptions, IngestProgress, Passkey, PointManifest, ingest};

static NEVER: AtomicBool = AtomicBool::new(false);
/// Blocks of a disk: three leaves of a map.
const BLOCKS: u64 = 1100;

struct World {
    dir: TempDir,
    repository: Repository,
}

impl World {
    fn new(sealed: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let options = CreateOptions {
            block_size: BlockSize::new(4096).unwrap(),
            passkey: sealed.then(|| Passkey::new("a passkey of a test").unwrap()),
            ..CreateOptions::default()
        };
        let repository = Repository::create(&dir.path().join("repo"), &options).unwrap();
        Self { dir, repository }
    }

    /// A point whose disk is all its own but for the last block, which every disk has.
    fn take_in(&self, disk: u64) -> PointManifest {
        let path = self.dir.path().join("disk.img");
        let word = |n: u64| if n == BLOCKS - 1 { u64::MAX } else { disk << 32 | (n + 1) };
        let bytes: Vec<u8> = (0..BLOCKS).flat_map(|n| word(n).to_le_bytes().repeat(512)).collect();
        std::fs::write(&path, bytes).unwrap();
        let options =
            IngestOptions { name: Some(format!("vm-{disk}")), ..IngestOptions::default() };
        let progress = IngestProgress::default();
        ingest(&self.repository, &path, &options, &progress, &NEVER).unwrap().point
    }

    fn check(&self, options: &CheckOptions) -> CheckReport {
        check(&self.repository, options, &CheckProgress::default(), &NEVER).unwrap()
    }

    fn badge(&self, point: &PointManifest) -> Option<(CheckDepth, bool)> {
        let book = Book::read(self.repository.store(), self.repository.seal()).unwrap();
        let badge = book.into_badges().get(&point.id).cloned()?;
        Some((badge.depth, badge.is_sound()))
    }

    fn path(&self) -> &Path {
        self.repository.location().path().unwrap()
    }

    /// The packs, those written first first.
    fn packs(&self) -> Vec<PathBuf> {
        let packs = self.repository.store().list_packs_blocking().unwrap();
        let object = |pack| self.path().join(crate::store::pack_object(pack));
        packs.into_iter().rev().map(object).collect()
    }

    fn map(&self, point: &PointManifest) -> PathBuf {
        self.path().join(crate::store::map_object(&point.disks[0].map))
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn kept(depth: CheckDepth) -> CheckOptions {
    CheckOptions { depth, keep: true, resume: true, ..CheckOptions::default() }
}

#[test]
fn each_point_has_the_badge_of_what_was_found_also_of_a_block_that_it_shares() {
    for sealed in [false, true] {
        let world = World::new(sealed);
        let (first, second) = (world.take_in(1), world.take_in(2));
        assert_eq!(world.badge(&first), None);
        let report = world.check(&kept(CheckDepth::Structure));
        assert_eq!((report.points, report.blocks, report.problem_count), (2, 0, 0));
        assert_eq!(world.badge(&first), Some((CheckDepth::Structure, true)));
        let report = world.check(&kept(CheckDepth::Data));
        assert_eq!((report.points, report.blocks), (2, 2 * BLOCKS - 1));
        assert_eq!(world.badge(&second), Some((CheckDepth::Data, true)));
        // The last block of the first pack is everybody's; its index is behind it.
        let pack = world.packs()[0].clone();
        let index = crate::pack::read::read_index(
            world.repository.store(),
            world.repository.seal(),
            crate::store::pack_of(pack.to_str().unwrap()).unwrap(),
        );
        let last = *index.unwrap().last().unwrap();
        flip(&pack, last.stored_range().start as usize + 3);
        let sound = world.check(&kept(CheckDepth::Structure));
        assert!(sound.is_sound(), "{:?}", sound.problems);
        let report = world.check(&kept(CheckDepth::Data));
        assert_eq!((report.problem_count, report.damaged_points), (1, 2), "{:?}", report.problems);
        for point in [&first, &second] {
            assert_eq!(world.badge(point), Some((CheckDepth::Data, false)));
        }
        world.check(&kept(CheckDepth::Structure));
        assert_eq!(
            world.badge(&first),
            Some((CheckDepth::Data, false)),
            "a shallow look heals nothing"
        );
        flip(&pack, last.stored_range().start as usize + 3);
        let one = CheckScope::Point(first.id.clone());
        assert!(world.check(&CheckOptions { scope: one, ..kept(CheckDepth::Data) }).is_sound());
        assert_eq!(world.badge(&first), Some((CheckDepth::Data, true)));
        assert_eq!(world.badge(&second), Some((CheckDepth::Data, false)), "that was not looked at");
        let pages = std::fs::read_dir(world.path().join("checks")).unwrap().count();
        assert_eq!(pages, 1, "what is known is in one object");
    }
}

#[test]
fn a_look_at_the_structure_finds_what_is_missing_cut_or_garbled() {
    type Harm = fn(&World, &PointManifest);
    let harms: [Harm; 5] = [
        |world, _| std::fs::remove_file(&world.packs()[1]).unwrap(),
        |world, _| {
            let pack = std::fs::File::options().write(true).open(&world.packs()[1]).unwrap();
            // In the midst of its blocks: their index is longer than they are.
            pack.set_len(pack.metadata().unwrap().len() / 8).unwrap();
        },
        |world, point| std::fs::remove_file(world.map(point)).unwrap(),
        |world, point| flip(&world.map(point), 30),
        |world, _| {
            let pack = &world.packs()[1];
            flip(pack, std::fs::metadata(pack).unwrap().len() as usize - 100);
        },
    ];
    for (number, harm) in harms.iter().enumerate() {
        let world = World::new(false);
        let (first, second) = (world.take_in(1), world.take_in(2));
        harm(&world, &second);
        let report = world.check(&kept(CheckDepth::Structure));
        assert!(!report.is_sound() && report.blocks == 0, "harm {number}");
        assert_eq!(world.badge(&first), Some((CheckDepth::Structure, true)), "harm {number}");
        // An index is nobody's: points are read without it.
        let hurts = number < 4;
        assert_eq!(world.badge(&second), Some((CheckDepth::Structure, !hurts)), "harm {number}");
    }
}

/// Begins a check and stops it once so many bytes of disks are dealt with.
fn check_and_stop(world: &World, options: &CheckOptions, when: impl Fn(&CheckProgress) -> bool) {
    let (progress, stop) = (CheckProgress::default(), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        let run = scope.spawn(|| check(&world.repository, options, &progress, &stop));
        while !when(&progress) {
            assert!(!run.is_finished(), "it was done before it was stopped");
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(matches!(result, Err(RepoError::Cancelled)), "{result:?}");
}

#[test]
fn a_check_that_was_stopped_goes_on_where_it_was_and_forgets_nothing_it_found() {
    let world = World::new(false);
    let points = [world.take_in(1), world.take_in(2), world.take_in(3)];
    let packs = world.packs();
    flip(&packs[0], 100);
    // Slow enough to be stopped in the second disk: 4 096 bytes or a little more, or a bit of that, are a block.
    let stored: u64 = packs.iter().map(|pack| std::fs::metadata(pack).unwrap().len()).sum();
    let slow = CheckOptions { max_bytes_per_second: Some(stored), ..kept(CheckDepth::Data) };
    let disk = points[0].size_bytes();
    check_and_stop(&world, &slow, |progress| progress.done() >= disk);
    assert_eq!(world.badge(&points[0]), Some((CheckDepth::Data, false)));
    assert_eq!(world.badge(&points[2]), None);
    // It does not read again what it has read: this is not seen.
    flip(&packs[0], 1000);
    let report = world.check(&kept(CheckDepth::Data));
    assert!(report.resumed_from.is_some());
    assert_eq!((report.points, report.damaged_points), (3, 1), "{:?}", report.problems);
    assert_eq!((report.problem_count, report.blocks), (1, 3 * BLOCKS - 3));
    assert_eq!(world.badge(&points[2]), Some((CheckDepth::Data, true)));
    // From the beginning, it is seen.
    let again = world.check(&kept(CheckDepth::Data));
    assert_eq!((again.resumed_from, again.problem_count), (None, 2));
}

#[test]
fn what_is_found_is_kept_beside_an_ingest_and_not_unless_it_should_be() {
    let world = World::new(false);
    let point = world.take_in(1);
    world.check(&CheckOptions::default());
    assert_eq!(world.badge(&point), None);
    let _ingest = Writer::begin(world.repository.store()).unwrap();
    let report = world.check(&kept(CheckDepth::Data));
    assert_eq!(report.not_kept, None);
    assert_eq!(world.badge(&point), Some((CheckDepth::Data, true)));
}

#[test]
fn a_damaged_page_of_the_book_is_passed_over() {
    let world = World::new(false);
    let point = world.take_in(1);
    world.check(&kept(CheckDepth::Data));
    let page = std::fs::read_dir(world.path().join("checks")).unwrap().next().unwrap().unwrap();
    flip(&page.path(), 200);
    assert_eq!(world.badge(&point), None);
    world.check(&kept(CheckDepth::Structure));
    assert_eq!(world.badge(&point), Some((CheckDepth::Structure, true)));
}

#[test]
fn what_a_prune_took_away_is_not_missed() {
    let world = World::new(false);
    let (gone, stays) = (world.take_in(1), world.take_in(2));
    let options = PruneOptions {
        retention: Retention::default(),
        drop: [gone.id.clone()].into(),
        spare: [].into(),
        grace: jiff::SignedDuration::from_hours(1),
        now: Timestamp::now(),
        dry_run: false,
    };
    let progress = PruneProgress::default();
    prune(&world.repository, &options, &std::collections::BTreeSet::new, &progress, &NEVER)
        .unwrap();
    std::fs::remove_file(world.map(&gone)).unwrap();
    let report = world.check(&kept(CheckDepth::Data));
    assert_eq!((report.points, report.problem_count), (1, 0), "{:?}", report.problems);
    assert_eq!((world.badge(&gone), world.badge(&stays)), (None, Some((CheckDepth::Data, true))));

    let mut findings = findings::Findings::default();
    let pack = |n| crate::id::PackId(n);
    findings.begin(Some(&gone.id));
    findings.lacks(pack(1), "is referred to but missing");
    findings.end(CheckDepth::Data, Timestamp::now());
    findings.begin(None);
    findings.problem(Some(pack(1)), "it was listed and is gone".into());
    findings.problem(Some(pack(2)), "it was listed and is there".into());
    findings.forget_all_but(&[stays.id].into(), &[pack(2)].into(), |_| true);
    assert_eq!((findings.report.problem_count, findings.report.damaged_points), (1, 0));
    assert_eq!(findings.report.problems[0].pack, Some(pack(2).to_string()));
}
