//! A migration on a host that cannot move a VM while it runs.

mod crashes;

use rekindle_block::BlockSize;

use super::world::{Running, SIZES, World, expected, to_host};
use crate::mover::Sample;
use crate::{
    CutOver, CutOverMethod, Destination, Finish, GuestStop, InPlace, JobId, JobState, JobView,
    MigrationStart, Networks, Outcome, RecoveryRequest, Sampling, Step, StepState, Verification,
};

const OURS: &str = "[rekindle-lab] sample_1/sample_1.vmx";

fn standalone(world: &World) {
    let mut state = world.host.state();
    state.standalone = true;
    state.datastores.insert("vmfs".into());
}

/// Migrates when it is told to, with the guest's power cut or not.
fn manual(stop: GuestStop) -> RecoveryRequest {
    RecoveryRequest {
        migrate: Some(Destination::Datastore("vmfs".into())),
        migration: Some(MigrationStart::Manual),
        cut_over: Some(CutOver { stop, ..CutOver::default() }),
        ..to_host()
    }
}

fn migrate() -> Finish {
    Finish::Migrate { to: None, cut_over: None, verify: None }
}

fn home(job: &JobId) -> String {
    format!("[vmfs] sample_1-{job}")
}

fn has_done(view: &JobView, step: Step) -> bool {
    view.steps.iter().any(|one| one.name == step && one.state == StepState::Done)
}

/// Serves, with something that its guest wrote; what its disks are then.
async fn serving(running: &Running, request: RecoveryRequest) -> (JobId, Vec<Vec<u8>>) {
    let job = running.jobs.start(request, None).await.unwrap();
    running.serving(&job).await;
    let mut model = vec![expected(0), expected(1)];
    running.write(&job, 0, 12345, 6789, &mut model[0]).await;
    (job, model)
}

/// The guest writes over its snapshot, as soon as there is one.
async fn writes_on(world: &World, running: &Running, job: &JobId, model: &mut [Vec<u8>]) {
    let mut view = running.jobs.watch(job).unwrap();
    let past = |view: &JobView| {
        has_done(view, Step::Branch) || view.error.is_some() || view.outcome.is_some()
    };
    view.wait_for(past).await.unwrap();
    let mut state = world.host.state();
    // It may be off already.
    if state.vms.get(OURS).is_some_and(|vm| vm.runs && vm.snapshot) {
        for (disk, at) in [(0, 12000usize), (0, 8 << 20), (1, 2 << 20)] {
            state.guest_writes(disk, at as u64, vec![0x77; 512]);
            model[disk][at..at + 512].fill(0x77);
        }
    }
}

#[track_caller]
fn assert_moved(world: &World, job: &JobId, model: &[Vec<u8>]) {
    let state = world.host.state();
    let vm = &state.vms[&format!("{}/sample_1.vmx", home(job))];
    assert!(vm.runs && !vm.snapshot);
    assert_eq!(state.vms.len(), 1);
    assert!(state.mounted.is_empty());
    assert_eq!(state.dirs.iter().cloned().collect::<Vec<_>>(), [home(job)]);
    let flats: Vec<Vec<u8>> = state.flats(&home(job)).into_values().collect();
    assert_eq!(flats.len(), 2);
    // By name: the first disk's extent is before the second's.
    assert!(flats == model, "the copy is not what the guest had");
}

/// Back where it was: served, and its VM runs with all that its guest wrote.
async fn assert_back(world: &World, running: &Running, job: &JobId, model: &[Vec<u8>]) {
    {
        let state = world.host.state();
        let vm = &state.vms[OURS];
        assert!(vm.runs && !vm.snapshot);
        assert_eq!((state.vms.len(), state.dirs.len(), state.files.len()), (1, 0, 0));
    }
    for (disk, bytes) in model.iter().enumerate() {
        assert!(running.contents(job, disk).await == *bytes, "disk {disk}");
    }
}

async fn failed(running: &Running, job: &JobId) -> String {
    let mut view = running.jobs.watch(job).unwrap();
    let failed = view.wait_for(|v| v.state == JobState::Serving && v.error.is_some()).await;
    failed.unwrap().error.clone().unwrap().code
}

#[test]
fn a_standalone_host_migrates_with_a_short_pause() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let (job, mut model) = serving(&running, manual(GuestStop::ShutDown)).await;
        running.jobs.finish(&job, migrate()).await.unwrap();
        writes_on(world, &running, &job, &mut model).await;
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        assert_eq!(done.migrated_to.as_deref(), Some("vmfs"));
        assert!(done.pause_ms.is_some());
        assert_moved(world, &job, &model);
        let calls = world.host.state().calls.clone();
        assert!(calls.contains(&"shut_down") && !calls.contains(&"relocate"));
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn it_begins_by_itself_and_a_vm_that_is_off_stays_off() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let request = RecoveryRequest {
            migration: None,
            power_on: Some(false),
            cut_over: None,
            ..manual(GuestStop::ShutDown)
        };
        let job = running.jobs.start(request, None).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.outcome, done.pause_ms), (Some(Outcome::Migrated), None));
        {
            let state = world.host.state();
            assert!(!state.vms[&format!("{}/sample_1.vmx", home(&job))].runs);
            assert!(state.flats(&home(&job)).into_values().eq([expected(0), expected(1)]));
        }
        running.stop().await;
    });
}

#[test]
fn a_call_that_fails_leaves_the_vm_running_where_it_was() {
    let calls = [
        "has_snapshot",
        "snapshot",
        "find",
        "remove_dir",
        "make_dir",
        "copy_disk",
        "read_file",
        "shut_down",
        "unregister",
        "write_file",
        "register",
        "power_on",
    ];
    for call in calls {
        let world = World::new();
        standalone(&world);
        world.live(async |world| {
            let running = world.start().await;
            let (job, mut model) = serving(&running, manual(GuestStop::ShutDown)).await;
            world.host.state().fail.insert(call, 1);
            running.jobs.finish(&job, migrate()).await.unwrap();
            if !["has_snapshot", "snapshot", "find"].contains(&call) {
                writes_on(world, &running, &job, &mut model).await;
            }
            assert_eq!(failed(&running, &job).await, "target_unreachable", "{call}");
            assert_back(world, &running, &job, &model).await;
            running.jobs.finish(&job, migrate()).await.unwrap();
            writes_on(world, &running, &job, &mut model).await;
            assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated), "{call}");
            assert_moved(world, &job, &model);
            world.assert_clean(&running);
            running.stop().await;
        });
    }
}

#[test]
fn a_copy_with_a_wrong_byte_is_found_before_the_guest_is_stopped() {
    let world = World::new();
    standalone(&world);
    for at in [0, 12345, (9 << 20) - 1] {
        world.reset();
        standalone(&world);
        world.live(async |world| {
            let running = world.start().await;
            let (job, model) = serving(&running, manual(GuestStop::ShutDown)).await;
            world.host.state().miscopies = Some(at.min((2 << 20) + 511));
            running.jobs.finish(&job, migrate()).await.unwrap();
            assert_eq!(failed(&running, &job).await, "corrupt");
            assert!(!world.host.state().calls.contains(&"shut_down"));
            assert_back(world, &running, &job, &model).await;
            running.jobs.cancel(&job).await.unwrap();
            running.end(&job).await;
            running.stop().await;
        });
    }
}

/// What is wrong in a MiB that is in the sample is found, and what is in no sample is said to be.
#[test]
fn a_sample_of_a_copy_is_compared_and_told() {
    let sampling = Sampling { percent: 40, seed: Some(7) };
    let block = BlockSize::new(256 << 10).unwrap();
    let written = Some(12345..12345 + 6789);
    let sample = Sample::choose(SIZES[0], block, (sampling, 7, 0), written);
    let world = World::new();
    let mut found = 0;
    for mib in 3..8u64 {
        let at = (mib << 20) + 5;
        world.reset();
        standalone(&world);
        world.live(async |world| {
            let running = world.start().await;
            let (job, mut model) = serving(&running, manual(GuestStop::ShutDown)).await;
            world.host.state().miscopies = Some(at as usize);
            let verify = Some(Verification::Sampled(sampling));
            let finish = Finish::Migrate { to: None, cut_over: None, verify };
            running.jobs.finish(&job, finish).await.unwrap();
            if sample.ranges(0..SIZES[0]).any(|range| range.contains(&at)) {
                found += 1;
                assert_eq!(failed(&running, &job).await, "corrupt");
                assert_back(world, &running, &job, &model).await;
                running.jobs.cancel(&job).await.unwrap();
                running.end(&job).await;
            } else {
                let done = running.end(&job).await;
                let compared = done.compared.unwrap();
                assert_eq!(compared.how, Verification::Sampled(sampling));
                // Of the small disk all is in the sample.
                assert_eq!(compared.bytes, sample.bytes() + SIZES[1]);
                assert_eq!(compared.of_bytes, SIZES[0] + SIZES[1]);
                assert_eq!(world.host.state().parts_read, compared.bytes);
                assert!(done.timeline.iter().any(|e| e.what.contains("by the seed 7")));
                model[0][at as usize] ^= 1;
                assert_moved(world, &job, &model);
            }
            running.stop().await;
        });
    }
    assert!((1..5).contains(&found), "{found} of the MiB are in the sample");
}

/// A host that gives no parts of a file: all of it is read, and so all is compared, and that is said.
#[test]
fn a_host_without_parts_of_files_has_all_of_them_compared() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        world.host.state().whole_files = true;
        let verify = Some(Verification::Sampled(Sampling { percent: 1, seed: None }));
        let request = RecoveryRequest { verify, ..manual(GuestStop::PowerOff) };
        let (job, _) = serving(&running, request).await;
        running.jobs.finish(&job, migrate()).await.unwrap();
        let compared = running.end(&job).await.compared.unwrap();
        assert_eq!((compared.how, compared.bytes), (Verification::Full, compared.of_bytes));
        running.stop().await;
    });
}

#[test]
fn a_guest_that_does_not_shut_down_runs_on_unless_its_power_may_be_cut() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let (job, model) = serving(&running, manual(GuestStop::ShutDown)).await;
        world.host.state().deaf = true;
        running.jobs.finish(&job, migrate()).await.unwrap();
        assert_eq!(failed(&running, &job).await, "guest_runs_on");
        assert_back(world, &running, &job, &model).await;
        let cut = CutOver { stop: GuestStop::PowerOff, ..CutOver::default() };
        let finish = Finish::Migrate { to: None, cut_over: Some(cut), verify: None };
        running.jobs.finish(&job, finish).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        assert_moved(world, &job, &model);
        running.stop().await;
    });
}

/// The host cannot write the snapshot back at first: the VM runs on, and what lies with us stays for it.
#[test]
fn nothing_is_unexported_before_all_of_it_is_in_the_copy() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let (job, mut model) = serving(&running, manual(GuestStop::ShutDown)).await;
        world.host.state().fail.insert("merge", usize::MAX);
        running.jobs.finish(&job, migrate()).await.unwrap();
        writes_on(world, &running, &job, &mut model).await;
        let stuck = running.wait(&job, &[JobState::Stuck]).await;
        assert_eq!(
            (stuck.outcome, stuck.obstacle.unwrap().step),
            (Some(Outcome::Migrated), Some(Step::Branch))
        );
        assert!(world.host.state().vms[&format!("{}/sample_1.vmx", home(&job))].runs);
        assert_eq!(running.exports.list().len(), 1);
        // It cannot be cancelled any more: it has moved.
        running.jobs.cancel(&job).await.unwrap();
        world.host.state().fail.clear();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Migrated)));
        assert_moved(world, &job, &model);
        world.assert_clean(&running);
        running.stop().await;
    });
}

/// Somebody takes the VM out of the inventory before the host has written the snapshot back.
#[test]
fn what_a_guest_wrote_last_is_not_removed_with_a_vm_that_is_gone() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let (job, _) = serving(&running, manual(GuestStop::ShutDown)).await;
        world.host.state().fail.insert("merge", usize::MAX);
        running.jobs.finish(&job, migrate()).await.unwrap();
        running.wait(&job, &[JobState::Stuck]).await;
        {
            let mut state = world.host.state();
            state.vms.clear();
            state.fail.clear();
        }
        let mut view = running.jobs.watch(&job).unwrap();
        let gone = |view: &JobView| view.error.as_ref().is_some_and(|e| e.code == "vm_gone");
        view.wait_for(gone).await.unwrap();
        let path = running.jobs.view(&job).unwrap().export.unwrap().path;
        let export = running.exports.get(path.trim_start_matches('/')).unwrap();
        for delta in ["sample_1/sample_1-000001.vmdk", "sample_1/sample_1_1-000001.vmdk"] {
            export.remove_tree(delta.as_ref()).unwrap();
        }
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_cancel_ends_the_copy_and_leaves_nothing() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let (job, _) = serving(&running, manual(GuestStop::ShutDown)).await;
        world.host.state().hangs = true;
        running.jobs.finish(&job, migrate()).await.unwrap();
        let mut view = running.jobs.watch(&job).unwrap();
        view.wait_for(|view| view.progress.is_some()).await.unwrap();
        running.jobs.cancel(&job).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Cancelled));
        {
            let state = world.host.state();
            assert_eq!(state.calls.iter().filter(|call| **call == "end_copies").count(), 2);
            assert!(state.vms.is_empty() && state.dirs.is_empty() && state.mounted.is_empty());
        }
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn without_the_licence_it_goes_on_with_a_short_pause() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        {
            let mut state = world.host.state();
            (state.standalone, state.unlicensed) = (false, true);
        }
        let running = world.start().await;
        let (job, model) = serving(&running, manual(GuestStop::ShutDown)).await;
        running.jobs.finish(&job, migrate()).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.outcome, done.error), (Some(Outcome::Migrated), None));
        assert!(world.host.state().calls.contains(&"relocate"));
        assert_moved(world, &job, &model);
        let bound = CutOver { method: Some(CutOverMethod::Relocate), ..CutOver::default() };
        let request = RecoveryRequest { cut_over: Some(bound), ..manual(GuestStop::ShutDown) };
        world.host.state().vms.clear();
        let (job, _) = serving(&running, request).await;
        running.jobs.finish(&job, migrate()).await.unwrap();
        assert_eq!(failed(&running, &job).await, crate::target::UNLICENSED);
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        running.stop().await;
    });
}

#[test]
fn a_vcenter_can_be_told_to_do_so_too() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        world.host.state().standalone = false;
        let running = world.start().await;
        let low = CutOver { method: Some(CutOverMethod::LowPause), ..CutOver::default() };
        let request = RecoveryRequest {
            cut_over: Some(low),
            networks: Some(Networks::Map([("VM Network".into(), "Lab".into())].into())),
            ..manual(GuestStop::ShutDown)
        };
        let (job, model) = serving(&running, request).await;
        running.jobs.finish(&job, migrate()).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        assert_moved(world, &job, &model);
        {
            let state = world.host.state();
            assert!(!state.calls.contains(&"relocate"));
            let moved = &state.vms[&format!("{}/sample_1.vmx", home(&job))];
            let plugged = (moved.id.clone(), 0, "Lab".to_owned());
            assert!(state.plugged.contains(&plugged), "{:?}", state.plugged);
        }
        running.stop().await;
    });
}

#[test]
fn what_needs_a_vcenter_is_refused_on_a_standalone_host() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let bound = CutOver { method: Some(CutOverMethod::Relocate), ..CutOver::default() };
        let relocated = RecoveryRequest { cut_over: Some(bound), ..manual(GuestStop::ShutDown) };
        let refused = running.jobs.start(relocated, None).await.unwrap_err();
        assert_eq!(refused.code(), "needs_vcenter");
        let low = CutOver { method: Some(CutOverMethod::LowPause), ..CutOver::default() };
        for request in [
            RecoveryRequest { in_place: Some(InPlace::default()), ..manual(GuestStop::ShutDown) },
            RecoveryRequest { redo_datastore: Some("redo".into()), ..manual(GuestStop::ShutDown) },
        ] {
            let request = RecoveryRequest { cut_over: Some(low.clone()), ..request };
            assert_eq!(request.validate().unwrap_err().code(), "bad_cut_over");
        }
        let long = CutOver { shut_down_seconds: Some(3601), ..CutOver::default() };
        let request = RecoveryRequest { cut_over: Some(long), ..manual(GuestStop::ShutDown) };
        assert_eq!(request.validate().unwrap_err().code(), "bad_cut_over");
        running.stop().await;
    });
}

/// Asked for before a restart that came before it was carried out, and again after it.
#[test]
fn a_snapshot_that_is_there_twice_is_made_anew() {
    let world = World::new();
    standalone(&world);
    world.host.state().doubles = true;
    world.live(async |world| {
        let running = world.start().await;
        let (job, mut model) = serving(&running, manual(GuestStop::PowerOff)).await;
        running.jobs.finish(&job, migrate()).await.unwrap();
        writes_on(world, &running, &job, &mut model).await;
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        let calls = world.host.state().calls.clone();
        assert_eq!(calls.iter().filter(|call| **call == "remove_snapshots").count(), 1);
        assert!(world.host.state().flats(&home(&job)).into_values().eq(model));
        running.stop().await;
    });
}

/// A snapshot that somebody else made holds what the guest wrote: the disks alone would not be the VM.
#[test]
fn a_vm_with_snapshots_of_others_is_left_alone() {
    let world = World::new();
    standalone(&world);
    world.live(async |world| {
        let running = world.start().await;
        let (job, _) = serving(&running, manual(GuestStop::ShutDown)).await;
        {
            let mut state = world.host.state();
            state.snapshot_of_others(OURS);
        }
        running.jobs.finish(&job, migrate()).await.unwrap();
        assert_eq!(failed(&running, &job).await, "vm_has_snapshots");
        assert!(world.host.state().vms[OURS].runs);
        assert!(!world.host.state().calls.contains(&"merge"), "others' snapshots stay");
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        running.stop().await;
    });
}
