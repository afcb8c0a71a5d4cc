//! What a migration on a host alone takes, against the stand-in as one ESXi.

use std::{fs, sync::Mutex, time::Duration};

use rekindle_vsphere::{UuidPolicy, VsphereError};
use serde_json::json;

use super::{process::Server, standin};

const HOUR: Duration = Duration::from_secs(3600);
const FROM: &str = "[local] vm/vm.vmdk";
const TO: &str = "[local] there/vm.vmdk";

#[tokio::test]
async fn a_disk_is_copied_and_read_back() {
    let server = Server::standin(&["--esx"]);
    let vsphere = server.connect().await;
    assert!(!vsphere.is_vcenter());
    let host = vsphere.find_host(None).await.unwrap().id;
    standin::registered(&server, &vsphere).await;
    let nowhere = vsphere.copy_disk(&host, FROM, TO, HOUR, |_| {}).await.unwrap_err();
    assert!(matches!(nowhere, VsphereError::NotFound { .. }), "{nowhere}");
    vsphere.ensure_directory(&host, "[local] there").await.unwrap();
    let seen = Mutex::new(Vec::new());
    vsphere.copy_disk(&host, FROM, TO, HOUR, |p| seen.lock().unwrap().push(p)).await.unwrap();
    assert!(seen.lock().unwrap().contains(&100));
    let twice = vsphere.copy_disk(&host, FROM, TO, HOUR, |_| {}).await.unwrap_err();
    assert!(matches!(&twice, VsphereError::Refused { fault, .. } if fault == "FileAlreadyExists"));

    let descriptor = vsphere.read_file_of(&host, TO, 1 << 20).await.unwrap();
    assert!(String::from_utf8(descriptor).unwrap().contains("RW 2048 VMFS \"vm-flat.vmdk\""));
    let flat = "[local] there/vm-flat.vmdk";
    let mut file = vsphere.open_file_of(&host, flat).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = file.next().await.unwrap() {
        bytes.extend(part);
    }
    assert_eq!(bytes, vec![7; 1 << 20]);
    // Cut off, it is an error and never an end.
    server.rule(&json!({"method": "GET folder", "cut": 5000}));
    let mut file = vsphere.open_file_of(&host, flat).await.unwrap();
    let mut read = 0;
    let cut = loop {
        match file.next().await {
            Ok(part) => read += part.expect("the file ends early, and nobody says so").len(),
            Err(error) => break error,
        }
    };
    assert!(read <= 5000 && matches!(cut, VsphereError::Unreachable { .. }), "{read}: {cut}");
    let large = vsphere.read_file_of(&host, flat, 1000).await.unwrap_err();
    assert!(matches!(large, VsphereError::Garbled { .. }), "{large}");
}

#[tokio::test]
async fn a_copy_that_nobody_waits_for_is_ended() {
    let server = Server::standin(&["--esx"]);
    let vsphere = server.connect().await;
    let host = vsphere.find_host(None).await.unwrap().id;
    standin::registered(&server, &vsphere).await;
    let flat = server.dir.path().join("vm/vm-flat.vmdk");
    fs::write(&flat, vec![7; 64 << 20]).unwrap();
    let descriptor = "CID=11112222\nRW 131072 VMFS \"vm-flat.vmdk\"\n";
    fs::write(server.dir.path().join("vm/vm.vmdk"), descriptor).unwrap();
    vsphere.ensure_directory(&host, "[local] there").await.unwrap();
    server.door("POST", "/copy-rate?mbps=1", "");
    let (begun, begins) = tokio::sync::oneshot::channel();
    let begun = Mutex::new(Some(begun));
    // Nothing of it: the task is there, and may not have made its file yet.
    let progress = |percent| {
        if let Some(begun) = begun.lock().unwrap().take_if(|_| percent > 0) {
            let _ = begun.send(());
        }
    };
    tokio::select! {
        ended = vsphere.copy_disk(&host, FROM, TO, HOUR, progress) => panic!("{ended:?}"),
        _ = begins => {}
    }
    let used = vsphere.remove_directory(&host, "[local] there").await.unwrap_err();
    assert!(
        matches!(&used, VsphereError::Refused { fault, .. } if fault == "FileLocked"),
        "{used}"
    );
    vsphere.end_disk_copies("[local] elsewhere/").await.unwrap();
    assert_eq!(server.calls("CancelTask"), 0);
    vsphere.end_disk_copies("[local] there/").await.unwrap();
    vsphere.end_disk_copies("[local] there/").await.unwrap();
    assert_eq!(server.calls("CancelTask"), 1);
    vsphere.remove_directory(&host, "[local] there").await.unwrap();
    assert!(!server.dir.path().join("there").exists());
}

#[tokio::test]
async fn small_files_are_written_whole() {
    let server = Server::standin(&["--esx"]);
    let vsphere = server.connect().await;
    let host = vsphere.find_host(None).await.unwrap().id;
    let file = "[local] a b/web%1.vmx";
    let nowhere = vsphere.write_file_of(&host, file, b"x").await.unwrap_err();
    assert!(matches!(nowhere, VsphereError::NotFound { .. }), "{nowhere}");
    vsphere.ensure_directory(&host, "[local] a b").await.unwrap();
    server.break_calls("PUT folder", 1);
    for text in ["first, and longer", "second"] {
        vsphere.write_file_of(&host, file, text.as_bytes()).await.unwrap();
        assert_eq!(fs::read(server.dir.path().join("a b/web%1.vmx")).unwrap(), text.as_bytes());
        assert_eq!(vsphere.read_file_of(&host, file, 100).await.unwrap(), text.as_bytes());
    }
    let bad = vsphere.write_file_of(&host, "no path", b"x").await.unwrap_err();
    assert!(matches!(bad, VsphereError::NotFound { .. }), "{bad}");
}

#[tokio::test]
async fn what_lies_over_a_disk_is_merged_with_and_without_a_snapshot() {
    let server = Server::standin(&["--esx"]);
    let vsphere = server.connect().await;
    let host = vsphere.find_host(None).await.unwrap().id;
    let vm = standin::registered(&server, &vsphere).await;
    vsphere.merge_disks(&vm.id).await.unwrap();
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
    vsphere.ensure_snapshot(&vm.id, "ours").await.unwrap();
    assert!(vsphere.has_snapshot_named(&vm.id, "ours").await.unwrap());
    assert!(!vsphere.has_snapshot_named(&vm.id, "theirs").await.unwrap());
    let view = vsphere.vm(&vm.id).await.unwrap();
    assert!(view.disks[0].has_parent && view.disks[0].file == "[local] vm/vm-000001.vmdk");
    server.door("PUT", "/guest?vm=test&disk=0&offset=512", "the guest's");
    let flat = server.dir.path().join("vm/vm-flat.vmdk");
    assert_eq!(fs::read(&flat).unwrap(), vec![7; 1 << 20]);
    vsphere.power_off(&vm.id).await.unwrap();

    // Registered anew without its list of snapshots, it has a disk over another and no snapshot.
    vsphere.unregister(&vm.id).await.unwrap();
    fs::remove_file(server.dir.path().join("vm/vm.vmsd")).unwrap();
    let vm = vsphere.ensure_registered(&host, standin::VMX, "test").await.unwrap();
    let view = vsphere.vm(&vm.id).await.unwrap();
    assert!(view.disks[0].has_parent && !view.has_snapshot);
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();
    vsphere.merge_disks(&vm.id).await.unwrap();
    vsphere.merge_disks(&vm.id).await.unwrap();
    assert_eq!(server.calls("ConsolidateVMDisks_Task"), 1);
    assert!(!vsphere.vm(&vm.id).await.unwrap().disks[0].has_parent);
    let mut expected = vec![7; 1 << 20];
    expected[512..512 + 11].copy_from_slice(b"the guest's");
    assert!(fs::read(&flat).unwrap() == expected);
    assert!(!server.dir.path().join("vm/vm-000001-delta.vmdk").exists());
}
