//! A kill at every journal write, before and after it. Whatever it hit, the next start ends clean.

use std::time::Duration;

use rekindle_disk::DiskId;
use rekindle_repo::{Attached, Near};

use super::world::{Running, World, expected, to_directory, to_export, to_host};
use crate::{
    Destination, Finish, JobId, JobState, JobsConfig, Mode, Outcome, RecoveryRequest, TargetRef,
};

/// How the story is to end, as it is told again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Discard,
    Migrate,
    /// To another datastore of the host.
    Relocate,
    /// To a directory, or to the host's datastore, without ever serving.
    Straight,
}

async fn finish(world: &World, running: &Running, job: &JobId, ending: Ending) {
    let finish = match ending {
        Ending::Discard => Finish::Discard,
        Ending::Migrate => to_directory(world, "out"),
        Ending::Straight => return,
        Ending::Relocate => Finish::Migrate {
            to: Some(Destination::Datastore("vmfs".into())),
            cut_over: None,
            verify: None,
        },
    };
    running.jobs.finish(job, finish).await.unwrap();
}

/// Runs until the crash, or to the end; says whether it crashed.
async fn until_crash(
    world: &World,
    request: &RecoveryRequest,
    ending: Ending,
    at: (usize, bool),
) -> bool {
    world.host.state().datastores.extend(["vmfs".to_owned(), "redo".to_owned()]);
    let running = world.start().await;
    let crash = running.jobs.crash_point();
    crash.arm(at.0, at.1);
    let story = async {
        let job = running.jobs.start(request.clone(), None).await.unwrap();
        if ending != Ending::Straight {
            running.serving(&job).await;
            let mut model = expected(0);
            running.write(&job, 0, 12345, 6789, &mut model).await;
            finish(world, &running, &job, ending).await;
        }
        running.end(&job).await;
    };
    tokio::select! {
        () = crash.reached() => true,
        () = story => false,
    }
}

/// The second life: the job goes on where it was and ends as it was to.
async fn second_life(world: &World, ending: Ending) {
    let running = world.start().await;
    let jobs = running.jobs.list();
    running.jobs.run();
    let [job] = jobs.as_slice() else { panic!("{jobs:#?}") };
    let states = [JobState::Serving, JobState::Completed, JobState::Cancelled, JobState::Failed];
    if running.wait(&job.id, &states).await.state == JobState::Serving {
        let contents = running.contents(&job.id, 0).await;
        // Written before the crash or not at all: never half of it.
        let mut written = expected(0);
        written[12345..12345 + 6789].iter_mut().enumerate().for_each(|(n, b)| *b = n as u8 ^ 0xa5);
        assert!(contents == expected(0) || contents == written);
        finish(world, &running, &job.id, ending).await;
    }
    let done = running.end(&job.id).await;
    assert_eq!(done.state, JobState::Completed, "{:#?}", done.timeline);
    if ending == Ending::Migrate {
        assert_eq!(done.outcome, Some(Outcome::Migrated));
        assert!(world.path("out/sample_1-flat.vmdk").exists());
        assert!(world.path("out/sample_1.vmx").exists());
    }
    if ending != Ending::Discard {
        assert_eq!(done.outcome, Some(Outcome::Migrated));
    }
    assert_host_holds(world, done.migrated_to.as_deref() == Some("vmfs"));
    world.assert_clean(&running);
    running.stop().await;
}

/// Nothing of the job is at the host but the VM, if it has moved.
#[track_caller]
fn assert_host_holds(world: &World, moved: bool) {
    let state = world.host.state();
    assert!(state.dirs.is_empty() && state.mounted.is_empty());
    let vms: Vec<&str> = state.vms.keys().map(String::as_str).collect();
    let stays = ["[vmfs] sample_1/sample_1.vmx"];
    assert_eq!(vms, if moved { &stays[..] } else { &[] });
}

fn crash_everywhere(request: &RecoveryRequest, ending: Ending) {
    crash_everywhere_in(&World::new(), request, ending);
}

fn crash_everywhere_in(world: &World, request: &RecoveryRequest, ending: Ending) {
    for write in 0.. {
        for after in [false, true] {
            let crashed =
                world.live(async |world| until_crash(world, request, ending, (write, after)).await);
            if !crashed {
                assert!(write > 10, "the story has only {write} writes");
                return;
            }
            world.live(async |world| second_life(world, ending).await);
            world.reset();
        }
    }
}

#[test]
fn discarding_survives_a_crash_at_every_write() {
    crash_everywhere(&to_export(), Ending::Discard);
}

#[test]
fn migrating_survives_a_crash_at_every_write() {
    crash_everywhere(&to_export(), Ending::Migrate);
}

#[test]
fn a_host_is_clean_after_a_crash_at_every_write() {
    crash_everywhere(&to_host(), Ending::Discard);
}

#[test]
fn a_host_migration_survives_a_crash_at_every_write() {
    let redirected = RecoveryRequest { redo_datastore: Some("redo".into()), ..to_host() };
    crash_everywhere(&to_host(), Ending::Relocate);
    crash_everywhere(&redirected, Ending::Relocate);
    crash_everywhere(&redirected, Ending::Discard);
}

#[test]
fn a_full_restore_survives_a_crash_at_every_write() {
    let world = World::new();
    let full = |migrate, target| RecoveryRequest {
        mode: Mode::FullRestore,
        migrate: Some(migrate),
        target,
        ..to_export()
    };
    let to_host = full(Destination::Datastore("vmfs".into()), to_host().target);
    crash_everywhere(&to_host, Ending::Straight);
    let directory = Destination::Directory(world.path("out"));
    crash_everywhere_in(&world, &full(directory, TargetRef::Nowhere {}), Ending::Straight);
}

/// Discarded, kept, served again and kept once more: what the guest wrote is there until the end.
#[test]
fn what_is_kept_survives_a_crash_at_every_write() {
    let world = World::new();
    let request = RecoveryRequest { keep_seconds: Some(3600), ..to_export() };
    let mut model = expected(0);
    for write in 0.. {
        for after in [false, true] {
            let crashed = world.live(async |world| {
                let running = world.start().await;
                let crash = running.jobs.crash_point();
                let job = running.jobs.start(request.clone(), None).await.unwrap();
                running.serving(&job).await;
                running.write(&job, 0, 12345, 6789, &mut model).await;
                crash.arm(write, after);
                let story = async {
                    running.jobs.finish(&job, Finish::Discard).await.unwrap();
                    running.wait(&job, &[JobState::Kept]).await;
                    running.jobs.undo(&job).await.unwrap();
                    running.serving(&job).await;
                    running.jobs.finish(&job, Finish::Discard).await.unwrap();
                    running.wait(&job, &[JobState::Kept]).await;
                };
                tokio::select! {
                    () = crash.reached() => true,
                    () = story => false,
                }
            });
            world.live(async |world| {
                let running = world.start().await;
                let [job] = &running.jobs.list()[..] else { panic!("one job") };
                running.jobs.run();
                let states = [JobState::Kept, JobState::Serving];
                if running.wait(&job.id, &states).await.state == JobState::Kept {
                    running.jobs.undo(&job.id).await.unwrap();
                    running.serving(&job.id).await;
                }
                assert!(running.contents(&job.id, 0).await == model, "write {write}");
                running.jobs.cancel(&job.id).await.unwrap();
                running.end(&job.id).await;
                world.assert_clean(&running);
                running.stop().await;
            });
            world.reset();
            if !crashed {
                assert!(write > 10, "the story has only {write} writes");
                return;
            }
        }
    }
}

/// A cut anywhere within the steps, not only between them: the runtime ends in the middle.
#[test]
fn a_kill_at_any_moment_ends_clean() {
    for millis in (0..40).step_by(3) {
        let world = World::new();
        let accepted = world.live(async |world| {
            let running = world.start().await;
            let story = async {
                let job = running.jobs.start(to_export(), None).await.unwrap();
                running.serving(&job).await;
                finish(world, &running, &job, Ending::Migrate).await;
                running.end(&job).await;
            };
            // The moment of the kill is the input of this test, not a condition.
            let kill = tokio::time::sleep(Duration::from_millis(millis));
            tokio::select! { () = story => {}, () = kill => {} }
            !running.jobs.list().is_empty()
        });
        if accepted {
            world.live(async |world| second_life(world, Ending::Migrate).await);
        }
    }
}

#[test]
fn a_graceful_stop_leaves_the_job_for_the_next_start() {
    let world = World::new();
    let job = world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let mut model = expected(0);
        running.write(&job, 0, 12345, 6789, &mut model).await;
        running.stop().await;
        job
    });
    world.live(async |world| {
        let running = world.start().await;
        // Back before anything runs, and so before NFS would listen.
        let view = running.jobs.view(&job).unwrap();
        assert_eq!(view.state, JobState::Serving);
        let path = view.export.unwrap().path;
        assert!(running.exports.get(path.trim_start_matches('/')).is_some());
        let mut model = expected(0);
        model[12345..12345 + 6789].iter_mut().enumerate().for_each(|(n, b)| *b = n as u8 ^ 0xa5);
        assert_eq!(running.contents(&job, 0).await, model);
        running.stop().await;
    });
    world.live(async |world| second_life(world, Ending::Discard).await);
}

/// The repository is not there at a restart: exports are, and the job serves as soon as it is.
#[test]
fn a_job_comes_back_when_its_repository_does() {
    let world = World::new();
    let (here, away) = (world.path("repository"), world.path("away"));
    let job = world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let mut model = expected(0);
        running.write(&job, 0, 12345, 6789, &mut model).await;
        job
    });
    std::fs::rename(&here, &away).unwrap();
    world.live(async |world| {
        let attached =
            Attached::open("main", here.as_path().into(), None, Near::default()).unwrap();
        attached.tried().await;
        // Nobody would wait for so long: it is the repository that ends the pause.
        let hour = Duration::from_secs(3600);
        let config = JobsConfig { retry_first: hour, retry_max: hour, ..world.config() };
        let running = world.start_on(config, attached.clone()).await;
        let path = running.jobs.view(&job).unwrap().export.unwrap().path;
        assert!(running.exports.get(path.trim_start_matches('/')).is_some());
        running.jobs.run();
        let mut view = running.jobs.watch(&job).unwrap();
        let waits = view.wait_for(|view| view.obstacle.is_some()).await.unwrap().clone();
        assert_eq!(waits.state, JobState::Serving);
        assert!(running.disks.attached(&DiskId::new(format!("{job}.0")).unwrap()).is_none());
        let refused = running.jobs.start(to_export(), None).await.unwrap_err();
        assert_eq!(refused.code(), "repository_refused", "{refused}");
        std::fs::rename(&away, &here).unwrap();
        view.wait_for(|view| view.obstacle.is_none()).await.unwrap();
        let mut model = expected(0);
        model[12345..12345 + 6789].iter_mut().enumerate().for_each(|(n, b)| *b = n as u8 ^ 0xa5);
        assert_eq!(running.contents(&job, 0).await, model);
        running.stop().await;
    });
    world.live(async |world| second_life(world, Ending::Discard).await);
}
