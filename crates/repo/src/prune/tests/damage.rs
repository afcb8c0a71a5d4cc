use std::collections::BTreeSet;

use super::*;

#[test]
fn nothing_goes_while_a_manifest_or_a_list_is_damaged() {
    let world = World::new(false);
    world.take_in("vm", 2, 2);
    world.take_in("vm", 1, 1);
    world.prune(0);
    let path = files(&world.path().join("condemned")).remove(0);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(world.try_prune(&world.options(25)).is_err(), "byte {at}");
        assert_eq!(world.shown().len(), 2, "a damaged list hides nothing");
    }
    std::fs::write(&path, good).unwrap();
    let manifest = files(&world.path().join("points")).remove(1);
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, b"{}").unwrap();
    let before = world.files();
    let error = world.try_prune(&world.options(25)).unwrap_err();
    assert!(error.to_string().contains("nobody knows what"), "{error}");
    assert_eq!(world.files(), before);
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(world.prune(25).removed.points, 1);
}

#[test]
fn a_damaged_point_is_dropped_and_goes_with_what_only_it_needed() {
    for of_map in [false, true] {
        let world = World::new(false);
        world.take_in("vm", 1, 1);
        let before = world.files();
        let bad = world.take_in("vm", 2, 2).point;
        let folder = world.path().join("points").join(bad.vm.id.as_str());
        let damaged = match of_map {
            false => folder.join(format!("{}.json", bad.id)),
            true => world.path().join("maps").join(format!("{}.map", bad.disks[0].map)),
        };
        let mut bytes = std::fs::read(&damaged).unwrap();
        let end = bytes.len() - 40;
        bytes[end] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        let keep = Retention { last: 5, ..Retention::default() };
        let options = PruneOptions { retention: keep.clone(), ..world.options(0) };
        assert!(world.try_prune(&options).is_err());
        let options = PruneOptions { drop: BTreeSet::from([bad.id.clone()]), ..options };
        assert_eq!(kinds(&world.try_prune(&options).unwrap().condemned), (1, 1, 1));
        let options = PruneOptions { retention: keep, ..world.options(25) };
        assert_eq!(kinds(&world.try_prune(&options).unwrap().removed), (1, 1, 1));
        assert_eq!(world.files(), before);
        assert!(world.is_sound());
    }
}

#[test]
fn what_is_due_waits_for_a_damaged_point_that_has_time_left() {
    let world = World::new(false);
    world.take_in("vm", 3, 3);
    let bad = world.take_in("vm", 2, 2).point;
    let old = world.take_in("vm", 1, 1).point;
    let two = Retention { last: 2, ..Retention::default() };
    world.try_prune(&PruneOptions { retention: two, ..world.options(0) }).unwrap();
    world.prune(20);
    let map = world.path().join("maps").join(format!("{}.map", bad.disks[0].map));
    std::fs::write(&map, b"gone").unwrap();
    let report = world.prune(25);
    assert!(report.held_up.unwrap().contains(bad.id.as_str()));
    assert_eq!(kinds(&report.removed), (0, 0, 0));
    assert!(read(&world.repository, &old).unwrap() == image(1));
    assert_eq!(world.prune(45).removed.points, 2);
    assert!(world.is_sound());
}
