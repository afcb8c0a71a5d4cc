//! Gates that look at each VM of a group.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rekindle_vsphere::{GuestView, Heartbeat, PowerState};

use super::batches::{batch, discard_all, ended, group, open};
use super::world::{World, to_host};
use crate::{BatchRequest, BatchState, Gate, GateScripts, Group, JobError, RecoveryRequest};

fn at_host(gates: Vec<Gate>) -> BatchRequest {
    let recovery = RecoveryRequest { name: Some("a".into()), ..to_host() };
    batch(vec![Group { gates, recoveries: vec![recovery], ..group(&[]) }])
}

fn script(name: &str, within_seconds: u64) -> Gate {
    Gate::Script { name: name.into(), run_seconds: 60, within_seconds }
}

fn told(tools_running: bool, heartbeat: Heartbeat) -> Option<GuestView> {
    Some(GuestView { power: PowerState::On, tools_running, heartbeat, address: None })
}

#[test]
fn guests_tools_are_asked_at_their_host() {
    World::new().live(async |world| {
        let running = world.start().await;
        running.jobs.run();
        let batches = open(&running);
        for (guest, why) in [
            (None, "a: its tools do not run"),
            (told(false, Heartbeat::Green), "a: its tools do not run"),
            (told(true, Heartbeat::Gray), "a: the heartbeat of its tools is gray"),
            (told(true, Heartbeat::Yellow), "a: the heartbeat of its tools is yellow"),
        ] {
            world.host.state().guest = guest;
            let gates = vec![Gate::Tools { within_seconds: 1 }];
            let id = batches.start(at_host(gates), None).await.unwrap();
            let view = ended(&batches, &id).await;
            assert_eq!(view.state, BatchState::Halted);
            let error = view.groups[0].gates[0].error.clone().unwrap();
            assert_eq!(error.message, format!("guest tools, waited for 1 s: {why}"));
            discard_all(&running).await;
        }
        // One that comes up while it is waited for, at a host that is away for a moment.
        world.host.state().guest = told(true, Heartbeat::Green);
        world.host.state().fail.insert("guest", 1);
        let gates = vec![Gate::Tools { within_seconds: 60 }];
        let id = batches.start(at_host(gates), None).await.unwrap();
        assert_eq!(ended(&batches, &id).await.state, BatchState::Completed);
        discard_all(&running).await;
        let gates = vec![Gate::Ping { host: None, within_seconds: 1 }];
        let id = batches.start(at_host(gates), None).await.unwrap();
        let error = ended(&batches, &id).await.groups[0].gates[0].error.clone().unwrap();
        assert!(error.message.ends_with("a: its tools tell no address yet"), "{}", error.message);
        discard_all(&running).await;
        world.assert_clean(&running);
    });
}

#[test]
fn a_script_is_asked_for_each_vm() {
    World::new().live(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("check");
        fs::write(&path, "#!/bin/sh\necho is $REKINDLE_NAME up\n[ $REKINDLE_NAME != b ]\n")
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = world.config();
        config.gate_scripts = Some(GateScripts::new(folder.path().to_owned()));
        let running = world.start_with(config).await;
        running.jobs.run();
        let batches = open(&running);
        let gated = |names: &[&str]| Group { gates: vec![script("check", 1)], ..group(names) };
        let id = batches.start(batch(vec![gated(&["a", "b", "c"])]), None).await.unwrap();
        let view = ended(&batches, &id).await;
        let error = view.groups[0].gates[0].error.clone().unwrap();
        let expected = "script check, waited for 1 s: b: exit status: 1: is b up";
        assert_eq!((view.state, error.message.as_str()), (BatchState::Halted, expected));
        discard_all(&running).await;
        let id = batches.start(batch(vec![gated(&["a", "c"])]), None).await.unwrap();
        assert_eq!(ended(&batches, &id).await.state, BatchState::Completed);
        discard_all(&running).await;
        let unknown = batch(vec![Group { gates: vec![script("other", 1)], ..group(&["a"]) }]);
        let refused = batches.start(unknown, None).await;
        assert!(matches!(refused, Err(JobError::NotFound { what: "gate script", .. })));
        assert!(running.jobs.list().iter().all(|job| job.state.is_final()));
        world.assert_clean(&running);
    });
}

#[test]
fn gates_that_cannot_work_are_refused_and_begin_nothing() {
    World::new().live(async |world| {
        let running = world.start().await;
        let batches = open(&running);
        let bad = [
            script("check", 60),
            script("../check", 60),
            Gate::Script { name: "check".into(), run_seconds: 0, within_seconds: 1 },
            Gate::Tools { within_seconds: 60 },
            Gate::Tools { within_seconds: 0 },
            Gate::Ping { host: None, within_seconds: 60 },
            Gate::Ping { host: Some(String::new()), within_seconds: 60 },
            Gate::Port { host: "db".into(), port: 0, within_seconds: 60 },
        ];
        for gate in bad {
            let gates = vec![gate];
            let request = batch(vec![Group { gates: gates.clone(), ..group(&["a"]) }]);
            let refused = batches.start(request, None).await;
            assert!(matches!(refused, Err(JobError::Refused { .. })), "{gates:?} {refused:?}");
        }
        assert!(running.jobs.list().is_empty() && batches.list().is_empty());
    });
}
