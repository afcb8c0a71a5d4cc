//! A VM that steps aside for another, against the stand-in.

use std::{fs, time::Duration};

use rekindle_vsphere::{PowerState, UuidPolicy, VmRef, VsphereError};
use serde_json::json;

use super::{process::Server, standin};

#[tokio::test]
async fn a_vm_steps_aside_and_comes_back() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let host = vsphere.find_host(None).await.unwrap();
    let vm = standin::registered(&server, &vsphere).await;
    vsphere.power_on(&vm.id, UuidPolicy::Moved).await.unwrap();

    let by_name = vsphere.find_standing(&VmRef::Name("test".into())).await.unwrap();
    let uuid = by_name.instance_uuid.clone().unwrap();
    assert_eq!((&by_name.id, by_name.power, &by_name.tag), (&vm.id, PowerState::On, &None));
    assert_eq!(by_name.host, Some(host.id.clone()));
    let others = [VmRef::Uuid(uuid.to_uppercase()), VmRef::Moref(vm.id.as_str().into())];
    for which in others {
        assert_eq!(vsphere.find_standing(&which).await.unwrap(), by_name, "{which:?}");
    }
    let nobody = [VmRef::Name("tes".into()), VmRef::Uuid("-".into()), VmRef::Moref("vm-0".into())];
    for which in nobody {
        let missing = vsphere.find_standing(&which).await.unwrap_err();
        assert!(matches!(missing, VsphereError::NotFound { .. }), "{which:?}: {missing:?}");
    }

    // One that is running is not deleted; one whose guest cannot be asked is not waited for.
    assert!(vsphere.destroy(&vm.id).await.is_err());
    server.door("POST", "/guests?answer=no", "");
    let hour = Duration::from_secs(3600);
    assert!(!vsphere.shut_down_guest(&vm.id, hour).await.unwrap());
    server.door("POST", "/guests?answer=yes", "");
    assert!(!vsphere.shut_down_guest(&vm.id, Duration::ZERO).await.unwrap());
    assert!(vsphere.shut_down_guest(&vm.id, hour).await.unwrap());
    assert_eq!(vsphere.power_state(&vm.id).await.unwrap(), PowerState::Off);

    // The answer is lost, and it is asked again; then its name is free.
    server.rule(&json!({"method": "ReconfigVM_Task", "drop": "after"}));
    vsphere.rename(&vm.id, "a/b %", Some("job")).await.unwrap();
    let aside = vsphere.standing(&vm.id).await.unwrap();
    assert_eq!((aside.name.as_str(), aside.tag.as_deref()), ("a/b %", Some("job")));
    fs::create_dir(server.dir.path().join("new")).unwrap();
    fs::write(server.dir.path().join("new/new.vmx"), "displayName = \"x\"\n").unwrap();
    let path = "[local] new/new.vmx";
    let other = vsphere.ensure_registered_beside(&host.id, path, "test", &vm.id).await.unwrap();
    assert_ne!(other.id, vm.id);
    let taken = vsphere.rename(&vm.id, "test", None).await.unwrap_err();
    assert!(matches!(&taken, VsphereError::Refused { fault, .. } if fault == "DuplicateName"));
    vsphere.unregister(&other.id).await.unwrap();
    vsphere.rename(&vm.id, "test", None).await.unwrap();
    let calls = server.calls("ReconfigVM_Task");
    vsphere.rename(&vm.id, "test", None).await.unwrap();
    assert_eq!(server.calls("ReconfigVM_Task"), calls, "it is as it was");
    assert_eq!(vsphere.standing(&vm.id).await.unwrap().tag, None);

    vsphere.destroy(&vm.id).await.unwrap();
    vsphere.destroy(&vm.id).await.unwrap();
    assert!(!server.dir.path().join("vm").exists());
}
