//! A copy of a VM that runs.

use std::cell::Cell;

use bytes::Bytes;

use super::world::{Running, SIZES, World, expected, to_export};
use crate::{
    Finish, JobId, JobState, KeepRequest, Mode, Outcome, RecoveryRequest, Step, TargetRef,
};

/// A live mount of what the job's VM is now.
fn copy_of(job: &JobId) -> RecoveryRequest {
    RecoveryRequest {
        point: String::new(),
        from_job: Some(job.clone()),
        mode: Mode::LiveMount,
        ..to_export()
    }
}

async fn contents(running: &Running, id: &JobId) -> [Vec<u8>; 2] {
    [running.contents(id, 0).await, running.contents(id, 1).await]
}

/// A file of a job's folder, as a client sees it.
fn file(running: &Running, id: &JobId, ending: &str) -> Vec<u8> {
    let view = running.jobs.view(id).unwrap().export.unwrap();
    let export = running.exports.get(&view.path[1..]).unwrap();
    let path = format!("{0}/{0}.{ending}", view.folder);
    export.read_file(path.as_ref()).unwrap().unwrap()
}

fn change_file(running: &Running, id: &JobId, ending: &str, bytes: &[u8]) {
    let view = running.jobs.view(id).unwrap().export.unwrap();
    let export = running.exports.get(&view.path[1..]).unwrap();
    let path = format!("{0}/{0}.{ending}", view.folder);
    export.put_file(path.as_ref(), bytes, 0o600).unwrap();
}

/// A job that serves, of whose disks the guest wrote some.
async fn source(running: &Running, models: &mut [Vec<u8>; 2]) -> JobId {
    let id = running.jobs.start(to_export(), None).await.unwrap();
    running.serving(&id).await;
    for (n, model) in models.iter_mut().enumerate() {
        running.write(&id, n, 12_345, 6789, model).await;
    }
    id
}

#[test]
fn a_copy_of_a_running_vm_is_what_it_was_and_goes_its_own_way() {
    let world = World::new();
    let mut models = [expected(0), expected(1)];
    let (id, copy, copied) = world.live(async |world| {
        let running = world.start().await;
        let id = source(&running, &mut models).await;
        let grown = SIZES[1] + 512;
        running.disk(&id, 1).set_size(grown).await.unwrap();
        models[1].resize(grown as usize, 0);
        let vmx = [&file(&running, &id, "vmx")[..], b"annotation = \"as it runs\"\n"].concat();
        change_file(&running, &id, "vmx", &vmx);
        change_file(&running, &id, "nvram", b"variables of now");

        let copy = running.jobs.start(copy_of(&id), None).await.unwrap();
        let view = running.serving(&copy).await;
        let mut copied = models.clone();
        assert_eq!(view.request.from_job.as_ref(), Some(&id));
        assert_eq!((view.vm.as_str(), view.name.as_str()), ("sample", "sample_2"));
        assert!(view.expires_at.is_some());
        assert_eq!(view.size_bytes, SIZES[0] + grown);
        assert!(contents(&running, &copy).await == copied);
        let text = String::from_utf8(file(&running, &copy, "vmx")).unwrap();
        assert!(text.contains("annotation = \"as it runs\""), "{text}");
        assert!(text.contains("displayName = \"sample_2\""), "{text}");
        assert_eq!(file(&running, &copy, "nvram"), b"variables of now");
        let stem = &view.export.as_ref().unwrap().folder;
        let export = running.exports.get(&view.export.as_ref().unwrap().path[1..]).unwrap();
        let descriptor = export.read_file(format!("{stem}/{stem}_1.vmdk").as_ref()).unwrap();
        let descriptor = String::from_utf8(descriptor.unwrap()).unwrap();
        assert!(descriptor.contains(&format!("RW {} ", grown / 512)), "{descriptor}");

        // Each writes on, and neither sees the other's.
        for n in 0..2 {
            running.write(&id, n, 300_000, 5000, &mut models[n]).await;
            running.write(&copy, n, 900_000, 7000, &mut copied[n]).await;
        }
        assert!(contents(&running, &id).await == models);
        assert!(contents(&running, &copy).await == copied);
        // What both lie over is counted once.
        let used = running.jobs.env.overlays.all_used();
        let apart: u64 = [&id, &copy].iter().map(|job| running.jobs.env.overlays.used(job)).sum();
        assert_eq!(used, apart);
        assert!(used < 100_000, "{used}");
        running.stop().await;
        (id, copy, copied)
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        running.serving(&copy).await;
        assert!(contents(&running, &copy).await == copied);
        // The other one ends first.
        running.serving(&id).await;
        running.jobs.finish(&id, Finish::Discard).await.unwrap();
        running.end(&id).await;
        assert!(contents(&running, &copy).await == copied);
        running.stop().await;
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        running.serving(&copy).await;
        assert!(contents(&running, &copy).await == copied);
        assert_eq!(file(&running, &copy, "nvram"), b"variables of now");
        running.jobs.finish(&copy, Finish::Discard).await.unwrap();
        let done = running.end(&copy).await;
        assert_eq!(done.outcome, Some(Outcome::Discarded));
        world.assert_clean(&running);
        let origins = &running.jobs.env.origins;
        assert_eq!(origins.get(&copy).unwrap(), None);
        running.stop().await;
    });
}

/// Of a copy there may be a copy, and a recovery point; what is kept of an ended job is a VM as well.
#[test]
fn a_copy_is_a_vm_like_any_other() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mut models = [expected(0), expected(1)];
        let id = source(&running, &mut models).await;
        change_file(&running, &id, "nvram", b"variables of now");
        let keep = RecoveryRequest { keep_seconds: Some(3600), ..copy_of(&id) };
        let first = running.jobs.start(keep, None).await.unwrap();
        running.serving(&first).await;
        let mut copied = models.clone();
        running.write(&first, 0, 500_000, 5000, &mut copied[0]).await;
        running.jobs.finish(&id, Finish::Discard).await.unwrap();
        running.end(&id).await;
        running.jobs.finish(&first, Finish::Discard).await.unwrap();
        running.wait(&first, &[JobState::Kept]).await;

        let second = running.jobs.start(copy_of(&first), None).await.unwrap();
        running.serving(&second).await;
        assert!(contents(&running, &second).await == copied);
        assert_eq!(file(&running, &second, "nvram"), b"variables of now");
        let ending = running.jobs.keep_as_point(&second, KeepRequest::default()).await.unwrap();
        ending.line().await.unwrap();
        let points = running.attached.get().unwrap().points().await.unwrap().points;
        let point = points.iter().find(|point| point.parent.is_some()).unwrap();
        assert_eq!(point.nvram.as_deref(), Some(&b"variables of now"[..]));
        let again = RecoveryRequest { point: point.id.to_string(), ..to_export() };
        let again = running.jobs.start(again, None).await.unwrap();
        running.serving(&again).await;
        assert!(contents(&running, &again).await == copied);
        // Its end is undone, and it is what it was.
        running.jobs.undo(&first).await.unwrap();
        running.serving(&first).await;
        assert!(contents(&running, &first).await == copied);
        for job in [&again, &second] {
            running.jobs.cancel(job).await.unwrap();
            running.end(job).await;
        }
        running.jobs.finish(&first, Finish::Discard).await.unwrap();
        running.wait(&first, &[JobState::Kept]).await;
        running.jobs.cancel(&first).await.unwrap();
        running.end(&first).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_copy_is_refused_of_what_is_no_whole_vm_and_is_nothing_but_mounted() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mut models = [expected(0), expected(1)];
        let id = source(&running, &mut models).await;
        let code = async |request| running.jobs.start(request, None).await.unwrap_err().code();
        let stays = RecoveryRequest { mode: Mode::LiveRecovery, ..copy_of(&id) };
        assert_eq!(code(stays).await, "bad_from_job");
        let both = RecoveryRequest { point: "sample".into(), ..copy_of(&id) };
        assert_eq!(code(both).await, "bad_from_job");
        let one = RecoveryRequest { disks: vec!["scsi0:0".into()], ..copy_of(&id) };
        assert_eq!(code(one).await, "bad_from_job");
        let neither = RecoveryRequest { from_job: None, ..copy_of(&id) };
        assert_eq!(code(neither).await, "bad_text");
        let elsewhere = RecoveryRequest { repository: Some("other".into()), ..copy_of(&id) };
        assert_eq!(code(elsewhere).await, "bad_from_job");
        let none: JobId = "20250131-235959-1f3a".parse().unwrap();
        assert_eq!(code(copy_of(&none)).await, "job_not_found");
        let alone = RecoveryRequest { mode: Mode::DiskOnly, ..to_export() };
        let alone = running.jobs.start(alone, None).await.unwrap();
        running.serving(&alone).await;
        assert_eq!(code(copy_of(&alone)).await, "not_a_whole_vm");
        running.jobs.cancel(&alone).await.unwrap();
        running.end(&alone).await;
        assert_eq!(code(copy_of(&alone)).await, "not_a_whole_vm");

        // What is found out when it is made unwinds it: the VM has a snapshot, which is elsewhere.
        let vmx = String::from_utf8(file(&running, &id, "vmx")).unwrap();
        let delta = vmx.replace("_1.vmdk\"", "_1-000001.vmdk\"");
        change_file(&running, &id, "vmx", delta.as_bytes());
        let copy = running.jobs.start(copy_of(&id), None).await.unwrap();
        let failed = running.end(&copy).await;
        assert_eq!(failed.state, JobState::Failed);
        assert_eq!(failed.error.unwrap().code, "vm_has_snapshots");
        running.disk(&id, 0).write(0, Bytes::from_static(&[1; 512])).await.unwrap();
        running.jobs.cancel(&id).await.unwrap();
        running.end(&id).await;
        assert_eq!(code(copy_of(&id)).await, "not_serving");
        world.assert_clean(&running);
        running.stop().await;
    });
}

/// A kill at every journal write, before and after it: the copy is what the VM was before, or there is none.
#[test]
fn a_copy_survives_a_crash_at_every_write() {
    let world = World::new();
    for write in 0.. {
        for after in [false, true] {
            let mut models = [expected(0), expected(1)];
            let (crashed, accepted) = world.live(async |world| {
                let running = world.start().await;
                let id = source(&running, &mut models).await;
                let crash = running.jobs.crash_point();
                crash.arm(write, after);
                let accepted = Cell::new(false);
                let story = async {
                    let copy = running.jobs.start(copy_of(&id), None).await.unwrap();
                    accepted.set(true);
                    running.serving(&copy).await;
                    running.jobs.finish(&copy, Finish::Discard).await.unwrap();
                    running.end(&copy).await;
                };
                let crashed = tokio::select! {
                    () = crash.reached() => true,
                    () = story => false,
                };
                (crashed, accepted.get())
            });
            if !crashed {
                assert!(write > 10, "the story has only {write} writes");
                return;
            }
            world.live(async |world| second_life(world, &models, accepted).await);
            world.reset();
        }
    }
}

/// The VM's own job may write to its journal before the copy is accepted: then there may be none.
async fn second_life(world: &World, models: &[Vec<u8>; 2], accepted: bool) {
    let running = world.start().await;
    let jobs = running.jobs.list();
    running.jobs.run();
    let of = |from: bool| jobs.iter().find(|job| job.request.from_job.is_some() == from);
    let (id, copy) = (&of(false).unwrap().id, of(true).map(|copy| &copy.id));
    assert!(copy.is_some() || !accepted, "a copy that was accepted is lost");
    if let Some(copy) = copy {
        let states = [JobState::Serving, JobState::Completed];
        if running.wait(copy, &states).await.state == JobState::Serving {
            assert!(contents(&running, copy).await == *models);
            running.jobs.finish(copy, Finish::Discard).await.unwrap();
        }
        let done = running.end(copy).await;
        assert_eq!(done.state, JobState::Completed, "{:#?}", done.timeline);
        assert!(done.steps.iter().any(|step| step.name == Step::Overlay));
    }
    running.serving(id).await;
    assert!(contents(&running, id).await == *models);
    running.jobs.finish(id, Finish::Discard).await.unwrap();
    running.end(id).await;
    world.assert_clean(&running);
    running.stop().await;
}

/// At a host it is another VM beside the one that runs.
#[test]
fn a_copy_runs_on_the_host_beside_the_vm() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let target = TargetRef::Vsphere { name: "lab".into(), host: None };
        let there = RecoveryRequest { target: target.clone(), ..to_export() };
        let id = running.jobs.start(there, None).await.unwrap();
        running.serving(&id).await;
        let copy = RecoveryRequest { target, ..copy_of(&id) };
        let copy = running.jobs.start(copy, None).await.unwrap();
        running.serving(&copy).await;
        assert_eq!(world.host.state().vms.len(), 2);
        for job in [&copy, &id] {
            running.jobs.finish(job, Finish::Discard).await.unwrap();
            running.end(job).await;
        }
        assert!(world.host.state().vms.is_empty());
        world.assert_clean(&running);
        running.stop().await;
    });
}
