//! Ends that are undone, obstacles that are tried again, and what was forecast and came.

use std::time::Duration;

use super::world::{Running, World, expected, to_directory, to_export, to_host};
use crate::{
    Finish, JobId, JobState, Limit, Mode, Outcome, RecoveryRequest, Report, Step, StepState,
};

fn kept() -> RecoveryRequest {
    RecoveryRequest { keep_seconds: Some(3600), ..to_export() }
}

async fn discarded(running: &Running, request: RecoveryRequest, model: &mut [u8]) -> JobId {
    let job = running.jobs.start(request, None).await.unwrap();
    running.serving(&job).await;
    running.write(&job, 0, 12345, 6789, model).await;
    running.jobs.finish(&job, Finish::Discard).await.unwrap();
    let view = running.wait(&job, &[JobState::Kept]).await;
    assert_eq!(view.outcome, Some(Outcome::Discarded));
    assert!(view.kept_until.is_some() && view.export.is_none());
    job
}

#[test]
fn a_discarded_job_is_served_again_with_what_its_guest_wrote() {
    let world = World::new();
    let mut model = expected(0);
    let job = world.live(async |world| {
        let running = world.start().await;
        let job = discarded(&running, kept(), &mut model).await;
        assert!(running.exports.list().is_empty());
        assert_eq!(running.jobs.active(), (0, 0));
        assert_eq!(running.jobs.extend(&job, 60).await.unwrap_err().code(), "not_serving");
        running.stop().await;
        job
    });
    // It is kept across a restart, and across being killed while it is served again.
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        running.wait(&job, &[JobState::Kept]).await;
        assert_eq!(running.jobs.active(), (0, 0));
        running.jobs.undo(&job).await.unwrap();
        let view = running.serving(&job).await;
        assert_eq!((view.outcome, view.kept_until), (None, None));
        assert!(running.contents(&job, 0).await == model);
        assert_eq!(running.jobs.undo(&job).await.unwrap_err().code(), "not_serving");
        running.write(&job, 0, 4_000_000, 5000, &mut model).await;
        running.jobs.finish(&job, to_directory(world, "out")).await.unwrap();
        assert_eq!(running.end(&job).await.outcome, Some(Outcome::Migrated));
        assert!(std::fs::read(world.path("out/sample_1-flat.vmdk")).unwrap() == model);
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn what_is_kept_goes_when_its_time_is_over_or_someone_says_so() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let short = RecoveryRequest { keep_seconds: Some(1), ..to_export() };
        let (by_time, by_hand) = (
            discarded(&running, short, &mut expected(0)).await,
            discarded(&running, kept(), &mut expected(0)).await,
        );
        assert_eq!(running.end(&by_time).await.outcome, Some(Outcome::Discarded));
        running.wait(&by_hand, &[JobState::Kept]).await;
        assert_eq!(running.disks.list().len(), 2);
        running.jobs.cancel(&by_hand).await.unwrap();
        assert_eq!(running.end(&by_hand).await.state, JobState::Completed);
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn an_expired_mount_that_is_undone_gets_a_new_limit() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mount = RecoveryRequest {
            mode: Mode::LiveMount,
            expires_in_seconds: Some(1),
            keep_seconds: Some(3600),
            ..to_export()
        };
        let job = running.jobs.start(mount, None).await.unwrap();
        let view = running.wait(&job, &[JobState::Kept]).await;
        assert_eq!(view.outcome, Some(Outcome::Expired));
        running.jobs.undo(&job).await.unwrap();
        let again = running.serving(&job).await;
        assert!(again.expires_at.unwrap() > view.expires_at.unwrap());
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

/// A host that does not take the VM back leaves it kept, not lost.
#[test]
fn an_undo_that_fails_keeps_what_the_guest_wrote() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let mut model = expected(0);
        let on_host = RecoveryRequest { keep_seconds: Some(3600), ..to_host() };
        let job = discarded(&running, on_host, &mut model).await;
        assert!(world.host.state().vms.is_empty() && world.host.state().mounted.is_empty());
        for call in ["mount", "register", "power_on"] {
            world.host.state().fail.insert(call, 1);
            running.jobs.undo(&job).await.unwrap();
            let mut view = running.jobs.watch(&job).unwrap();
            let back = view.wait_for(|v| v.state == JobState::Kept && v.error.is_some());
            tokio::time::timeout(Duration::from_secs(30), back).await.unwrap().unwrap();
            assert!(world.host.state().vms.is_empty(), "{call}");
        }
        running.jobs.undo(&job).await.unwrap();
        running.serving(&job).await;
        assert!(running.contents(&job, 0).await == model);
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn what_cannot_be_kept_is_not_promised() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let cases = [
            RecoveryRequest { keep_seconds: Some(31 * 86_400), ..to_export() },
            RecoveryRequest {
                redo_datastore: Some("a".into()),
                keep_seconds: Some(1),
                ..to_host()
            },
        ];
        for request in cases {
            let refused = running.jobs.start(request, None).await.unwrap_err();
            assert_eq!(refused.code(), "bad_keep");
        }
        let job = running.jobs.start(to_export(), None).await.unwrap();
        running.serving(&job).await;
        running.jobs.finish(&job, Finish::Discard).await.unwrap();
        running.end(&job).await;
        assert_eq!(running.jobs.undo(&job).await.unwrap_err().code(), "job_ended");
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_stuck_job_says_what_is_in_its_way_and_is_tried_at_once() {
    let world = World::new();
    world.live(async |world| {
        let mut config = world.config();
        // By itself it would not be tried again within this test.
        config.retry_first = Duration::from_secs(3600);
        config.retry_max = config.retry_first;
        let running = world.start_with(config).await;
        let job = running.jobs.start(to_host(), None).await.unwrap();
        running.serving(&job).await;
        assert_eq!(running.jobs.retry(&job).await.unwrap_err().code(), "not_stuck");
        world.host.state().fail.insert("unregister", 2);
        running.jobs.cancel(&job).await.unwrap();
        let first = running.wait(&job, &[JobState::Stuck]).await.obstacle.unwrap();
        assert_eq!((first.step, first.tries), (Some(Step::Register), 1));
        assert_eq!(first.error.code, "target_unreachable");
        assert!(first.next_try_at.duration_since(first.since).as_secs() > 3000);
        running.jobs.retry(&job).await.unwrap();
        let mut view = running.jobs.watch(&job).unwrap();
        let again = view.wait_for(|v| v.obstacle.as_ref().is_some_and(|o| o.tries == 2)).await;
        assert_eq!(again.unwrap().obstacle.as_ref().unwrap().since, first.since);
        running.jobs.retry(&job).await.unwrap();
        let done = running.end(&job).await;
        assert_eq!((done.state, done.obstacle), (JobState::Cancelled, None));
        world.assert_clean(&running);
        running.stop().await;
    });
}

#[test]
fn a_forecast_comes_from_a_probe_first_and_from_earlier_jobs_then() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let request = |name: &str| RecoveryRequest {
            migrate: Some(crate::Destination::Directory(world.path(name))),
            ..to_export()
        };
        let first = running.jobs.forecast(&request("out")).await.unwrap();
        assert_eq!((first.to_power_on, first.samples), (None, 0));
        assert_eq!(first.limited_by, Limit::Repository);
        assert!(first.bytes_per_second.unwrap() > 0 && first.to_full_copy.is_some());
        assert!(running.jobs.list().is_empty());
        let job = running.jobs.start(request("out"), None).await.unwrap();
        assert_eq!(running.serving(&job).await.planned.unwrap().to_power_on_ms, None);
        running
            .jobs
            .finish(&job, Finish::Migrate { to: None, cut_over: None, verify: None })
            .await
            .unwrap();
        let done = running.end(&job).await;
        let second = running.jobs.forecast(&request("out2")).await.unwrap();
        assert_eq!((second.samples, second.same_vm), (1, true));
        let measured = Report::of(&done);
        assert_eq!(second.to_power_on.unwrap().likely_ms, measured.rto.measured_ms.unwrap());
        assert_eq!(second.to_full_copy.unwrap().likely_ms, measured.full_copy.measured_ms.unwrap());
        assert!(matches!(second.limited_by, Limit::Step(step) if step.is_of_migration()));
        // What `start` refuses is refused.
        let refused = running.jobs.forecast(&request("out")).await.unwrap_err();
        assert_eq!(refused.code(), "bad_directory");
        running.stop().await;
    });
    // The journal is the history: it outlives a restart.
    world.live(async |world| {
        let running = world.start().await;
        assert_eq!(running.jobs.forecast(&to_export()).await.unwrap().samples, 1);
        let job = running.jobs.start(to_export(), None).await.unwrap();
        let view = running.serving(&job).await;
        let report = Report::of(&view);
        assert!(report.rto.planned_ms.is_some() && report.rto.error_percent.is_some());
        assert_eq!(report.full_copy, crate::Measured::default());
        assert!(view.steps.iter().all(|step| step.state == StepState::Done));
        let csv = report.csv();
        assert_eq!(csv.lines().count(), 1 + view.steps.len(), "{csv}");
        let columns = |line: &str| line.split(',').count();
        assert!(csv.lines().all(|line| columns(line) == columns(csv.lines().next().unwrap())));
        assert!(report.html().contains("<td>files</td>"), "{}", report.html());
        running.jobs.cancel(&job).await.unwrap();
        running.end(&job).await;
        running.stop().await;
    });
}
