//! Disks alone on a VM that was there before, which nothing else happens to.

use super::world::{Running, World, expected, to_export, to_host};
use crate::target::fake::FakeVm;
use crate::{
    Destination, FileKind, Finish, JobId, JobState, Mode, OriginalRef, Outcome, RecoveryRequest,
    TargetRef,
};

const OTHER: &str = "[vmfs] web/web.vmx";
const ID: &str = "vm-web";

fn attached() -> RecoveryRequest {
    let attach_to = Some(OriginalRef::Name("web".into()));
    RecoveryRequest { mode: Mode::DiskOnly, attach_to, ..to_host() }
}

fn with_other(world: &World) {
    let (id, name) = (ID.to_owned(), "web".to_owned());
    let vm = FakeVm { id, name, runs: true, snapshot: false, tag: None };
    world.host.state().vms.insert(OTHER.into(), vm);
}

/// The VM runs on, with nothing of ours, and nothing else is at the host.
#[track_caller]
fn assert_left_alone(world: &World, running: &Running) {
    let state = world.host.state();
    assert!(state.hung.on.is_empty(), "{:?}", state.hung);
    assert_eq!(state.vms.keys().collect::<Vec<_>>(), [OTHER], "{:?}", state.calls);
    assert!(state.vms[OTHER].runs && state.mounted.is_empty());
    let harmless =
        ["find_original", "check_room", "check", "mounts", "mount", "unmount", "attach", "detach"];
    assert!(state.calls.iter().all(|call| harmless.contains(call)), "{:?}", state.calls);
    drop(state);
    world.assert_clean(running);
}

fn files(world: &World, job: &JobId) -> Vec<String> {
    let (by, files) = world.host.state().hung.on[ID].clone();
    assert_eq!(by, job.as_str());
    files
}

#[test]
fn disks_are_attached_to_a_vm_and_detached_at_the_end() {
    let world = World::new();
    with_other(&world);
    world.live(async |world| {
        let running = world.start().await;
        let request = RecoveryRequest { disks: vec!["scsi0:1".into()], ..attached() };
        let job = running.jobs.start(request, None).await.unwrap();
        let view = running.serving(&job).await;
        assert_eq!(files(world, &job), ["[rekindle-lab] sample_1/sample_1_1.vmdk"]);
        assert!(view.timeline.iter().any(|e| e.what == "scsi0:1 is attached to web as scsi0:1"));
        let served = view.export.unwrap().files;
        assert!(served.iter().all(|file| file.kind != FileKind::Vmx), "{served:?}");
        assert_eq!(view.expires_at, None);
        let to = Some(Destination::Datastore("vmfs".into()));
        let migrate =
            running.jobs.finish(&job, Finish::Migrate { to, cut_over: None, verify: None }).await;
        assert_eq!(migrate.unwrap_err().code(), "attached_is_not_migrated");
        let refused = running.jobs.start(attached(), None).await.unwrap_err();
        assert_eq!(refused.code(), "vm_taken");
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Discarded));
        assert_left_alone(world, &running);
        running.stop().await;
    });
}

#[test]
fn attached_disks_are_detached_at_their_time_limit() {
    let world = World::new();
    with_other(&world);
    world.live(async |world| {
        let running = world.start().await;
        let limited = RecoveryRequest { expires_in_seconds: Some(3600), ..attached() };
        let job = running.jobs.start(limited, None).await.unwrap();
        assert!(running.serving(&job).await.expires_at.is_some());
        running.jobs.extend(&job, 1).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Expired));
        assert_left_alone(world, &running);
        running.stop().await;
    });
}

/// Discarded, kept, and attached again with what was written.
#[test]
fn what_was_written_to_an_attached_disk_can_be_kept() {
    let world = World::new();
    with_other(&world);
    world.live(async |world| {
        let running = world.start().await;
        let kept = RecoveryRequest { keep_seconds: Some(3600), ..attached() };
        let job = running.jobs.start(kept, None).await.unwrap();
        running.serving(&job).await;
        let mut model = expected(0);
        running.write(&job, 0, 4096, 5000, &mut model).await;
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.wait(&job, &[JobState::Kept]).await;
        assert!(world.host.state().hung.on.is_empty());
        running.jobs.undo(&job).await.unwrap();
        running.serving(&job).await;
        assert_eq!(files(world, &job).len(), 2);
        assert!(running.contents(&job, 0).await == model);
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        assert_left_alone(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_vm_that_cannot_have_disks_is_refused_and_left_alone() {
    let world = World::new();
    with_other(&world);
    world.live(async |world| {
        let running = world.start().await;
        for code in ["vm_encrypted", "vm_needs_consolidation", "vm_unfit"] {
            world.host.state().hung.off_limits = Some(code);
            let refused = running.jobs.start(attached(), None).await.unwrap_err();
            assert_eq!(refused.code(), code);
        }
        world.host.state().hung.off_limits = None;
        world.host.state().hung.units = 1;
        let full = running.jobs.start(attached(), None).await.unwrap_err();
        assert_eq!(full.code(), "no_free_unit");
        let gone = OriginalRef::Name("nobody".into());
        let gone = RecoveryRequest { attach_to: Some(gone), ..attached() };
        let gone = running.jobs.start(gone, None).await.unwrap_err();
        assert_eq!(gone.code(), "not_on_target");
        assert!(running.jobs.list().is_empty());
        // One that fails on the way leaves nothing.
        world.host.state().hung.units = 15;
        world.host.state().fail.insert("attach", 1);
        let job = running.jobs.start(attached(), None).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Failed));
        assert_left_alone(world, &running);
        // Nor does one that fails after the disks are there.
        world.host.state().fail.insert("attach_answer", 1);
        let job = running.jobs.start(attached(), None).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Failed));
        assert_left_alone(world, &running);
        running.stop().await;
    });
}

#[test]
fn a_disk_that_cannot_be_detached_yet_keeps_the_job_stuck() {
    let world = World::new();
    with_other(&world);
    world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(attached(), None).await.unwrap();
        running.serving(&job).await;
        world.host.state().fail.insert("detach", usize::MAX);
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.wait(&job, &[JobState::Stuck]).await;
        assert_eq!(files(world, &job).len(), 2, "served for as long as they are on");
        assert_eq!(running.exports.list().len(), 1);
        world.host.state().fail.clear();
        running.end(&job).await;
        assert_left_alone(world, &running);
        running.stop().await;
    });
}

/// Runs until a kill before or after that journal write, or to the end; says whether it was killed.
async fn until_killed(world: &World, at: (usize, bool)) -> bool {
    with_other(world);
    let running = world.start().await;
    let crash = running.jobs.crash_point();
    crash.arm(at.0, at.1);
    let story = async {
        let job = running.jobs.start(attached(), None).await.unwrap();
        running.serving(&job).await;
        let mut model = expected(0);
        running.write(&job, 0, 12345, 6789, &mut model).await;
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
    };
    tokio::select! {
        () = crash.reached() => true,
        () = story => false,
    }
}

#[test]
fn attached_disks_survive_a_crash_at_every_write() {
    let world = World::new();
    for write in 0.. {
        for after in [false, true] {
            if !world.live(async |world| until_killed(world, (write, after)).await) {
                assert!(write > 10, "the story has only {write} writes");
                return;
            }
            world.live(async |world| {
                let running = world.start().await;
                let [job] = &running.jobs.list()[..] else { panic!("one job") };
                running.jobs.run();
                let states = [JobState::Serving, JobState::Completed];
                if running.wait(&job.id, &states).await.state == JobState::Serving {
                    assert_eq!(files(world, &job.id).len(), 2);
                    running.jobs.finish(&job.id, Finish::Discard).await.unwrap();
                }
                let done = running.end(&job.id).await;
                assert_eq!(done.outcome, Some(Outcome::Discarded), "{:#?}", done.timeline);
                assert_left_alone(world, &running);
                running.stop().await;
            });
            world.reset();
        }
    }
}

#[test]
fn what_attached_disks_cannot_have_is_refused() {
    let host = TargetRef::Vsphere { name: "lab".into(), host: Some("h".into()) };
    for request in [
        RecoveryRequest { mode: Mode::LiveMount, ..attached() },
        RecoveryRequest { target: to_export().target, ..attached() },
        RecoveryRequest { target: host, ..attached() },
        RecoveryRequest { migrate: Some(Destination::Datastore("d".into())), ..attached() },
        RecoveryRequest { redo_datastore: Some("d".into()), ..attached() },
        RecoveryRequest { power_on: Some(true), ..attached() },
    ] {
        assert_eq!(request.validate().unwrap_err().code(), "bad_attach", "{request:?}");
    }
    let endless = RecoveryRequest { expires_in_seconds: Some(0), ..attached() };
    assert_eq!(endless.validate().unwrap_err().code(), "bad_expiry");
}
