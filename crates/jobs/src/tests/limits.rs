//! What is refused, what waits, and what ends by itself.

use std::time::Duration;

use super::world::{SIZES, World, expected, to_directory, to_export, to_host};
use crate::{
    Admission, Destination, Finish, JobError, JobId, JobState, MigrationStart, Mode, Outcome,
    RecoveryRequest, StepState, TargetRef,
};

#[test]
fn a_bad_request_changes_nothing() {
    let world = World::new();
    world.live(async |world| {
        std::fs::create_dir_all(world.path("full/x")).unwrap();
        let running = world.start().await;
        let directory = |path: &str| RecoveryRequest {
            migrate: Some(Destination::Directory(path.into())),
            ..to_export()
        };
        let inside = |name: &str| directory(world.path(name).to_str().unwrap());
        let named = |name: &str| RecoveryRequest { name: Some(name.into()), ..to_export() };
        let mount = RecoveryRequest { mode: Mode::LiveMount, ..to_export() };
        let nobody = TargetRef::Export { clients: Vec::new() };
        let unknown = TargetRef::Vsphere { name: "nowhere".into(), host: None };
        let cases = [
            ("point_not_found", RecoveryRequest { point: "other".into(), ..to_export() }),
            ("bad_text", RecoveryRequest { point: String::new(), ..to_export() }),
            (
                "repository_not_found",
                RecoveryRequest { repository: Some("other".into()), ..to_export() },
            ),
            ("target_not_found", RecoveryRequest { target: unknown, ..to_export() }),
            ("bad_clients", RecoveryRequest { target: nobody, ..to_export() }),
            ("bad_directory", directory("relative/path")),
            ("bad_directory", directory("/")),
            ("bad_directory", directory("/tmp/../etc/x")),
            ("bad_directory", inside("full")),
            ("bad_directory", inside("state/x")),
            ("bad_directory", inside("repository")),
            ("bad_directory", inside("not/there")),
            ("bad_name", named("a/b")),
            ("bad_name", named(".hidden")),
            ("bad_name", named(&"x".repeat(80))),
            ("mount_is_not_migrated", RecoveryRequest { mode: Mode::LiveMount, ..inside("out") }),
            ("bad_expiry", RecoveryRequest { expires_in_seconds: Some(0), ..mount.clone() }),
            ("bad_expiry", RecoveryRequest { expires_in_seconds: Some(u64::MAX), ..mount }),
            (
                "recovery_does_not_expire",
                RecoveryRequest { expires_in_seconds: Some(60), ..to_export() },
            ),
            (
                "destination_unreachable",
                RecoveryRequest {
                    migrate: Some(Destination::Datastore("x".into())),
                    ..to_export()
                },
            ),
            (
                "destination_missing",
                RecoveryRequest { migration: Some(MigrationStart::Automatic), ..to_export() },
            ),
        ];
        for (code, request) in cases {
            let refused = running.jobs.start(request.clone(), None).await.unwrap_err();
            assert_eq!(refused.code(), code, "{request:?}: {refused}");
        }
        world.host.state().fail.insert("check", 1);
        let refused = running.jobs.start(to_host(), None).await.unwrap_err();
        assert_eq!(refused.code(), "target_unreachable");
        assert!(running.jobs.list().is_empty());
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_job_that_is_not_there_or_does_not_serve_cannot_be_finished() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let nobody: JobId = "20200101-000000-0000".parse().unwrap();
        assert_eq!(running.jobs.view(&nobody).unwrap_err().code(), "job_not_found");
        assert_eq!(running.jobs.cancel(&nobody).await.unwrap_err().code(), "job_not_found");
        assert!("../x".parse::<JobId>().is_err());
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let refuse = |finish| running.jobs.finish(&job, finish);
        let nowhere =
            refuse(Finish::Migrate { to: None, cut_over: None, verify: None }).await.unwrap_err();
        assert_eq!(nowhere.code(), "destination_missing");
        let inside = refuse(to_directory(world, "state/x")).await.unwrap_err();
        assert_eq!(inside.code(), "bad_directory");
        running.serving(&job).await;
        refuse(Finish::Discard).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Discarded)));
        assert!(done.steps.iter().all(|step| step.state == StepState::Undone), "{:#?}", done.steps);
        assert_eq!(refuse(Finish::Discard).await.unwrap_err().code(), "job_ended");
        assert_eq!(running.jobs.cancel(&job).await.unwrap_err().code(), "job_ended");
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn the_same_key_gets_the_same_job() {
    let world = World::new();
    let key = || Some("one".to_owned());
    let job = world.live(async |world| {
        let running = world.start().await;
        let both = tokio::join!(
            running.jobs.start(to_export(), key()),
            running.jobs.start(to_export(), key())
        );
        let job = both.0.unwrap();
        assert_eq!(both.1.unwrap(), job);
        let other = RecoveryRequest { name: Some("other".into()), ..to_export() };
        let refused = running.jobs.start(other, key()).await.unwrap_err();
        assert_eq!(refused.code(), "idempotency_key_reused");
        let refused = running.jobs.start(to_export(), Some(String::new())).await.unwrap_err();
        assert_eq!(refused.code(), "bad_idempotency_key");
        assert_eq!(running.jobs.list().len(), 1);
        running.stop().await;
        job
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        assert_eq!(running.jobs.start(to_export(), key()).await.unwrap(), job);
        running.serving(&job).await;
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn names_are_numbered_or_refused() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mut names = Vec::new();
        for _ in 0..3 {
            let job = running.jobs.start(to_export(), None).await.unwrap();
            names.push(running.serving(&job).await.name);
        }
        assert_eq!(names, ["sample_1", "sample_2", "sample_3"]);
        let taken = RecoveryRequest { name: Some("sample_2".into()), ..to_export() };
        assert_eq!(running.jobs.start(taken, None).await.unwrap_err().code(), "name_taken");
        for job in running.jobs.list() {
            running.jobs.cancel(&job.id).await.unwrap();
            assert_eq!(running.end(&job.id).await.state, JobState::Cancelled);
        }
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn jobs_queue_up_to_a_bound() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        (config.max_active, config.max_queued) = (1, 1);
        let running = world.start_with(config).await;
        let first = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&first).await;
        let second = running.jobs.start(to_export(), None).await.unwrap();
        let waits = running.wait(&second, &[JobState::Queued]).await;
        assert!(waits.serving_since.is_none());
        let refused = running.jobs.start(to_export(), None).await.unwrap_err();
        assert_eq!(refused.code(), "queue_full");
        running.jobs.finish(&first, Finish::Discard).await.unwrap();
        running.serving(&second).await;
        // One that only waits can be cancelled as well.
        let third = running.jobs.start(to_export(), None).await.unwrap();
        running.jobs.cancel(&third).await.unwrap();
        assert_eq!(running.end(&third).await.state, JobState::Cancelled);
        running.jobs.cancel(&second).await.unwrap();
        running.end(&second).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_vm_without_space_for_its_writes_is_refused() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        config.reserve_min_bytes = u64::MAX / 4;
        let running = world.start_with(config).await;
        let refused = running.jobs.start(to_export(), None).await.unwrap_err();
        assert_eq!(refused.code(), "no_space");
        assert!(running.jobs.list().is_empty());
        running.stop().await;
    });
}

#[test]
fn a_vm_that_was_measured_needs_what_it_took() {
    let world = World::new();
    world.add("stranger", &[vec![7; 1 << 20]]);
    let size: u64 = SIZES.iter().sum();
    world.live(async |world| {
        let running = world.start().await;
        let by_size = running.jobs.forecast(&to_export()).await.unwrap();
        assert_eq!(by_size.reserve_bytes, size * 15 / 100);
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        running.write(&job, 0, 0, 64 << 10, &mut expected(0)).await;
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        running.stop().await;
    });
    world.live(async |world| {
        let mut config = world.config();
        config.reserve_min_bytes = u64::MAX / 4;
        config.admission = Admission::Measured;
        let running = world.start_with(config).await;
        let measured = running.jobs.forecast(&to_export()).await.unwrap();
        assert_eq!(measured.reserve_bytes, size, "an overlay is no larger than its disk");
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let request = RecoveryRequest { point: "stranger".into(), ..to_export() };
        let refused = running.jobs.start(request, None).await.unwrap_err();
        assert!(matches!(refused, JobError::Full { missing, .. } if missing > 0), "{refused}");
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        running.stop().await;
    });
}

#[test]
fn a_mount_expires_by_itself_across_a_restart() {
    let world = World::new();
    let request =
        RecoveryRequest { mode: Mode::LiveMount, expires_in_seconds: Some(4), ..to_export() };
    let job = world.live(async |world| {
        let running = world.start().await;
        let job = running.jobs.start(request, None).await.unwrap();
        let view = running.serving(&job).await;
        assert!(view.expires_at.is_some());
        let refused = running.jobs.finish(&job, to_directory(world, "out")).await.unwrap_err();
        assert_eq!(refused.code(), "mount_is_not_migrated");
        running.stop().await;
        job
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.outcome), (JobState::Completed, Some(Outcome::Expired)));
        assert!(done.finished_at.unwrap() >= done.expires_at.unwrap());
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn ended_jobs_are_forgotten_beyond_a_bound() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        config.max_remembered = 2;
        let running = world.start_with(config).await;
        let mut jobs = Vec::new();
        for n in 0..4 {
            let job = running.jobs.start(to_export(), Some(format!("key {n}"))).await.unwrap();
            running.jobs.cancel(&job).await.unwrap();
            running.end(&job).await;
            jobs.push(job);
        }
        assert!(running.jobs.view(&jobs[0]).is_err());
        assert!(running.jobs.view(&jobs[3]).is_ok());
        let again = running.jobs.start(to_export(), Some("key 0".into())).await.unwrap();
        assert!(!jobs.contains(&again), "its key went with it");
        running.stop().await;
    });
}

#[test]
fn the_mover_reads_the_vm_into_the_cache() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        config.mover.warm = true;
        let running = world.start_with(config).await;
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        let stored = running.attached.get().unwrap().latest("sample").await.unwrap();
        let blocks = stored.disks.len() as u64;
        assert!(blocks > 0);
        // All blocks but the zero ones: 5 of disk 0's MiBs and half of disk 1.
        let warm = async {
            while running.cache.stats().misses < 24 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), warm).await.unwrap();
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}
