//! A recovery in the place of its original, which is back whatever happens before a commit.

mod crashes;

use super::world::{Running, World, to_export, to_host};
use crate::target::fake::FakeVm;
use crate::{
    Destination, Finish, InPlace, JobId, JobState, JobView, Mode, OriginalRef, Outcome,
    RecoveryRequest, Step, StepState, UuidPolicy,
};

const ORIGINAL: &str = "[vmfs] sample/sample.vmx";
const MOVED: &str = "[vmfs] sample_1/sample.vmx";

fn in_place() -> RecoveryRequest {
    RecoveryRequest { in_place: Some(InPlace::default()), ..to_host() }
}

fn migrating() -> RecoveryRequest {
    RecoveryRequest { migrate: Some(Destination::Datastore("vmfs".into())), ..in_place() }
}

fn with_original(world: &World, runs: bool) {
    let (id, name) = ("vm-original".to_owned(), "sample".to_owned());
    let vm = FakeVm { id, name, runs, snapshot: false, tag: None };
    let mut state = world.host.state();
    state.datastores.insert("vmfs".into());
    state.vms.insert(ORIGINAL.into(), vm);
}

/// The original is as it was, and nothing else is at the host.
#[track_caller]
fn assert_back(world: &World, running: &Running, runs: bool) {
    let state = world.host.state();
    assert_eq!(state.vms.keys().collect::<Vec<_>>(), [ORIGINAL], "{:?}", state.calls);
    let vm = &state.vms[ORIGINAL];
    assert_eq!((vm.name.as_str(), vm.runs, &vm.tag), ("sample", runs, &None));
    assert!(state.mounted.is_empty());
    drop(state);
    world.assert_clean(running);
}

/// The recovered VM is where it migrated to; the original is aside, or gone.
#[track_caller]
fn assert_committed(world: &World, job: &JobId, removed: bool) {
    let state = world.host.state();
    let vm = &state.vms[MOVED];
    assert_eq!((vm.name.as_str(), vm.runs), ("sample", true));
    match state.vms.get(ORIGINAL) {
        None => assert!(removed),
        Some(vm) => {
            assert!(!removed && !vm.runs);
            assert_eq!(vm.name, format!("sample (before {job})"));
            assert_eq!(vm.tag.as_deref(), Some(job.as_str()));
        }
    }
    assert!(state.mounted.is_empty());
}

async fn asks(running: &Running, job: &JobId) -> JobView {
    let mut view = running.jobs.watch(job).unwrap();
    let asks = |view: &JobView| {
        assert!(!view.state.is_final(), "{:#?}", view.timeline);
        waits(view)
    };
    view.wait_for(asks).await.unwrap().clone()
}

fn waits(view: &JobView) -> bool {
    let step = view.steps.iter().find(|step| step.name == Step::Commit);
    step.is_some_and(|step| step.state == StepState::Running) && view.waits_for.is_some()
}

fn order(world: &World, calls: &[&str]) {
    let made = world.host.state().calls.clone();
    let at = calls.iter().map(|call| made.iter().rposition(|made| made == call).expect(call));
    assert!(at.is_sorted(), "{made:?}");
}

#[test]
fn the_original_steps_aside_and_comes_back() {
    for runs in [true, false] {
        let world = World::new();
        with_original(&world, runs);
        world.live(async |world| {
            let running = world.start().await;
            let job = running.jobs.start(in_place(), None).await.unwrap();
            let view = running.serving(&job).await;
            assert_eq!(view.name, "sample");
            {
                let state = world.host.state();
                assert_eq!(state.vms[ORIGINAL].name, format!("sample (before {job})"));
                assert!(!state.vms[ORIGINAL].runs);
                let recovered = state.vms.iter().find(|(path, _)| *path != ORIGINAL).unwrap().1;
                assert!(recovered.runs && recovered.name == "sample");
            }
            order(world, &["find_original", "halt", "set_aside", "register", "power_on"]);
            // Another recovery cannot take the same place, nor commit this one before it has moved.
            let second = running.jobs.start(in_place(), None).await.unwrap_err();
            assert_eq!(second.code(), "name_taken");
            let commit = Finish::Commit { remove_original: true };
            let early = running.jobs.finish(&job, commit).await.unwrap_err();
            assert_eq!(early.code(), "not_migrated");
            running.jobs.undo(&job).await.unwrap();
            assert_eq!(running.end(&job).await.outcome, Some(Outcome::Discarded));
            order(world, &["power_off", "unregister", "put_back"]);
            if runs {
                order(world, &["put_back", "wake"]);
            }
            assert_back(world, &running, runs);
            running.stop().await;
        });
    }
}

#[test]
fn a_commit_keeps_the_original_unless_it_says_otherwise() {
    for remove_original in [false, true] {
        let world = World::new();
        with_original(&world, true);
        world.live(async |world| {
            let running = world.start().await;
            let job = running.jobs.start(migrating(), None).await.unwrap();
            let view = asks(&running, &job).await;
            assert_eq!((view.state, view.migrated_to), (JobState::Migrating, None));
            assert!(!world.host.state().calls.contains(&"remove_original"));
            running.jobs.finish(&job, Finish::Commit { remove_original }).await.unwrap();
            let done = running.end(&job).await;
            assert_eq!(done.outcome, Some(Outcome::Migrated));
            assert_eq!(done.migrated_to.as_deref(), Some("vmfs"));
            assert_committed(world, &job, remove_original);
            world.assert_clean(&running);
            running.stop().await;
        });
    }
}

#[test]
fn an_original_that_cannot_be_removed_is_left_and_told() {
    let world = World::new();
    with_original(&world, true);
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(migrating(), None).await.unwrap();
        asks(&running, &job).await;
        // Somebody runs it again: it has other disks than the recovered VM, and is not ours to delete.
        world.host.state().vms.get_mut(ORIGINAL).unwrap().runs = true;
        let commit = Finish::Commit { remove_original: true };
        running.jobs.finish(&job, commit).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!(done.outcome, Some(Outcome::Migrated));
        let told = done.timeline.iter().any(|event| event.what.contains("cannot be removed"));
        assert!(told && world.host.state().vms[ORIGINAL].runs, "{:#?}", done.timeline);
        running.stop().await;
    });
}

#[test]
fn one_that_has_migrated_is_given_up_as_well() {
    for finish in [Some(Finish::Discard), None] {
        let world = World::new();
        with_original(&world, true);
        world.live(async |world| {
            let running = world.start().await;
            let job = running.jobs.start(migrating(), None).await.unwrap();
            asks(&running, &job).await;
            let outcome = match finish {
                Some(finish) => {
                    running.jobs.finish(&job, finish).await.unwrap();
                    Outcome::Discarded
                }
                None => {
                    running.jobs.cancel(&job).await.unwrap();
                    Outcome::Cancelled
                }
            };
            let done = running.end(&job).await;
            assert_eq!((done.outcome, done.migrated_to), (Some(outcome), None));
            assert!(done.timeline.iter().any(|event| event.what.contains("files stay")));
            assert_back(world, &running, true);
            running.stop().await;
        });
    }
}

#[test]
fn a_failure_before_the_commit_puts_the_original_back() {
    for call in ["find_original", "halt", "set_aside", "register", "power_on"] {
        let world = World::new();
        with_original(&world, true);
        world.live(async |world| {
            let running = world.start().await;
            if call == "find_original" {
                // Not while it is looked for before the job is accepted.
                running.jobs.start(in_place(), None).await.map(|_| ()).unwrap();
                let job = running.jobs.list()[0].id.clone();
                running.serving(&job).await;
                running.jobs.cancel(&job).await.unwrap();
                running.end(&job).await;
                world.host.state().fail.insert(call, 1);
                let refused = running.jobs.start(in_place(), None).await.unwrap_err();
                assert_eq!(refused.code(), "target_unreachable");
            } else {
                world.host.state().fail.insert(call, 1);
                let job = running.jobs.start(in_place(), None).await.unwrap();
                assert_eq!(running.end(&job).await.outcome, Some(Outcome::Failed), "{call}");
            }
            assert_back(world, &running, true);
            running.stop().await;
        });
    }
}

#[test]
fn an_original_that_cannot_be_put_back_yet_keeps_the_job_stuck() {
    for call in ["put_back", "wake", "power_off", "unregister"] {
        let world = World::new();
        with_original(&world, true);
        world.live(async |world| {
            let running = world.start().await;
            let job = running.jobs.start(in_place(), None).await.unwrap();
            running.serving(&job).await;
            world.host.state().fail.insert(call, usize::MAX);
            running.jobs.finish(&job, Finish::Discard).await.unwrap();
            running.wait(&job, &[JobState::Stuck]).await;
            world.host.state().fail.clear();
            running.end(&job).await;
            assert_back(world, &running, true);
            running.stop().await;
        });
    }
}

#[test]
fn a_migration_that_is_not_seen_to_end_still_asks() {
    let world = World::new();
    with_original(&world, true);
    world.live(async |world| {
        let running = world.start().await;
        world.host.state().fail.insert("find", 1);
        let job = running.jobs.start(migrating(), None).await.unwrap();
        let view = asks(&running, &job).await;
        assert!(view.error.is_none(), "{:?}", view.error);
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        assert_back(world, &running, true);
        // One that fails itself leaves the VM where it is, and can be tried again.
        world.host.state().fail.insert("relocate", 1);
        let job = running.jobs.start(migrating(), None).await.unwrap();
        let mut view = running.jobs.watch(&job).unwrap();
        let failed = |view: &JobView| view.state == JobState::Serving && view.error.is_some();
        view.wait_for(failed).await.unwrap();
        running
            .jobs
            .finish(&job, Finish::Migrate { to: None, cut_over: None, verify: None })
            .await
            .unwrap();
        asks(&running, &job).await;
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        assert_back(world, &running, true);
        running.stop().await;
    });
}

/// A name that somebody gave the original meanwhile is theirs to keep.
#[test]
fn an_original_that_was_renamed_keeps_that_name() {
    let world = World::new();
    with_original(&world, true);
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(in_place(), None).await.unwrap();
        running.serving(&job).await;
        world.host.state().vms.get_mut(ORIGINAL).unwrap().name = "old web".into();
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        let vm = world.host.state().vms[ORIGINAL].clone();
        assert_eq!((vm.name.as_str(), vm.runs, vm.tag), ("old web", true, None));
        running.stop().await;
    });
}

#[test]
fn what_cannot_take_a_place_is_refused() {
    let named = |original| RecoveryRequest {
        in_place: Some(InPlace { original: Some(original), ..InPlace::default() }),
        ..to_host()
    };
    let suffixed = |suffix: &str| RecoveryRequest {
        in_place: Some(InPlace { suffix: Some(suffix.into()), ..InPlace::default() }),
        ..to_host()
    };
    for request in [
        RecoveryRequest { mode: Mode::LiveMount, ..in_place() },
        RecoveryRequest { name: Some("other".into()), ..in_place() },
        RecoveryRequest { uuid: Some(UuidPolicy::New), ..in_place() },
        RecoveryRequest { disks: vec!["scsi0:0".into()], ..in_place() },
        RecoveryRequest { target: to_export().target, ..in_place() },
        suffixed(" "),
        suffixed(&"x".repeat(41)),
    ] {
        assert_eq!(request.validate().unwrap_err().code(), "bad_in_place", "{request:?}");
    }
    assert_eq!(suffixed(" a/b").validate().unwrap_err().code(), "bad_name");
    let world = World::new();
    with_original(&world, true);
    world.live(async |world| {
        let running = world.start().await;
        let gone = named(OriginalRef::Name("other".into()));
        assert_eq!(running.jobs.start(gone, None).await.unwrap_err().code(), "not_on_target");
        let job = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&job).await;
        let commit = Finish::Commit { remove_original: false };
        let refused = running.jobs.finish(&job, commit).await.unwrap_err();
        assert_eq!(refused.code(), "not_in_place");
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        let told = named(OriginalRef::Moref("vm-original".into()));
        let job = running.jobs.start(told, None).await.unwrap();
        running.serving(&job).await;
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        assert_back(world, &running, true);
        running.stop().await;
    });
}
