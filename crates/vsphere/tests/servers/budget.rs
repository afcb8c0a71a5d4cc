//! What a host bears, against the stand-in.

use rekindle_vsphere::NasExport;
use serde_json::json;

use super::{process::Server, standin};

#[tokio::test]
async fn mounts_and_migrations_of_a_host_are_counted() {
    let server = Server::standin(&[]);
    let vsphere = server.connect().await;
    let host = vsphere.find_host(None).await.unwrap();
    let export = NasExport {
        remote_host: "192.0.2.1".into(),
        remote_path: "/x".into(),
        name: "ours".into(),
    };
    let mounts = vsphere.nas_mounts(&host.id, &export).await.unwrap();
    assert_eq!((mounts.used, mounts.allowed, mounts.mounted), (0, Some(8), false));
    server.door("POST", "/max-volumes?to=256", "");
    assert_eq!(vsphere.nas_mounts(&host.id, &export).await.unwrap().allowed, Some(256));
    // A host that has no such setting tells none.
    server.rule(&json!({"method": "QueryOptions", "fault": "InvalidName"}));
    assert_eq!(vsphere.nas_mounts(&host.id, &export).await.unwrap().allowed, None);

    let vm = standin::registered(&server, &vsphere).await;
    assert_eq!(vsphere.relocations(&host.id, &[].into()).await.unwrap(), 0);
    server.door("POST", "/others-move?vm=test&seconds=600", "");
    assert_eq!(vsphere.relocations(&host.id, &[].into()).await.unwrap(), 1);
    assert_eq!(vsphere.relocations(&host.id, &[vm.id.clone()].into()).await.unwrap(), 0, "ours");
}
