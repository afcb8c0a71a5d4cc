//! Upkeep beside recoveries.

use std::net::TcpListener;

use super::world::{World, to_export};
use crate::{
    BatchRequest, BatchView, Batches, Finish, Gate, Group, GroupState, JobState, OnError,
    PruneRequest, RecoveryRequest,
};

/// Drops the one point there is.
fn drop_all(view: &crate::JobView) -> PruneRequest {
    PruneRequest { drop: [view.point.parse().unwrap()].into(), ..PruneRequest::default() }
}

#[test]
fn a_prune_lets_no_point_go_that_a_job_uses() {
    let world = World::new();
    let id = world.live(async |world| {
        let running = world.start().await;
        let id = running.jobs.start(to_export(), None).await.unwrap();
        let view = running.serving(&id).await;
        running.jobs.prune("main", drop_all(&view)).unwrap().line().await.unwrap();
        id
    });
    world.live(async |world| {
        // Nor does one before the jobs from before a restart walk on.
        let running = world.start().await;
        let view = running.jobs.view(&id).unwrap();
        let line = running.jobs.prune("main", drop_all(&view)).unwrap().line().await.unwrap();
        assert!(line.contains("condemned 0 points"), "{line}");
        running.jobs.run();
        running.serving(&id).await;
        assert_eq!(running.attached.get().unwrap().points().await.unwrap().points.len(), 1);
        running.jobs.finish(&id, Finish::Discard).await.unwrap();
        running.end(&id).await;
        let line = running.jobs.prune("main", drop_all(&view)).unwrap().line().await.unwrap();
        assert!(line.contains("condemned 1 points"), "{line}");
        let ended = running.jobs.upkeep("main").unwrap();
        assert!(ended.running.is_none());
        assert_eq!(ended.prune.unwrap().report.unwrap().condemned.points, 1);
        running.stop().await;
    });
}

#[test]
fn a_prune_lets_no_point_go_that_a_batch_comes_to_later() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = Batches::open(running.jobs.clone(), running.db()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let point = running.attached.get().unwrap().latest("sample").await.unwrap().id.to_string();
        // The gate, with nobody behind it, keeps the batch from its end; that the job has ended lets nothing go.
        drop(listener);
        let gate = Gate::Port { host: "127.0.0.1".into(), port, within_seconds: 600 };
        let group = Group {
            name: None,
            recoveries: vec![RecoveryRequest { point, ..to_export() }],
            select: None,
            within_seconds: 60,
            delay_seconds: 0,
            gates: vec![gate],
        };
        let groups = vec![group];
        let request = BatchRequest { name: None, groups, on_error: OnError::Halt };
        let id = batches.start(request, None).await.unwrap();
        let mut view = batches.watch(&id).unwrap();
        let checking = |view: &BatchView| view.groups[0].state == GroupState::Checking;
        let job = view.wait_for(checking).await.unwrap().groups[0].vms[0].job.clone().unwrap();
        let used = running.jobs.view(&job).unwrap();
        running.jobs.cancel(&job).await.unwrap();
        running.wait(&job, &[JobState::Cancelled]).await;
        let prune = || running.jobs.prune("main", drop_all(&used)).unwrap().line();
        let line = prune().await.unwrap();
        assert!(line.contains("condemned 0 points"), "{line}");
        batches.cancel(&id).unwrap();
        view.wait_for(|view| view.finished_at.is_some()).await.unwrap();
        // It has ended before its walk is dropped.
        batches.stop().await;
        let line = prune().await.unwrap();
        assert!(line.contains("condemned 1 points"), "{line}");
        running.stop().await;
    });
}

#[test]
fn no_job_begins_from_a_condemned_point() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let id = running.jobs.start(to_export(), None).await.unwrap();
        let view = running.serving(&id).await;
        running.jobs.cancel(&id).await.unwrap();
        running.wait(&id, &[JobState::Cancelled]).await;
        running.jobs.prune("main", drop_all(&view)).unwrap().line().await.unwrap();
        let by_id = RecoveryRequest { point: view.point.clone(), ..to_export() };
        let refused = running.jobs.start(by_id.clone(), None).await.unwrap_err();
        assert_eq!(refused.code(), "repository_refused");
        assert!(refused.to_string().contains("let go by a prune"), "{refused}");
        let by_name = running.jobs.start(to_export(), None).await.unwrap_err();
        assert_eq!(by_name.code(), "point_not_found");
        let spare =
            PruneRequest { spare: [view.point.parse().unwrap()].into(), ..PruneRequest::default() };
        running.jobs.prune("main", spare).unwrap().line().await.unwrap();
        let id = running.jobs.start(by_id, None).await.unwrap();
        running.serving(&id).await;
        running.stop().await;
    });
}

#[test]
fn what_cannot_be_meant_is_refused_and_there_is_one_at_a_time() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        let refused = |request| running.jobs.prune("main", request).unwrap_err().code();
        let request = PruneRequest { grace_hours: Some(0), ..PruneRequest::default() };
        assert_eq!(refused(request), "bad_grace");
        let mut tags_alone = PruneRequest::default();
        tags_alone.keep.get_or_insert_default().tags.insert("gold".into());
        assert_eq!(refused(tags_alone), "repository_refused");
        let elsewhere = running.jobs.prune("other", PruneRequest::default()).unwrap_err();
        assert_eq!(elsewhere.code(), "repository_not_found");
        assert_eq!(running.jobs.stop_upkeep("main").unwrap_err().code(), "no_upkeep");
        // A prune waits for nobody here: it looks at the jobs, whose lock this thread holds.
        let held = running.jobs.hold();
        let first = running.jobs.prune("main", PruneRequest::default()).unwrap();
        assert_eq!(refused(PruneRequest::default()), "upkeep_under_way");
        assert!(running.jobs.upkeep("main").unwrap().running.is_some());
        running.jobs.stop_upkeep("main").unwrap();
        drop(held);
        first.line().await.unwrap_err();
        running.jobs.prune("main", PruneRequest::default()).unwrap().line().await.unwrap();
        running.stop().await;
    });
}
