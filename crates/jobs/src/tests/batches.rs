//! Many VMs by one request.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::world::{Running, World, to_export, to_host};
use crate::{
    BatchRequest, BatchState, BatchView, Batches, Gate, Group, GroupState, JobError, JobId,
    OnError, RecoveryRequest, Resume, Selection,
};

pub(super) fn group(names: &[&str]) -> Group {
    let recovery = |name: &&str| RecoveryRequest { name: Some((*name).into()), ..to_export() };
    Group {
        name: None,
        recoveries: names.iter().map(recovery).collect(),
        select: None,
        within_seconds: 60,
        delay_seconds: 0,
        gates: Vec::new(),
    }
}

pub(super) fn batch(groups: Vec<Group>) -> BatchRequest {
    BatchRequest { name: Some("night".into()), groups, on_error: OnError::Halt }
}

pub(super) fn open(running: &Running) -> Arc<Batches> {
    Batches::open(running.jobs.clone(), running.db()).unwrap()
}

pub(super) async fn ended(batches: &Batches, id: &JobId) -> BatchView {
    let mut view = batches.watch(id).unwrap();
    let ended = view.wait_for(|view| view.finished_at.is_some());
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends").unwrap().clone()
}

fn states(view: &BatchView) -> Vec<GroupState> {
    view.groups.iter().map(|group| group.state).collect()
}

pub(super) async fn discard_all(running: &Running) {
    for job in running.jobs.list().into_iter().filter(|job| !job.state.is_final()) {
        running.jobs.cancel(&job.id).await.unwrap();
        running.end(&job.id).await;
    }
}

#[test]
fn groups_come_up_in_order() {
    World::new().live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let id = batches.start(batch(vec![group(&["a", "b"]), group(&["c"])]), None).await.unwrap();
        let view = ended(&batches, &id).await;
        assert_eq!(view.state, BatchState::Completed, "{view:#?}");
        let jobs: Vec<_> =
            view.groups.iter().flat_map(|g| &g.vms).map(|vm| vm.job.clone().unwrap()).collect();
        let since = |at: usize| running.jobs.view(&jobs[at]).unwrap();
        assert!(since(2).created_at >= since(0).serving_since.unwrap());
        assert!(since(2).created_at >= since(1).serving_since.unwrap());
        assert!(matches!(batches.cancel(&id), Err(JobError::Conflict { code: "batch_ended", .. })));
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

#[test]
fn what_does_not_come_up_halts_or_is_passed_over() {
    World::new().live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let taken = || Group {
            recoveries: vec![RecoveryRequest { name: Some("a".into()), ..to_export() }],
            ..group(&[])
        };
        let groups = || vec![group(&["a"]), taken(), group(&["b"])];
        let id = batches.start(batch(groups()), None).await.unwrap();
        let halted = ended(&batches, &id).await;
        assert_eq!(halted.state, BatchState::Halted);
        assert_eq!(states(&halted), [GroupState::Up, GroupState::Failed, GroupState::Pending]);
        assert_eq!(halted.groups[1].vms[0].error.as_ref().unwrap().code, "name_taken");
        discard_all(&running).await;
        let id = batches
            .start(BatchRequest { on_error: OnError::GoOn, ..batch(groups()) }, None)
            .await
            .unwrap();
        let passed = ended(&batches, &id).await;
        assert_eq!(passed.state, BatchState::Incomplete);
        assert_eq!(states(&passed), [GroupState::Up, GroupState::Failed, GroupState::Up]);
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

/// What a batch needs is there when it is told to go on: only what failed is begun again.
#[test]
fn a_halted_batch_goes_on_with_what_failed() {
    let world = World::new();
    let id = world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let port = free_port();
        let gates = vec![Gate::Port { host: "127.0.0.1".into(), port, within_seconds: 1 }];
        let second = Group { recoveries: vec![named("b"), named("a")], gates, ..group(&[]) };
        let id =
            batches.start(batch(vec![group(&["a"]), second, group(&["c"])]), None).await.unwrap();
        let halted = ended(&batches, &id).await;
        assert_eq!(states(&halted), [GroupState::Up, GroupState::Failed, GroupState::Pending]);
        let first = halted.groups[1].vms[0].job.clone().unwrap();
        assert_eq!(halted.groups[1].vms[1].error.as_ref().unwrap().code, "name_taken");
        // It is as it was: halted again, with no job begun that was there.
        batches.resume(&id, Resume::Retry).await.unwrap();
        let again = ended(&batches, &id).await;
        assert_eq!((again.state, running.jobs.list().len()), (BatchState::Halted, 2));
        assert_eq!(again.groups[1].vms[0].job.as_ref(), Some(&first));
        assert!(again.resumed_at.is_some());
        running.stop().await;
        id
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        batches.run();
        assert_eq!(batches.view(&id).unwrap().state, BatchState::Halted, "also after a restart");
        let a = running.jobs.list().into_iter().find(|job| job.name == "a").unwrap().id;
        running.serving(&a).await;
        running.jobs.cancel(&a).await.unwrap();
        running.end(&a).await;
        // The gate is shut still, and then is passed over with its group.
        batches.resume(&id, Resume::Retry).await.unwrap();
        let shut = ended(&batches, &id).await;
        assert_eq!(shut.state, BatchState::Halted);
        assert!(shut.groups[1].vms.iter().all(|vm| vm.up == Some(true)), "{shut:#?}");
        assert_eq!(shut.groups[1].gates[0].open, Some(false));
        batches.resume(&id, Resume::Skip).await.unwrap();
        let passed = ended(&batches, &id).await;
        assert_eq!(passed.state, BatchState::Incomplete);
        assert_eq!(states(&passed), [GroupState::Up, GroupState::Failed, GroupState::Up]);
        assert!(passed.groups[1].skipped && !passed.groups[2].skipped);
        let over = batches.resume(&id, Resume::Skip).await.unwrap_err();
        assert_eq!(over.code(), "batch_not_halted");
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

/// A VM whose job failed gets another one, under another key.
#[test]
fn a_vm_whose_job_failed_is_begun_anew() {
    let world = World::new();
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        world.host.state().fail.insert("register", 1);
        let failing = Group { recoveries: vec![to_host()], ..group(&[]) };
        let id = batches.start(batch(vec![failing, group(&["b"])]), None).await.unwrap();
        let halted = ended(&batches, &id).await;
        assert_eq!(halted.state, BatchState::Halted);
        let first = halted.groups[0].vms[0].job.clone().unwrap();
        batches.resume(&id, Resume::Retry).await.unwrap();
        let view = ended(&batches, &id).await;
        assert_eq!(view.state, BatchState::Completed, "{view:#?}");
        assert_ne!(view.groups[0].vms[0].job.as_ref(), Some(&first));
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

/// Each half is killed: what was said is on disk before anything is done, and no VM is begun twice.
#[test]
fn a_batch_that_is_resumed_survives_a_kill() {
    let world = World::new();
    let id = world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let taken = Group { recoveries: vec![named("a")], ..group(&[]) };
        let id = batches.start(batch(vec![group(&["a"]), taken]), None).await.unwrap();
        assert_eq!(ended(&batches, &id).await.state, BatchState::Halted);
        let a = running.jobs.list()[0].id.clone();
        running.jobs.cancel(&a).await.unwrap();
        running.end(&a).await;
        running.jobs.crash_point().arm(0, false);
        batches.resume(&id, Resume::Retry).await.unwrap();
        running.jobs.crash_point().reached().await;
        id
    });
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        batches.run();
        let view = ended(&batches, &id).await;
        assert_eq!(view.state, BatchState::Completed, "{view:#?}");
        assert_eq!(running.jobs.list().len(), 2, "one that ended, and one");
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

fn named(name: &str) -> RecoveryRequest {
    RecoveryRequest { name: Some(name.into()), ..to_export() }
}

/// A port of loopback that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_gate_is_waited_for() {
    World::new().live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = |within_seconds| Gate::Port { host: "127.0.0.1".into(), port, within_seconds };
        let gated =
            |within| vec![Group { gates: vec![gate(within)], ..group(&["a"]) }, group(&["b"])];
        let id = batches.start(batch(gated(60)), None).await.unwrap();
        assert_eq!(ended(&batches, &id).await.state, BatchState::Completed);
        discard_all(&running).await;
        drop(listener);
        let id = batches.start(batch(gated(1)), None).await.unwrap();
        let shut = ended(&batches, &id).await;
        assert_eq!(shut.state, BatchState::Halted);
        assert_eq!(shut.groups[0].gates[0].open, Some(false));
        assert!(shut.groups[0].gates[0].error.as_ref().unwrap().message.contains("refused"));
        discard_all(&running).await;
    });
}

#[test]
fn a_restart_goes_on_and_begins_nothing_twice() {
    let world = World::new();
    // A gate that nobody opens holds the batch between its groups.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let id = world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let gates = vec![Gate::Port { host: "127.0.0.1".into(), port, within_seconds: 600 }];
        let groups = vec![Group { gates, ..group(&["a"]) }, group(&["b"])];
        let id = batches.start(batch(groups), None).await.unwrap();
        let mut view = batches.watch(&id).unwrap();
        view.wait_for(|view| view.groups[0].state == GroupState::Checking).await.unwrap();
        id
    });
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    world.live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        batches.run();
        let view = ended(&batches, &id).await;
        assert_eq!(view.state, BatchState::Completed);
        assert_eq!(running.jobs.list().len(), 2);
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

#[test]
fn cancelled_it_begins_no_more_and_its_jobs_go_on() {
    World::new().live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let groups = vec![Group { delay_seconds: 600, ..group(&["a"]) }, group(&["b"])];
        let id = batches.start(batch(groups), None).await.unwrap();
        let mut view = batches.watch(&id).unwrap();
        view.wait_for(|view| view.groups[0].state == GroupState::Waiting).await.unwrap();
        batches.cancel(&id).unwrap();
        let view = ended(&batches, &id).await;
        assert_eq!(view.state, BatchState::Cancelled);
        assert_eq!(running.jobs.list().len(), 1);
        running.serving(view.groups[0].vms[0].job.as_ref().unwrap()).await;
        discard_all(&running).await;
    });
}

#[test]
fn a_selection_takes_the_newest_suiting_point_of_each_vm() {
    World::new().live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        let each =
            RecoveryRequest { point: "*".into(), name_suffix: Some("-lab".into()), ..to_export() };
        let select = |tag: &str| Selection {
            vms: Vec::new(),
            tag: Some(tag.into()),
            since: None,
            before: None,
            each: Box::new(each.clone()),
        };
        let of = |tag: &str| batch(vec![Group { select: Some(select(tag)), ..group(&[]) }]);
        let chosen = batches.resolve(&of("nightly")).await.unwrap();
        assert_eq!(chosen[0].len(), 1);
        assert_ne!(chosen[0][0].point, "*");
        let none = batches.start(of("weekly"), None).await;
        assert!(matches!(none, Err(JobError::Refused { code: "bad_selection", .. })), "{none:?}");
        let id = batches.start(of("nightly"), None).await.unwrap();
        assert_eq!(ended(&batches, &id).await.state, BatchState::Completed);
        assert_eq!(running.jobs.list()[0].name, "sample-lab");
        discard_all(&running).await;
    });
}

#[test]
fn a_batch_that_cannot_work_is_refused_and_begins_nothing() {
    World::new().live(async |world| {
        let running = world.start().await;
        let batches = open(&running);
        let unknown = Group {
            recoveries: vec![RecoveryRequest { point: "nobody".into(), ..to_export() }],
            ..group(&[])
        };
        let refused = batches.start(batch(vec![group(&["a"]), unknown]), None).await;
        assert!(matches!(refused, Err(JobError::NotFound { what: "point", .. })), "{refused:?}");
        for bad in [vec![], vec![group(&[])], vec![group(&["a"]); 65]] {
            let refused = batches.start(batch(bad), None).await;
            assert!(matches!(refused, Err(JobError::Refused { .. })), "{refused:?}");
        }
        assert!(running.jobs.list().is_empty() && batches.list().is_empty());
    });
}
