use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::{SignedDuration, Timestamp};

use super::super::condemned::{self, Condemned};
use super::*;
use crate::MapId;
use crate::id::PackId;
use crate::store::Writer;

#[test]
fn what_a_recovery_uses_stays() {
    let world = World::new(false);
    let old = world.take_in("vm", 1, 1).point;
    world.take_in("vm", 2, 2);
    let report = world.prune_beside(&world.options(0), &[&old]).unwrap();
    assert_eq!(kinds(&report.condemned), (0, 0, 0));
    let dropped = PruneOptions { drop: BTreeSet::from([old.id.clone()]), ..world.options(0) };
    let report = world.prune_beside(&dropped, &[&old]).unwrap();
    assert_eq!(kinds(&report.condemned), (0, 0, 0));
    // It was condemned before it came into use, by another appliance perhaps.
    assert_eq!(kinds(&world.prune(0).condemned), (1, 1, 0));
    let report = world.prune_beside(&world.options(25), &[&old]).unwrap();
    assert_eq!((kinds(&report.removed), report.spared.points), ((0, 0, 0), 1));
    assert!(read(&world.repository, &old).unwrap() == image(1));
    assert_eq!(world.shown().len(), 2, "and is there again");
    assert!(files(&world.path().join("condemned")).is_empty());
}

#[test]
fn a_point_that_comes_into_use_while_it_is_being_deleted_stays() {
    let world = World::new(false);
    let old = world.take_in("vm", 1, 1).point;
    world.take_in("vm", 2, 2);
    world.prune(0);
    let asked = AtomicUsize::new(0);
    // Not in use at the first look, and at the second.
    let in_use = || match asked.fetch_add(1, Ordering::Relaxed) {
        0 => BTreeSet::new(),
        _ => BTreeSet::from([old.id.clone()]),
    };
    let (options, progress) = (world.options(25), PruneProgress::default());
    let result = prune(&world.repository, &options, &in_use, &progress, &NEVER);
    assert!(matches!(result, Err(RepoError::Unavailable { .. })), "{result:?}");
    assert!(read(&world.repository, &old).unwrap() == image(1));
}

#[test]
fn an_ingest_stores_again_what_is_condemned() {
    let world = World::new(false);
    world.take_in("vm", 2, 2);
    world.take_in("vm", 1, 1);
    assert_eq!(kinds(&world.prune(0).condemned), (1, 1, 1));
    let again = world.take_in("vm", 1, 3);
    assert_eq!(again.counts.written, 4 * 4096, "{:?}", again.counts);
    world.prune(25);
    assert!(read(&world.repository, &again.point).unwrap() == image(1));
    assert!(world.is_sound());
}

#[test]
fn nothing_is_ingested_on_top_of_a_condemned_point() {
    let world = World::new(false);
    let old = world.take_in("vm", 1, 1).point;
    world.take_in("vm", 2, 2);
    world.prune(0);
    let changes = crate::Changes::parse(old.id.clone(), br#"{"scsi0:0": []}"#).unwrap();
    let options = IngestOptions {
        name: Some("vm".into()),
        changes: Some(changes),
        ..IngestOptions::default()
    };
    let path = world.dir.path().join("disk.img");
    std::fs::write(&path, image(1)).unwrap();
    let result = ingest(&world.repository, &path, &options, &IngestProgress::default(), &NEVER);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("let go by a prune"), "{error}");
}

#[test]
fn what_an_ingest_published_meanwhile_is_spared_and_a_late_one_is_refused() {
    let world = World::new(false);
    let point = world.take_in("vm", 1, 1).point;
    let pack = world.repository.store().list_packs_blocking().unwrap()[0];
    world.take_in("other", 2, 1);
    let packs = world.repository.store().list_packs_blocking().unwrap();
    let other = *packs.iter().find(|one| **one != pack).unwrap();
    let (now, map) = (Timestamp::now(), point.disks[0].map.clone());
    let condemn = |since: SignedDuration| {
        let mut list = Condemned::empty(now - since, GRACE);
        list.maps.push(map.clone());
        list.packs.push(pack);
        let object = list.object().unwrap();
        let bytes = list.encode(world.repository.seal(), &object).unwrap();
        Writer::begin(world.repository.store()).unwrap().put(&object, &bytes).unwrap();
    };
    let publish = |packs: &[PackId], maps: &[MapId]| {
        let (store, seal) = (world.repository.store(), world.repository.seal());
        condemned::check_publish(store, seal, &packs.iter().copied().collect(), maps, now)
    };
    condemn(SignedDuration::from_hours(11));
    publish(&[pack], std::slice::from_ref(&map)).unwrap();
    condemn(SignedDuration::from_hours(13));
    assert!(matches!(publish(&[pack], &[]), Err(RepoError::Unavailable { .. })));
    let ours = std::slice::from_ref(&map);
    assert!(matches!(publish(&[], ours), Err(RepoError::Unavailable { .. })));
    publish(&[other], &[]).unwrap();
    // The manifest is there: the second look finds it.
    let report = world.prune(25);
    assert_eq!((kinds(&report.removed), kinds(&report.spared)), ((0, 0, 0), (0, 2, 2)));
    assert!(read(&world.repository, &point).unwrap() == image(1));
    assert!(world.is_sound());
}

#[test]
fn an_ingest_that_outlasts_the_grace_publishes_nothing() {
    let world = World::new(false);
    world.take_in("vm", 1, 1);
    let kept = world.repository.store().list_packs_blocking().unwrap();
    // What an ingest wrote so far: no manifest refers to it.
    let half = world.take_in("vm", 2, 2).point;
    let folder = world.path().join("points").join(half.vm.id.as_str());
    std::fs::remove_file(folder.join(format!("{}.json", half.id))).unwrap();
    let packs: HashSet<_> =
        world.repository.store().list_packs_blocking().unwrap().into_iter().collect();
    let maps = [half.disks[0].map.clone()];
    let publish = |packs: &HashSet<PackId>, maps: &[MapId]| {
        let (store, seal) = (world.repository.store(), world.repository.seal());
        condemned::check_publish(store, seal, packs, maps, Timestamp::now())
    };
    publish(&packs, &maps).unwrap();
    world.prune(0);
    // The list is gone with what it named.
    assert_eq!(kinds(&world.prune(25).removed), (0, 1, 1));
    assert!(files(&world.path().join("condemned")).is_empty());
    let kept: HashSet<_> = kept.into_iter().collect();
    assert!(matches!(publish(&packs, &[]), Err(RepoError::Unavailable { .. })));
    assert!(matches!(publish(&kept, &maps), Err(RepoError::Unavailable { .. })));
    publish(&kept, &[]).unwrap();
}

#[test]
fn only_one_writes_to_a_directory() {
    let world = World::new(false);
    world.take_in("vm", 1, 1);
    let _writer = Writer::begin(world.repository.store()).unwrap();
    let result = world.try_prune(&world.options(0));
    assert!(matches!(result, Err(RepoError::Unavailable { .. })), "{result:?}");
    let dry = PruneOptions { dry_run: true, ..world.options(0) };
    world.try_prune(&dry).unwrap();
}
