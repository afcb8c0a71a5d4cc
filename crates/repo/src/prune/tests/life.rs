use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::*;

#[test]
fn a_point_is_hidden_at_once_and_goes_after_its_grace_with_what_only_it_needed() {
    for sealed in [false, true] {
        let world = World::new(sealed);
        let old = world.take_in("vm", 1, 1).point;
        let other = world.take_in("other", 2, 1).point;
        let new = world.take_in("vm", 3, 2).point;
        let before = world.files();
        let dry = PruneOptions { dry_run: true, ..world.options(0) };
        // The old point's pack has blocks that the others refer to, so it stays.
        let would = world.try_prune(&dry).unwrap();
        assert_eq!((kinds(&would.condemned), world.files()), ((1, 1, 0), before.clone()));
        assert_eq!(kinds(&world.prune(0).condemned), (1, 1, 0));
        assert_eq!(world.files().len(), before.len() + 1);
        let shown = world.shown();
        assert!(shown.len() == 2 && !shown.contains(&old.id), "{shown:?}");
        let condemned = wait(world.repository.points()).unwrap().condemned;
        assert_eq!((&condemned[0].point, condemned.len()), (&old, 1));
        assert_eq!(condemned[0].goes_after, world.start + GRACE);
        // Whoever has it open reads on.
        assert!(read(&world.repository, &old).unwrap() == image(1));
        let early = world.prune(23);
        assert_eq!((kinds(&early.waiting), kinds(&early.removed)), ((1, 1, 0), (0, 0, 0)));
        assert_eq!(early.next_at, Some(world.start + GRACE));
        let late = world.prune(25);
        assert_eq!((kinds(&late.removed), kinds(&late.condemned)), ((1, 1, 0), (0, 0, 0)));
        assert_eq!(world.files().len(), before.len() - 2);
        assert!(read(&world.repository, &old).is_err());
        for (point, disk) in [(&other, 2), (&new, 3)] {
            assert!(read(&world.repository, point).unwrap() == image(disk));
        }
        assert!(world.is_sound());
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing_and_forgets_nothing() {
    for sealed in [false, true] {
        for hours in [0, 25] {
            let mut steps = 0;
            loop {
                let world = World::new(sealed);
                let kept = world.take_in("vm", 1, 2).point;
                // A pack and a map of their own.
                let gone = world.take_in("vm", 2, 1).point;
                assert_eq!(files(&world.path().join("packs")).len(), 2);
                if hours > 0 {
                    world.prune(0);
                }
                let whole = prune_and_die(&world, &world.options(hours), steps, &[]);
                assert!(read(&world.repository, &kept).unwrap() == image(1), "step {steps}");
                assert!(world.is_sound(), "step {steps}");
                if let Ok(listed) = wait(world.repository.point(&gone.id)) {
                    assert!(read(&world.repository, &listed).unwrap() == image(2), "step {steps}");
                }
                // The next ones end what this one began.
                world.prune(hours);
                world.prune(hours + 25);
                world.prune(hours + 50);
                assert_eq!(world.shown(), std::slice::from_ref(&kept.id));
                // A record, a lock, a pack, a map, a manifest; and a key.
                let left = 5 + usize::from(sealed);
                assert_eq!(world.files().len(), left, "step {steps}: {:?}", world.files());
                assert!(read(&world.repository, &kept).unwrap() == image(1));
                if whole {
                    break;
                }
                steps += 1;
            }
            // One list; or a manifest, a map, a pack and the list.
            assert_eq!(steps, if hours == 0 { 1 } else { 4 });
        }
    }
}

#[test]
fn what_a_killed_ingest_left_goes_too() {
    let world = World::new(false);
    world.take_in("vm", 1, 1);
    let before = world.files();
    let left = world.take_in("vm", 2, 2).point;
    let folder = world.path().join("points").join(left.vm.id.as_str());
    std::fs::remove_file(folder.join(format!("{}.json", left.id))).unwrap();
    assert_eq!(kinds(&world.prune(0).condemned), (0, 1, 1));
    assert_eq!(kinds(&world.prune(25).removed), (0, 1, 1));
    assert_eq!(world.files(), before);
}

#[test]
fn without_a_grace_it_goes_at_once() {
    let world = World::new(false);
    world.take_in("vm", 1, 2);
    let before = world.files();
    world.take_in("vm", 2, 1);
    let options = PruneOptions { grace: SignedDuration::ZERO, ..world.options(0) };
    let report = world.try_prune(&options).unwrap();
    assert_eq!((kinds(&report.removed), kinds(&report.condemned)), ((1, 1, 1), (0, 0, 0)));
    assert_eq!(world.files(), before);
    assert!(world.is_sound());
}

#[test]
fn a_condemned_point_is_taken_back_also_over_a_crash() {
    for changes in 0..3 {
        let world = World::new(false);
        let old = world.take_in("vm", 1, 1).point;
        let older = world.take_in("vm", 2, 0).point;
        world.take_in("vm", 3, 2);
        assert_eq!(kinds(&world.prune(0).condemned).0, 2);
        let spare = PruneOptions { spare: BTreeSet::from([old.id.clone()]), ..world.options(1) };
        prune_and_die(&world, &spare, changes, &[]);
        assert!(read(&world.repository, &old).unwrap() == image(1));
        let report = world.try_prune(&spare).unwrap();
        let why = &report.verdicts.iter().find(|one| one.point == old.id).unwrap().kept_by;
        assert_eq!(*why, [KeptBy::Spared]);
        // Its packs can be built on again at once, and the other point goes in its time.
        assert_eq!(world.take_in("again", 1, 1).counts.written, 0);
        let keep = PruneOptions {
            retention: Retention { last: 2, ..Retention::default() },
            ..world.options(26)
        };
        world.try_prune(&keep).unwrap();
        assert!(read(&world.repository, &old).unwrap() == image(1));
        assert!(wait(world.repository.point(&older.id)).is_err());
        assert!(world.is_sound());
    }
}
