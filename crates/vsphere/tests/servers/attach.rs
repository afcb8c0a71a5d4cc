//! Disks on a VM that is there, against the stand-in.

use std::fs;

use rekindle_vsphere::{NewDisk, UuidPolicy, VsphereError, off_limits};
use serde_json::json;

use super::{process::Server, standin};

const JOB: &str = "20260131-235959-1f3a";

fn lay_disk(server: &Server, name: &str, byte: u8) -> NewDisk {
    let home = server.dir.path().join("ours");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join(format!("{name}-flat.vmdk")), vec![byte; 1 << 20]).unwrap();
    let descriptor =
        format!("CID=11112222\ncreateType=\"vmfs\"\nRW 2048 VMFS \"{name}-flat.vmdk\"\n");
    fs::write(home.join(format!("{name}.vmdk")), descriptor).unwrap();
    NewDisk { file: format!("[local] ours/{name}.vmdk"), size_bytes: 1 << 20 }
}

fn refusal(error: VsphereError) -> String {
    match error {
        VsphereError::Refused { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn disks_come_and_go_while_the_vm_runs() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = standin::registered(&server, &vsphere).await;
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
    let disks = [lay_disk(&server, "a", 1), lay_disk(&server, "b", 2)];
    let files: Vec<String> = disks.iter().map(|disk| disk.file.clone()).collect();

    vsphere.check_room(&vm.id, 14, JOB).await.unwrap();
    let full = vsphere.check_room(&vm.id, 15, JOB).await.unwrap_err();
    assert_eq!(refusal(full), off_limits::NO_FREE_UNIT);

    // The answer is lost and it is asked again: each disk is there once.
    server.rule(&json!({"method": "ReconfigVM_Task", "drop": "after"}));
    let attached = vsphere.ensure_attached(&vm.id, &disks, JOB).await.unwrap();
    let places: Vec<&str> = attached.iter().map(|one| one.place.as_str()).collect();
    assert_eq!(places, ["scsi0:1", "scsi0:2"]);
    let calls = server.calls("ReconfigVM_Task");
    assert_eq!(vsphere.ensure_attached(&vm.id, &disks, JOB).await.unwrap(), attached);
    assert_eq!(server.calls("ReconfigVM_Task"), calls, "it is as it is to be");
    let view = vsphere.vm(&vm.id).await.unwrap();
    assert_eq!(view.disks.len(), 3);
    let guest =
        |disk| server.door("GET", &format!("/guest?vm=test&disk={disk}&offset=512&length=4"), "");
    for (disk, byte) in [7, 1, 2].into_iter().enumerate() {
        assert_eq!(guest(disk).as_bytes(), [byte; 4]);
    }

    // Nobody else gets the VM meanwhile, and nobody else takes these disks off or the tag away.
    let other = lay_disk(&server, "c", 3);
    let taken = vsphere.ensure_attached(&vm.id, std::slice::from_ref(&other), "other").await;
    assert_eq!(refusal(taken.unwrap_err()), off_limits::TAKEN);
    assert_eq!(vsphere.ensure_detached(&vm.id, &[other.file], "other").await.unwrap(), 0);
    let taken = vsphere.check_room(&vm.id, 1, "other").await.unwrap_err();
    assert_eq!(refusal(taken), off_limits::TAKEN);

    server.rule(&json!({"method": "ReconfigVM_Task", "at": "task", "fault": "ConcurrentAccess"}));
    assert_eq!(vsphere.ensure_detached(&vm.id, &files, JOB).await.unwrap(), 2);
    assert_eq!(vsphere.ensure_detached(&vm.id, &files, JOB).await.unwrap(), 0);
    let left = vsphere.vm(&vm.id).await.unwrap();
    assert_eq!(left.disks.len(), 1, "the VM's own");
    assert!(server.dir.path().join("ours/a-flat.vmdk").exists());
    vsphere.check_room(&vm.id, 1, "other").await.unwrap();
    vsphere.power_off(&vm.id).await.unwrap();
    vsphere.unregister(&vm.id).await.unwrap();
    assert_eq!(vsphere.ensure_detached(&vm.id, &files, JOB).await.unwrap(), 0, "a VM that is gone");
}

#[tokio::test]
async fn a_disk_that_is_still_on_its_way_is_taken_off_as_well() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = standin::registered(&server, &vsphere).await;
    let disk = lay_disk(&server, "a", 1);
    server.rule(&json!({"method": "ReconfigVM_Task", "at": "task", "delay_ms": 1500}));
    let disks = [disk.clone()];
    tokio::select! {
        biased;
        _ = vsphere.ensure_attached(&vm.id, &disks, JOB) => panic!("it waits"),
        () = async { while server.calls("ReconfigVM_Task") == 0 { tokio::task::yield_now().await } } => {}
    }
    assert!(vsphere.vm(&vm.id).await.unwrap().disks.len() == 1, "not there yet");
    assert_eq!(vsphere.ensure_detached(&vm.id, &[disk.file], JOB).await.unwrap(), 1);
    assert_eq!(vsphere.vm(&vm.id).await.unwrap().disks.len(), 1);
}

#[tokio::test]
async fn a_vm_that_is_off_limits_gets_no_disk() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let vm = standin::registered(&server, &vsphere).await;
    let disk = [lay_disk(&server, "a", 1)];
    for (why, fault) in
        [("encrypted", off_limits::ENCRYPTED), ("consolidation", off_limits::CONSOLIDATION)]
    {
        server.door("POST", &format!("/off-limits?vm=test&why={why}"), "");
        let refused = vsphere.ensure_attached(&vm.id, &disk, JOB).await.unwrap_err();
        assert_eq!(refusal(refused), fault);
    }
    server.door("POST", "/off-limits?vm=test&why=", "");
    assert_eq!(server.calls("ReconfigVM_Task"), 0);
    let missing = NewDisk { file: "[local] ours/none.vmdk".into(), size_bytes: 1 << 20 };
    let refused = vsphere.ensure_attached(&vm.id, &[missing], JOB).await.unwrap_err();
    assert!(matches!(refused, VsphereError::NotFound { .. }), "{refused:?}");
    assert_eq!(vsphere.vm(&vm.id).await.unwrap().disks.len(), 1);
}
