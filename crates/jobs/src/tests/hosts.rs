//! A VM on a host, with a host in memory that fails when it is told to.

use super::world::{Running, World, to_host};
use crate::{
    Destination, Finish, JobState, MigrationStart, Mode, Networks, Outcome, RecoveryRequest, Step,
    StepState,
};

const OURS: &str = "[rekindle-lab] sample_1/sample_1.vmx";

fn migrating(to: &str) -> RecoveryRequest {
    RecoveryRequest { migrate: Some(Destination::Datastore(to.into())), ..to_host() }
}

fn with_datastore(world: &World) {
    world.host.state().datastores.insert("vmfs".into());
}

#[track_caller]
fn assert_host_clean(world: &World, running: &Running) {
    let state = world.host.state();
    assert!(state.mounted.is_empty(), "{:?}", state.mounted);
    assert!(state.dirs.is_empty(), "{:?}", state.dirs);
    assert!(state.vms.keys().all(|path| !path.starts_with("[rekindle-")), "{:?}", state.vms);
    drop(state);
    world.assert_clean(running);
}

#[test]
fn a_vm_is_started_and_taken_away_again() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(to_host(), None).await.unwrap();
        let view = running.serving(&job).await;
        assert_eq!(view.export.unwrap().datastore.unwrap(), "rekindle-lab");
        assert!(world.host.state().vms[OURS].runs);
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Discarded));
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn it_migrates_by_itself_and_stays() {
    let world = World::new();
    with_datastore(&world);
    world.live(async |world| {
        let mut config = world.config();
        config.mover.warm = true;
        let running = world.start_with(config).await;
        let job = running.jobs.start(migrating("vmfs"), None).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        assert_eq!(done.migrated_to.unwrap(), "vmfs");
        let vm = world.host.state().vms["[vmfs] sample_1/sample_1.vmx"].clone();
        assert!(vm.runs);
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn adapters_are_put_on_the_networks_that_the_request_names() {
    let world = World::new();
    world.host.state().lacks.insert("nowhere".into());
    world.live(async |world| {
        let running = world.start().await;
        let onto = |to: &str| RecoveryRequest {
            // A site's map tells of networks that this VM is not on.
            networks: Some(Networks::Map(
                [("VM Network".into(), to.into()), ("DMZ".into(), "nowhere".into())].into(),
            )),
            ..to_host()
        };
        let refused = running.jobs.start(onto("nowhere"), None).await.unwrap_err();
        assert_eq!(refused.code(), "not_on_target");
        assert!(world.host.state().mounted.is_empty());
        let job = running.jobs.start(onto("Lab"), None).await.unwrap();
        running.serving(&job).await;
        {
            let state = world.host.state();
            let plugged = (state.vms[OURS].id.clone(), 0, "Lab".to_owned());
            assert_eq!(state.plugged, [plugged].into());
            let at = |call| state.calls.iter().position(|known| *known == call);
            assert!(at("put_on_port_groups") < at("power_on"), "{:?}", state.calls);
        }
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        let job = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&job).await;
        let calls = world.host.state().calls.clone();
        assert_eq!(calls.iter().filter(|call| **call == "put_on_port_groups").count(), 1);
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_datastore_is_shared_and_goes_with_its_last_job() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let first = running.jobs.start(to_host(), None).await.unwrap();
        let second = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&first).await;
        running.serving(&second).await;
        assert_eq!(running.exports.list().len(), 1);
        running.jobs.finish(&first, Finish::Discard).await.unwrap();
        running.end(&first).await;
        assert_eq!(world.host.state().mounted.len(), 1);
        assert_eq!(world.host.state().vms.len(), 1);
        running.jobs.finish(&second, Finish::Discard).await.unwrap();
        running.end(&second).await;
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_step_that_fails_takes_all_before_it_back() {
    for call in ["mount", "register", "power_on"] {
        let world = World::new();
        world.live(async |world| {
            let running = world.start().await;
            world.host.state().fail.insert(call, 1);
            let job = running.jobs.start(to_host(), None).await.unwrap();
            let done = running.end(&job).await;
            assert_eq!((done.state, done.outcome), (JobState::Failed, Some(Outcome::Failed)));
            assert_eq!(done.error.unwrap().code, "target_unreachable", "{call}");
            assert_host_clean(world, &running);
            running.stop().await;
        });
    }
}

#[test]
fn an_undo_that_fails_is_seen_and_tried_again() {
    for call in ["power_off", "unregister", "unmount"] {
        let world = World::new();
        world.live(async |world| {
            let running = world.start().await;
            let job = running.jobs.start(to_host(), None).await.unwrap();
            running.serving(&job).await;
            world.host.state().fail.insert(call, usize::MAX);
            running.jobs.finish(&job, Finish::Discard).await.unwrap();
            let stuck = running.wait(&job, &[JobState::Stuck]).await;
            assert_eq!(stuck.error.unwrap().code, "target_unreachable");
            let undoing: Vec<Step> = stuck
                .steps
                .iter()
                .filter(|step| step.state == StepState::Undoing && step.error.is_some())
                .map(|step| step.name)
                .collect();
            assert_eq!(undoing.len(), 1, "{call}: {:#?}", stuck.steps);
            // The disks are there for as long as the VM may run on them.
            running.disk(&job, 0);
            world.host.state().fail.clear();
            let done = running.end(&job).await;
            assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Discarded)));
            assert_host_clean(world, &running);
            running.stop().await;
        });
    }
}

#[test]
fn a_stuck_job_goes_on_after_a_restart() {
    let world = World::new();
    let job = world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&job).await;
        world.host.state().fail.insert("power_off", usize::MAX);
        running.jobs.cancel(&job).await.unwrap();
        running.wait(&job, &[JobState::Stuck]).await;
        running.stop().await;
        job
    });
    world.host.state().fail.clear();
    world.live(async |world| {
        let running = world.start().await;
        // The VM may still run: it is served until it is off.
        running.disk(&job, 0);
        running.jobs.run();
        assert_eq!(running.end(&job).await.state, JobState::Cancelled);
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_migration_that_fails_can_be_tried_again() {
    let world = World::new();
    with_datastore(&world);
    world.live(async |world| {
        let running = world.start().await;
        world.host.state().fail.insert("relocate", 1);
        let job = running.jobs.start(migrating("vmfs"), None).await.unwrap();
        let mut view = running.jobs.watch(&job).unwrap();
        let failed = view.wait_for(|v| v.state == JobState::Serving && v.error.is_some()).await;
        assert_eq!(failed.unwrap().error.as_ref().unwrap().code, "target_unreachable");
        assert!(world.host.state().vms[OURS].runs);
        running
            .jobs
            .finish(&job, Finish::Migrate { to: None, cut_over: None, verify: None })
            .await
            .unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_vm_that_moved_is_never_touched_whatever_else_happens() {
    let world = World::new();
    with_datastore(&world);
    world.live(async |world| {
        let running = world.start().await;
        let manual = RecoveryRequest {
            migration: Some(MigrationStart::Manual),
            mode: Mode::LiveRecovery,
            ..migrating("vmfs")
        };
        let job = running.jobs.start(manual, None).await.unwrap();
        running.serving(&job).await;
        // It moves, but its host does not say where to, and then someone cancels.
        world.host.state().fail.insert("find", 1);
        running
            .jobs
            .finish(&job, Finish::Migrate { to: None, cut_over: None, verify: None })
            .await
            .unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        assert_eq!(done.migrated_to.unwrap(), "vmfs");
        assert!(world.host.state().vms["[vmfs] sample_1/sample_1.vmx"].runs);
        let calls = world.host.state().calls.clone();
        assert!(!calls.contains(&"destroy"));
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_destination_that_is_not_there_is_refused() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let refused = running.jobs.start(migrating("nowhere"), None).await.unwrap_err();
        assert_eq!(refused.code(), "not_on_target");
        assert!(world.host.state().mounted.is_empty());
        running.stop().await;
    });
}

/// A migration whose guest writes to another datastore.
fn redirected() -> RecoveryRequest {
    let manual = Some(MigrationStart::Manual);
    RecoveryRequest { redo_datastore: Some("redo".into()), migration: manual, ..migrating("vmfs") }
}

#[test]
fn writes_on_another_datastore_are_written_back_before_the_vm_moves() {
    let world = World::new();
    with_datastore(&world);
    world.live(async |world| {
        let running = world.start().await;
        let missing = running.jobs.start(redirected(), None).await.unwrap_err();
        assert_eq!(missing.code(), "not_on_target");
        world.host.state().datastores.insert("redo".into());
        let job = running.jobs.start(redirected(), None).await.unwrap();
        running.serving(&job).await;
        assert!(world.host.state().vms[OURS].snapshot);
        assert_eq!(
            world.host.state().dirs.iter().cloned().collect::<Vec<_>>(),
            [format!("[redo] rekindle-{job}")]
        );
        // A migration that fails has the guest write elsewhere again.
        world.host.state().fail.insert("relocate", 1);
        running
            .jobs
            .finish(&job, Finish::Migrate { to: None, cut_over: None, verify: None })
            .await
            .unwrap();
        let mut view = running.jobs.watch(&job).unwrap();
        let failed = view.wait_for(|v| v.state == JobState::Serving && v.error.is_some()).await;
        assert_eq!(failed.unwrap().error.as_ref().unwrap().code, "target_unreachable");
        assert!(world.host.state().vms[OURS].snapshot);
        running
            .jobs
            .finish(&job, Finish::Migrate { to: None, cut_over: None, verify: None })
            .await
            .unwrap();
        let done = running.end(&job).await;
        assert_eq!(done.outcome, Some(Outcome::Migrated));
        assert!(world.host.state().calls.contains(&"write_beside"));
        assert_host_clean(world, &running);
        running.stop().await;
    });
}

#[test]
fn writes_on_another_datastore_go_with_the_job() {
    let world = World::new();
    with_datastore(&world);
    world.live(async |world| {
        let running = world.start().await;
        world.host.state().datastores.insert("redo".into());
        let job = running.jobs.start(redirected(), None).await.unwrap();
        running.serving(&job).await;
        world.host.state().fail.insert("remove_dir", 2);
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Discarded));
        assert!(!world.host.state().calls.contains(&"consolidate"));
        assert_host_clean(world, &running);
        running.stop().await;
    });
}
