//! The same client against the rig's simulator, where there is one: a vCenter over TLS, its own VMs.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use rekindle_vsphere::{
    Host, NicChange, PowerState, Secret, Thumbprint, Trust, UuidPolicy, Vm, Vsphere, VsphereError,
};
use serde_json::json;

use super::process::Server;

/// One of the VMs that the simulator starts with, powered off.
async fn vm(vsphere: &Vsphere) -> (Host, Vm) {
    let host = vsphere.find_host(Some("DC0_H0")).await.unwrap();
    let path = "[LocalDS_0] DC0_H0_VM0/DC0_H0_VM0.vmx";
    let vm = vsphere.find_vm_by_path(&host.id, path).await.unwrap().unwrap();
    assert_eq!(vm.name, "DC0_H0_VM0");
    vsphere.power_off(&vm.id).await.unwrap();
    (host, vm)
}

#[tokio::test]
async fn login_trust_and_inventory() {
    let Some(server) = Server::simulator(&["-max-objects", "2"]) else { return };
    let vsphere = server.connect().await;
    assert!(vsphere.is_vcenter());
    let hosts = vsphere.hosts().await.unwrap();
    let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["DC0_C0_H0", "DC0_C0_H1", "DC0_H0"]);
    assert!(matches!(vsphere.find_host(None).await, Err(VsphereError::NotFound { .. })));
    let stores = vsphere.datastores(&hosts[0].id).await.unwrap();
    assert_eq!(
        stores.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        ["LocalDS_0", "LocalDS_1"]
    );
    let networks = vsphere.networks(&hosts[0].id).await.unwrap();
    let networks: Vec<_> = networks.iter().map(|n| (n.name.as_str(), n.distributed)).collect();
    assert!(networks.contains(&("VM Network", false)), "{networks:?}");
    assert!(networks.contains(&("DC0_DVPG0", true)), "{networks:?}");
    let mut wrong = server.endpoint();
    wrong.password = Secret::new("wrong");
    assert!(matches!(Vsphere::connect(wrong).await, Err(VsphereError::Denied { .. })));
    let mut stranger = server.endpoint();
    stranger.trust = Trust::Thumbprint(Thumbprint::Sha1([0; 20]));
    match Vsphere::connect(stranger).await {
        Err(VsphereError::Untrusted { seen: Some(seen), .. }) => {
            assert_eq!(seen.sha1.to_string(), server.thumbprint);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dropped_session_is_renewed() {
    let Some(server) = Server::simulator(&[]) else { return };
    let vsphere = server.connect().await;
    // It drops just those sessions that it has seen a call of.
    vsphere.hosts().await.unwrap();
    for _ in 0..3 {
        server.door("POST", "/sessions/drop", "");
        assert_eq!(vsphere.hosts().await.unwrap().len(), 3);
    }
    assert_eq!(server.calls("Login"), 4);
    server.rule(&json!({"method": "RetrievePropertiesEx", "drop": true}));
    assert_eq!(vsphere.hosts().await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_adapter_goes_to_a_distributed_switch() {
    let Some(server) = Server::simulator(&["-vms", "1"]) else { return };
    let vsphere = server.connect().await;
    let (host, vm) = vm(&vsphere).await;
    let group = vsphere.find_port_group(&host.id, "DC0_DVPG0").await.unwrap().unwrap();
    let nic = vsphere.nics(&vm.id).await.unwrap().remove(0);
    let change = [(nic.key, NicChange::ConnectPort(group.clone()))];
    vsphere.change_nics(&vm.id, &change).await.unwrap();
    let on = vsphere.nics(&vm.id).await.unwrap().remove(0);
    assert_eq!(on.port_group, Some(group.key));
    assert_eq!(vsphere.find_port_group(&host.id, "VM Network").await.unwrap(), None);
}

#[tokio::test]
async fn power_and_its_faults() {
    let Some(server) = Server::simulator(&["-vms", "1"]) else { return };
    let vsphere = server.connect().await;
    let (_, vm) = vm(&vsphere).await;
    server.rule(&json!({"method": "PowerOnVM_Task", "at": "task", "progress": 5,
                        "fault": "GenericVmConfigFault", "message": "made to fail"}));
    let error = vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap_err();
    assert_eq!(error.to_string(), "PowerOnVM_Task: GenericVmConfigFault: made to fail");
    // The session goes while the task runs: it is followed under the next one.
    server.rule(&json!({"method": "PowerOnVM_Task", "at": "task", "delay_ms": 700}));
    let (starting, id) = (vsphere.clone(), vm.id.clone());
    let start = tokio::spawn(async move { starting.power_on(&id, UuidPolicy::Moved).await });
    while server.calls("PowerOnVM_Task") < 2 {
        tokio::task::yield_now().await;
    }
    server.door("POST", "/sessions/drop", "");
    start.await.unwrap().unwrap();
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
    assert_eq!(vsphere.power_state(&vm.id).await.unwrap(), PowerState::On);
    let error = vsphere.unregister(&vm.id).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "InvalidPowerState"),
        "{error:?}"
    );
    for _ in 0..2 {
        vsphere.power_off(&vm.id).await.unwrap();
    }
    for _ in 0..2 {
        vsphere.unregister(&vm.id).await.unwrap();
    }
    assert!(matches!(vsphere.power_state(&vm.id).await, Err(VsphereError::NotFound { .. })));
}

#[tokio::test]
async fn migrations_are_followed_joined_and_cancelled() {
    let Some(server) = Server::simulator(&["-vms", "1"]) else { return };
    let vsphere = server.connect().await;
    let (host, vm) = vm(&vsphere).await;
    let to = vsphere.find_datastore(&host.id, "LocalDS_1").await.unwrap().id;
    let hour = Duration::from_secs(3600);
    server.rule(&json!({"method": "RelocateVM_Task", "at": "task", "progress": 90,
                        "fault": "NoDiskSpace", "message": "the datastore is full"}));
    let error = vsphere.relocate(&vm.id, &to, hour, |_| {}).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "NoDiskSpace"),
        "{error:?}"
    );

    // One is at work at the server, and nobody follows it: it is cancelled.
    let slow = json!({"method": "RelocateVM_Task", "at": "task", "progress": 1, "delay_ms": 1000});
    server.rule(&slow);
    let (moving, id, target) = (vsphere.clone(), vm.id.clone(), to.clone());
    let lost = tokio::spawn(async move { moving.relocate(&id, &target, hour, |_| {}).await });
    while server.calls("RelocateVM_Task") < 2 {
        tokio::task::yield_now().await;
    }
    vsphere.cancel_tasks(&vm.id).await.unwrap();
    let error = lost.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "RequestCanceled"),
        "{error:?}"
    );

    // One is at work, and asked for again it is joined.
    server.rule(&slow);
    let (moving, id, target) = (vsphere.clone(), vm.id.clone(), to.clone());
    let first = tokio::spawn(async move { moving.relocate(&id, &target, hour, |_| {}).await });
    while server.calls("RelocateVM_Task") < 3 {
        tokio::task::yield_now().await;
    }
    let percent = AtomicU8::new(0);
    vsphere.relocate(&vm.id, &to, hour, |p| percent.store(p, Ordering::Relaxed)).await.unwrap();
    first.await.unwrap().unwrap();
    assert!(percent.load(Ordering::Relaxed) > 0);
    let view = vsphere.vm(&vm.id).await.unwrap();
    assert!(view.vmx_path.starts_with("[LocalDS_1] "), "{}", view.vmx_path);
    assert!(view.disks.iter().all(|disk| disk.datastore.as_ref() == Some(&to)));
    let stores = vsphere.vm_datastores(&vm.id).await.unwrap();
    assert_eq!(stores.iter().map(|d| &d.id).collect::<Vec<_>>(), [&to]);
}

#[tokio::test]
async fn a_snapshot_is_made_once_and_written_back() {
    let Some(server) = Server::simulator(&["-vms", "1"]) else { return };
    let vsphere = server.connect().await;
    let (_, vm) = vm(&vsphere).await;
    vsphere.consolidate(&vm.id).await.unwrap();
    assert_eq!(server.calls("RemoveAllSnapshots_Task"), 0);
    for _ in 0..2 {
        vsphere.ensure_snapshot(&vm.id, "before").await.unwrap();
        assert!(vsphere.vm(&vm.id).await.unwrap().has_snapshot);
    }
    assert_eq!(server.calls("CreateSnapshot_Task"), 1);
    // The session goes while it is written back, and one that is at work already is waited for.
    server.rule(&json!({"method": "RemoveAllSnapshots_Task", "at": "task", "delay_ms": 500}));
    let (merging, id) = (vsphere.clone(), vm.id.clone());
    let merge = tokio::spawn(async move { merging.consolidate(&id).await });
    while server.calls("RemoveAllSnapshots_Task") == 0 {
        tokio::task::yield_now().await;
    }
    server.door("POST", "/sessions/drop", "");
    vsphere.consolidate(&vm.id).await.unwrap();
    merge.await.unwrap().unwrap();
    assert!(!vsphere.vm(&vm.id).await.unwrap().has_snapshot);
    assert!(vsphere.write_snapshots_beside(&vm.id).await.unwrap());
}

#[tokio::test]
async fn directories_are_made_and_removed_once() {
    let Some(server) = Server::simulator(&["-vms", "0"]) else { return };
    let vsphere = server.connect().await;
    let host = vsphere.find_host(Some("DC0_H0")).await.unwrap().id;
    for _ in 0..2 {
        vsphere.ensure_directory(&host, "[LocalDS_0] ours").await.unwrap();
    }
    for _ in 0..2 {
        vsphere.remove_directory(&host, "[LocalDS_0] ours").await.unwrap();
    }
    vsphere.remove_directory(&host, "[none] ours").await.unwrap();
    assert!(vsphere.ensure_directory(&host, "[none] ours").await.is_err());
    assert!(vsphere.ensure_directory(&host, "[LocalDS_0] no/such").await.is_err());
}
