//! What a recovery does, against the stand-in over plain HTTP, with faults and lost answers.

use std::{fs, time::Duration};

use rekindle_vsphere::{
    Host, Limits, NasExport, NicChange, PortGroup, PowerState, Secret, UuidPolicy, Vm, Vsphere,
    VsphereError,
};
use serde_json::{Value, json};

use super::process::{STANDIN, Server};

async fn host(vsphere: &Vsphere) -> Host {
    vsphere.find_host(None).await.unwrap()
}

pub(super) const VMX: &str = "[local] vm/vm.vmx";

/// Puts a VM on the local datastore, one that was elsewhere before, and registers it.
pub(super) async fn registered(server: &Server, vsphere: &Vsphere) -> Vm {
    lay_vm(server);
    vsphere.ensure_registered(&host(vsphere).await.id, VMX, "test").await.unwrap()
}

fn lay_vm(server: &Server) {
    let home = server.dir.path().join("vm");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("vm-flat.vmdk"), vec![7; 1 << 20]).unwrap();
    fs::write(
        home.join("vm.vmdk"),
        "CID=11112222\ncreateType=\"vmfs\"\nRW 2048 VMFS \"vm-flat.vmdk\"\n",
    )
    .unwrap();
    let vmx = "displayName = \"was\"\nmemSize = \"16\"\nscsi0:0.fileName = \"vm.vmdk\"\n\
               ethernet0.present = \"TRUE\"\nethernet0.networkName = \"elsewhere\"\nuuid.location = \"56 4d 00\"\n";
    fs::write(home.join("vm.vmx"), vmx).unwrap();
}

#[test]
fn the_stand_in_passes_its_own_test() {
    let test =
        std::process::Command::new("python3").args([STANDIN, "--self-test"]).output().unwrap();
    assert!(test.status.success(), "{test:?}");
}

#[tokio::test]
async fn the_inventory_comes_page_by_page() {
    let server = Server::standin(&["--page", "1"]);
    let vsphere = server.connect().await;
    assert!(vsphere.is_vcenter());
    assert_eq!(vsphere.about().version, "8.0.0");
    let host = host(&vsphere).await;
    assert_eq!((host.name.as_str(), host.usable), ("H0", true));
    assert_eq!(host.addresses, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(vsphere.find_host(Some("h0")).await.unwrap().id, host.id);
    assert_eq!(vsphere.find_host(Some("127.0.0.1")).await.unwrap().id, host.id);
    let local = vsphere.find_datastore(&host.id, "local").await.unwrap();
    assert!(local.accessible && local.capacity_bytes > local.free_bytes && local.nas.is_none());
    let networks = vsphere.networks(&host.id).await.unwrap();
    let networks: Vec<_> = networks.iter().map(|n| (n.name.as_str(), n.distributed)).collect();
    assert_eq!(networks, [("Lab/A", true), ("VM Network", false)]);
    assert!(server.calls("ContinueRetrievePropertiesEx") > 0);
    for missing in [
        vsphere.find_host(Some("H1")).await.err(),
        vsphere.find_datastore(&host.id, "x").await.err(),
    ] {
        assert!(matches!(missing, Some(VsphereError::NotFound { .. })), "{missing:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_not_shown() {
    let server = Server::standin(&[]);
    let mut endpoint = server.endpoint();
    endpoint.password = Secret::new("wrong-secret");
    let error = Vsphere::connect(endpoint).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Denied { fault, .. } if fault == "InvalidLogin"),
        "{error:?}"
    );
    assert!(!format!("{error:?} {error}").contains("wrong-secret"));
}

#[tokio::test]
async fn a_forgotten_session_is_renewed_once_for_all_callers() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    server.door("POST", "/sessions/drop", "");
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let vsphere = vsphere.clone();
            tokio::spawn(async move { vsphere.hosts().await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(server.calls("Login"), 2);
}

#[tokio::test]
async fn a_login_that_is_refused_later_is_not_tried_over_and_over() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    server.door("POST", "/sessions/drop", "");
    server.rule(&json!({"method": "Login", "fault": "InvalidLogin", "count": -1}));
    for _ in 0..3 {
        let error = vsphere.hosts().await.unwrap_err();
        assert!(matches!(error, VsphereError::Denied { .. }), "{error:?}");
    }
    assert_eq!(server.calls("Login"), 2);
}

#[tokio::test]
async fn a_server_that_is_away_for_a_moment_is_waited_for() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    server.break_calls("RetrievePropertiesEx", 2);
    server.rule(&json!({"method": "RetrievePropertiesEx", "drop": true}));
    assert_eq!(vsphere.hosts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_goes_away_while_a_task_runs_is_waited_for() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    server
        .rule(&json!({"method": "PowerOnVM_Task", "at": "task", "progress": 50, "delay_ms": 800}));
    let (starting, id) = (vsphere.clone(), vm.id.clone());
    let start = tokio::spawn(async move { starting.power_on(&id, UuidPolicy::Moved).await });
    while server.calls("AnswerVM") == 0 {
        tokio::task::yield_now().await;
    }
    server.door("POST", "/sessions/drop", "");
    for method in ["RetrievePropertiesEx", "WaitForUpdatesEx", "Login"] {
        server.break_calls(method, 2);
    }
    start.await.unwrap().unwrap();
    assert_eq!(server.calls("PowerOnVM_Task"), 1);
}

#[tokio::test]
async fn patience_and_deadlines_end() {
    let server = Server::standin(&[]);
    let mut endpoint = server.endpoint();
    let (call, patience) = (Duration::from_millis(300), Duration::from_millis(400));
    endpoint.limits = Limits { call, patience, ..Limits::default() };
    let vsphere = Vsphere::connect(endpoint).await.unwrap();
    server.rule(&json!({"method": "RetrievePropertiesEx", "delay_ms": 5000}));
    let late = vsphere.hosts().await.unwrap_err();
    assert!(
        matches!(late, VsphereError::TimedOut { call: "RetrievePropertiesEx", .. }),
        "{late:?}"
    );
    server.break_calls("RetrievePropertiesEx", -1);
    let away = vsphere.hosts().await.unwrap_err();
    assert!(matches!(away, VsphereError::Unreachable { .. }), "{away:?}");
}

#[tokio::test]
async fn an_nfs_server_that_is_not_there_is_told() {
    // A port that was free a moment ago, where nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let server = Server::standin(&["--nfs-port", &port, "--mount-port", &port]);
    let vsphere = server.connect().await;
    let host = host(&vsphere).await.id;
    let export = |path: &str, name: &str| NasExport {
        remote_host: "127.0.0.1".into(),
        remote_path: path.into(),
        name: name.into(),
    };
    for (path, name, fault) in [
        ("/x", "x", "PlatformConfigFault"),
        ("x", "x", "InvalidArgument"),
        ("/x", "a/b", "InvalidName"),
        ("/x", "local", "DuplicateName"),
    ] {
        let error = vsphere.ensure_nas_datastore(&host, &export(path, name)).await.unwrap_err();
        assert!(
            matches!(&error, VsphereError::Refused { fault: f, .. } if f == fault),
            "{error:?}"
        );
    }
    // What is not mounted is removed already, and a datastore that is not ours is not touched.
    vsphere.remove_nas_datastore(&host, &export("/x", "local"), Duration::ZERO).await.unwrap();
    assert_eq!(server.calls("RemoveDatastore"), 0);
    assert_eq!(vsphere.datastores(&host).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_step_finds_its_work_done_when_the_answer_was_lost() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    for method in
        ["RegisterVM_Task", "PowerOnVM_Task", "AnswerVM", "PowerOffVM_Task", "UnregisterVM"]
    {
        server.rule(&json!({"method": method, "drop": "after"}));
    }
    let vm = registered(&server, &vsphere).await;
    assert_eq!(
        vsphere.find_vm_by_path(&host(&vsphere).await.id, VMX).await.unwrap().unwrap().id,
        vm.id
    );
    vsphere.power_on(&vm.id, UuidPolicy::Copied).await.unwrap();
    let view = vsphere.vm(&vm.id).await.unwrap();
    assert_eq!((view.power, view.vmx_path.as_str(), view.question), (PowerState::On, VMX, None));
    assert_eq!(
        (view.disks[0].file.as_str(), view.disks[0].capacity_bytes),
        ("[local] vm/vm.vmdk", 1 << 20)
    );
    let uuid = view.instance_uuid.unwrap();
    assert_eq!(vsphere.find_vm_by_instance_uuid(&uuid).await.unwrap().unwrap().id, vm.id);
    vsphere.power_off(&vm.id).await.unwrap();
    vsphere.unregister(&vm.id).await.unwrap();
    assert!(matches!(vsphere.vm(&vm.id).await, Err(VsphereError::NotFound { .. })));
    assert!(vsphere.find_vm_by_path(&host(&vsphere).await.id, VMX).await.unwrap().is_none());
}

/// Registers the VM again while the task of an earlier registration goes on, and is refused at first.
async fn registered_twice(server: &Server, task: Value) -> [Result<Vm, VsphereError>; 2] {
    let vsphere = server.connect().await;
    lay_vm(server);
    let host = host(&vsphere).await.id;
    server.rule(&task);
    let first = tokio::spawn({
        let (vsphere, host) = (vsphere.clone(), host.clone());
        async move { vsphere.ensure_registered(&host, VMX, "test").await }
    });
    while server.calls("RegisterVM_Task") == 0 {
        tokio::task::yield_now().await;
    }
    server.rule(&json!({"method": "RegisterVM_Task", "fault": "SystemError"}));
    let second = vsphere.ensure_registered(&host, VMX, "test").await;
    [first.await.unwrap(), second]
}

#[tokio::test]
async fn a_registration_that_goes_on_elsewhere_is_joined() {
    let server = Server::standin(&[]);
    let slow = json!({"method": "RegisterVM_Task", "at": "task", "delay_ms": 600});
    let [first, second] = registered_twice(&server, slow).await;
    assert_eq!(first.unwrap().id, second.unwrap().id);
    assert_eq!(server.calls("RegisterVM_Task"), 2);
}

#[tokio::test]
async fn a_registration_is_repeated_if_the_one_elsewhere_failed() {
    let server = Server::standin(&[]);
    let fails = json!({
        "method": "RegisterVM_Task", "at": "task", "delay_ms": 600, "fault": "VmConfigFault",
    });
    let [_, second] = registered_twice(&server, fails).await;
    second.unwrap();
    assert!(server.calls("RegisterVM_Task") > 2);
}

#[tokio::test]
async fn a_general_error_of_a_registration_is_met_three_times_and_no_more() {
    for (count, calls) in [(3, 4), (4, 4)] {
        let server = Server::standin(&[]);
        let vsphere = server.connect().await;
        lay_vm(&server);
        let host = host(&vsphere).await.id;
        server.rule(&json!({"method": "RegisterVM_Task", "fault": "SystemError", "count": count}));
        let registered = vsphere.ensure_registered(&host, VMX, "test").await;
        assert_eq!(registered.is_ok(), count == 3, "{registered:?}");
        assert_eq!(server.calls("RegisterVM_Task"), calls);
    }
}

#[tokio::test]
async fn a_start_that_goes_on_elsewhere_is_joined() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    server
        .rule(&json!({"method": "PowerOnVM_Task", "at": "task", "progress": 50, "delay_ms": 600}));
    let first = vsphere.clone();
    let id = vm.id.clone();
    let first = tokio::spawn(async move { first.power_on(&id, UuidPolicy::Moved).await });
    while server.calls("AnswerVM") == 0 {
        tokio::task::yield_now().await;
    }
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(vsphere.power_state(&vm.id).await.unwrap(), PowerState::On);
}

#[tokio::test]
async fn faults_of_tasks_keep_their_name_and_text() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    let message = "made to fail <at half>";
    server.rule(&json!({"method": "PowerOnVM_Task", "at": "task", "progress": 50,
                        "fault": "GenericVmConfigFault", "message": message}));
    let error = vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap_err();
    assert_eq!(error.to_string(), format!("PowerOnVM_Task: GenericVmConfigFault: {message}"));
    // Nothing is left of it: the next start is fine.
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
}

#[tokio::test]
async fn bad_files_are_told() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let host = host(&vsphere).await.id;
    let missing = vsphere.ensure_registered(&host, "[local] no/no.vmx", "no").await.unwrap_err();
    assert!(matches!(missing, VsphereError::NotFound { .. }), "{missing:?}");
    let nowhere = vsphere.ensure_registered(&host, "[nowhere] a/a.vmx", "no").await.unwrap_err();
    assert!(
        matches!(&nowhere, VsphereError::Refused { fault, .. } if fault == "InvalidDatastore"),
        "{nowhere:?}"
    );
    let vm = registered(&server, &vsphere).await;
    fs::write(server.dir.path().join("vm/vm-flat.vmdk"), "short").unwrap();
    let short = vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap_err();
    assert!(short.to_string().contains("possible extent truncation"), "{short}");
    let running = vsphere.unregister(&vm.id).await;
    assert!(running.is_ok(), "{running:?}");
}

#[tokio::test]
async fn an_unknown_question_is_cancelled_and_told() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    server.rule(&json!({"method": "PowerOnVM_Task", "at": "question", "message": "msg.redo:The disk has changed. Go on?"}));
    let error = vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "VirtualMachineQuestion"),
        "{error:?}"
    );
    assert!(error.to_string().contains("msg.redo:The disk has changed. Go on?"), "{error}");
    let view = vsphere.vm(&vm.id).await.unwrap();
    assert_eq!((view.power, view.question), (PowerState::Off, None));
    vsphere.unregister(&vm.id).await.unwrap();
}

#[tokio::test]
async fn a_running_vm_is_not_unregistered() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
    let error = vsphere.unregister(&vm.id).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "InvalidPowerState"),
        "{error:?}"
    );
}

#[tokio::test]
async fn adapters_are_changed_only_where_they_must() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    let nic = vsphere.nics(&vm.id).await.unwrap().remove(0);
    assert_eq!((nic.network.as_deref(), nic.start_connected), (Some("elsewhere"), true));
    let connect = |network: &str| [(nic.key, NicChange::Connect(network.into()))];
    for _ in 0..2 {
        vsphere.change_nics(&vm.id, &connect("VM Network")).await.unwrap();
    }
    assert_eq!(server.calls("ReconfigVM_Task"), 1);
    assert_eq!(vsphere.nics(&vm.id).await.unwrap()[0].network.as_deref(), Some("VM Network"));
    let error = vsphere.change_nics(&vm.id, &connect("nowhere")).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "InvalidDeviceBacking"),
        "{error:?}"
    );
    vsphere.change_nics(&vm.id, &[(nic.key, NicChange::Disconnect)]).await.unwrap();
    assert!(!vsphere.nics(&vm.id).await.unwrap()[0].start_connected);
    for _ in 0..2 {
        vsphere.change_nics(&vm.id, &[(nic.key, NicChange::Remove)]).await.unwrap();
    }
    assert!(vsphere.nics(&vm.id).await.unwrap().is_empty());
    let error = vsphere.change_nics(&vm.id, &[(nic.key, NicChange::Disconnect)]).await.unwrap_err();
    assert!(matches!(error, VsphereError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn an_adapter_is_put_on_a_port_group_of_a_distributed_switch() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = registered(&server, &vsphere).await;
    let host = host(&vsphere).await.id;
    assert_eq!(vsphere.find_port_group(&host, "VM Network").await.unwrap(), None);
    // In the inventory a slash is escaped.
    let group = vsphere.find_port_group(&host, "Lab/A").await.unwrap().unwrap();
    assert_eq!((group.key.as_str(), group.switch.as_str()), ("dvportgroup-13", "50 1a 2b 3c"));
    let nic = vsphere.nics(&vm.id).await.unwrap().remove(0);
    for _ in 0..2 {
        let change = [(nic.key, NicChange::ConnectPort(group.clone()))];
        vsphere.change_nics(&vm.id, &change).await.unwrap();
    }
    assert_eq!(server.calls("ReconfigVM_Task"), 1);
    let on = vsphere.nics(&vm.id).await.unwrap().remove(0);
    assert_eq!((on.port_group.as_deref(), on.network), (Some("dvportgroup-13"), None));
    assert!(on.start_connected);
    let gone = PortGroup { key: "dvportgroup-1".into(), ..group };
    let change = [(nic.key, NicChange::ConnectPort(gone))];
    let error = vsphere.change_nics(&vm.id, &change).await.unwrap_err();
    assert!(
        matches!(&error, VsphereError::Refused { fault, .. } if fault == "InvalidDeviceBacking"),
        "{error:?}"
    );
    let standard = [(nic.key, NicChange::Connect("VM Network".into()))];
    vsphere.change_nics(&vm.id, &standard).await.unwrap();
    assert_eq!(vsphere.nics(&vm.id).await.unwrap()[0].port_group, None);
}

#[tokio::test]
async fn a_vm_that_is_there_already_is_not_moved() {
    let server = Server::standin(&["--esx"]);
    let vsphere = server.connect().await;
    assert!(!vsphere.is_vcenter());
    let vm = registered(&server, &vsphere).await;
    let local = vsphere.find_datastore(&host(&vsphere).await.id, "local").await.unwrap();
    vsphere.relocate(&vm.id, &local.id, Duration::from_secs(10), |_| {}).await.unwrap();
    assert_eq!(server.calls("RelocateVM_Task"), 0);
    assert_eq!(vsphere.vm_datastores(&vm.id).await.unwrap()[0].id, local.id);
}

#[tokio::test]
async fn logging_out_ends_the_session_and_a_later_call_begins_another() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    vsphere.log_out().await.unwrap();
    vsphere.log_out().await.unwrap();
    assert_eq!(vsphere.hosts().await.unwrap().len(), 1);
    assert_eq!(server.calls("Login"), 2);
}
