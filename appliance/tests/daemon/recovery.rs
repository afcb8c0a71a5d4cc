//! A recovery from ingest to nothing left.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    disk_data::{DISK_BYTES, image, pieces, written},
    nfs::Mount,
    process::{Daemon, Site},
};

/// Where the guest writes in these tests: unaligned, over a block's border, and at the very end.
const WRITES: [(u64, usize); 4] =
    [(4096, 4096), (262_144 - 1000, 5000), (3 << 20, 65_536), (DISK_BYTES - 700, 700)];

pub(crate) struct Recovered {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) folder: String,
    pub(crate) extent: String,
}

pub(crate) fn recover(daemon: &Daemon, args: &[&str]) -> Recovered {
    let mut command = vec!["recover", "web", "--client", "127.0.0.1", "--wait"];
    command.extend(args);
    let job = daemon.cli(&command);
    assert_eq!(job["state"], "serving", "{job:#}");
    let export = &job["export"];
    let files = export["files"].as_array().unwrap();
    let extent = files.iter().find(|file| file["kind"] == "extent").unwrap();
    assert_eq!(extent["size"], DISK_BYTES);
    Recovered {
        id: text(&job["id"]),
        path: text(&export["path"]),
        folder: text(&export["folder"]),
        extent: text(&extent["name"]),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The disk as it should be after the guest's writes.
pub(super) fn expected() -> Vec<u8> {
    let mut disk = image(0, DISK_BYTES as usize);
    for (version, (offset, len)) in WRITES.iter().enumerate() {
        let start = *offset as usize;
        disk[start..start + len].copy_from_slice(&written(version as u32, *offset, *len));
    }
    disk
}

pub(super) async fn check_disk(mount: &mut Mount, recovered: &Recovered, expected: &[u8]) {
    let file = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    for (offset, len) in pieces() {
        let read = mount.read(&file, offset, len).await;
        let wanted = &expected[offset as usize..offset as usize + len];
        assert!(read == wanted, "wrong bytes at {offset}");
    }
}

pub(super) async fn write_all(mount: &mut Mount, recovered: &Recovered) {
    let file = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    for (version, (offset, len)) in WRITES.iter().enumerate() {
        assert!(mount.write(&file, *offset, &written(version as u32, *offset, *len)).await);
    }
}

pub(super) fn nothing_is_left(daemon: &Daemon, site: &Site) {
    assert_eq!(daemon.cli(&["exports"])["exports"], serde_json::json!([]));
    assert_eq!(site.entries("exports"), Vec::<String>::new());
    let overlays: Vec<_> =
        site.entries("overlay").into_iter().filter(|path| !path.contains("journal")).collect();
    assert_eq!(overlays, Vec::<String>::new());
}

#[tokio::test]
async fn a_recovery_survives_a_crash_and_leaves_nothing_when_discarded() {
    let site = Site::new();
    site.ingest("web");
    let daemon = site.start();
    let points = daemon.cli(&["points"]);
    assert_eq!(points["points"][0]["vm"]["name"], "web", "{points:#}");

    let recovered = recover(&daemon, &["--mount"]);
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    check_disk(&mut mount, &recovered, &image(0, DISK_BYTES as usize)).await;
    let before = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    write_all(&mut mount, &recovered).await;
    check_disk(&mut mount, &recovered, &expected()).await;

    daemon.kill();
    let daemon = site.start();
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    let after = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    assert_eq!(before, after, "a handle outlives the process");
    check_disk(&mut mount, &recovered, &expected()).await;
    let job = daemon.cli(&["jobs", &recovered.id]);
    assert_eq!(job["state"], "serving", "{job:#}");

    let job = daemon.cli(&["finish", &recovered.id, "discard", "--watch"]);
    assert_eq!((&job["state"], &job["outcome"]), (&"completed".into(), &"discarded".into()));
    nothing_is_left(&daemon, &site);
    daemon.stop(&[]);
}

#[tokio::test]
async fn a_migrated_vm_holds_what_its_guest_wrote() {
    let site = Site::new();
    site.ingest("web");
    let daemon = site.start();
    let recovered = recover(&daemon, &[]);
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    write_all(&mut mount, &recovered).await;
    drop(mount);

    let home = site.path("home/web");
    fs::create_dir(site.path("home")).unwrap();
    let to = home.to_str().unwrap();
    let job = daemon.cli(&["finish", &recovered.id, "migrate", "--to-directory", to, "--watch"]);
    assert_eq!((&job["state"], &job["outcome"]), (&"completed".into(), &"migrated".into()));
    assert!(flat(&home) == expected(), "the migrated disk differs");
    nothing_is_left(&daemon, &site);
    daemon.stop(&[]);
}

/// The bytes of the one flat extent in a migrated VM's directory.
pub(super) fn flat(dir: &Path) -> Vec<u8> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let flat: Vec<_> =
        names.filter(|path| path.to_str().unwrap().ends_with("-flat.vmdk")).collect();
    assert_eq!(flat.len(), 1, "{flat:?}");
    fs::read(&flat[0]).unwrap()
}

#[tokio::test]
async fn a_request_that_cannot_work_changes_nothing() {
    let site = Site::new();
    site.ingest("web");
    let daemon = site.start();
    let client = ["--client", "127.0.0.1"];
    let refused = |args: &[&str]| daemon.cli_fails(&[&["recover"], args, &client].concat());
    assert_eq!(refused(&["no-such-vm"]).0, 4);
    assert_eq!(refused(&["web", "--repository", "nowhere"]).0, 4);
    assert_eq!(refused(&["web", "--name", "a/b"]).0, 3);
    let (status, said) = daemon.cli_fails(&["recover", "web", "--target", "nowhere"]);
    assert_eq!(status, 4, "{said}");
    assert_eq!(daemon.cli_fails(&["finish", "20250101-000000-0000", "discard"]).0, 4);
    assert_eq!(daemon.cli_fails(&["cancel", "../../etc"]).0, 4);
    assert_eq!(daemon.cli(&["jobs"])["jobs"], serde_json::json!([]));
    nothing_is_left(&daemon, &site);

    let key = ["--idempotency-key", "once"];
    let first = daemon.cli(&[&["recover", "web", "--mount"], &client[..], &key].concat());
    let again = daemon.cli(&[&["recover", "web", "--mount"], &client[..], &key].concat());
    assert_eq!(first["id"], again["id"]);
    let id = text(&first["id"]);
    daemon.cli(&["cancel", &id, "--watch"]);
    nothing_is_left(&daemon, &site);
    daemon.stop(&[]);
}
