//! Recoveries of images where they lie: all kinds, over a crash, and the images as they were.

use std::{fs, io::Write, path::PathBuf, process::Command};

use super::{
    disk_data::{DISK_BYTES, image, make_image},
    nfs::Mount,
    process::{Daemon, Site, run},
    recovery::{check_disk, expected, flat, nothing_is_left, recover, write_all},
};

/// A site that has the sample disk as the streamOptimized VMDK of a `.vmx`, in a place of images.
fn site() -> (Site, PathBuf) {
    let site = Site::new();
    let (raw, vms) = (site.path("disk.raw"), site.path("vms"));
    make_image(&raw);
    fs::create_dir_all(vms.join("web")).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    let mut convert_to = Command::new("qemu-img");
    assert!(
        convert_to
            .args(convert)
            .args([&raw, &vms.join("web/web.vmdk")])
            .status()
            .unwrap()
            .success()
    );
    fs::remove_file(raw).unwrap();
    let vmx = "displayName = \"web\"\nmemSize = \"64\"\nguestOS = \"other-64\"\nvirtualHW.version = \"13\"\n\
               config.version = \"8\"\nscsi0.present = \"TRUE\"\nscsi0.virtualDev = \"lsilogic\"\n\
               scsi0:0.present = \"TRUE\"\nscsi0:0.deviceType = \"scsi-hardDisk\"\nscsi0:0.fileName = \"web.vmdk\"\n";
    fs::write(vms.join("web/web.vmx"), vmx).unwrap();
    let said = run(&["repo", "add", vms.to_str().unwrap(), "--images"]).unwrap();
    assert!(said.contains("1 VMs in") && said.contains("kind = \"images\""), "{said}");
    let entry = said.split("[[repository]]\n").nth(1).unwrap().replace("NAME", "copies");
    let mut config = fs::OpenOptions::new().append(true).open(site.config()).unwrap();
    write!(config, "[[repository]]\n{entry}").unwrap();
    (site, vms)
}

fn state(vms: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(vms.join("web")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

fn finish(daemon: &Daemon, id: &str, how: &[&str], outcome: &str) {
    let job = daemon.cli(&[&["finish", id], how, &["--watch"]].concat());
    assert_eq!((&job["state"], &job["outcome"]), (&"completed".into(), &outcome.into()), "{job:#}");
}

#[tokio::test]
async fn a_recovery_of_an_image_survives_a_crash_and_migrates() {
    let (site, vms) = site();
    let before = state(&vms);
    let daemon = site.start();
    let points = daemon.cli(&["points"])["points"].clone();
    assert_eq!(
        (&points[0]["vm"]["name"], &points[0]["repository"]),
        (&"web".into(), &"copies".into())
    );
    assert_eq!(points[0]["disks"][0]["format"], "vmdk-stream");
    let recovered = recover(&daemon, &[]);
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    check_disk(&mut mount, &recovered, &image(0, DISK_BYTES as usize)).await;
    write_all(&mut mount, &recovered).await;

    daemon.kill();
    let daemon = site.start();
    assert_eq!(daemon.cli(&["points"])["points"], points, "the same points after a restart");
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    check_disk(&mut mount, &recovered, &expected()).await;
    drop(mount);
    fs::create_dir(site.path("home")).unwrap();
    let home = site.path("home/web");
    finish(
        &daemon,
        &recovered.id,
        &["migrate", "--to-directory", home.to_str().unwrap()],
        "migrated",
    );
    assert!(flat(&home) == expected(), "the migrated disk differs");

    let full = site.path("home/full");
    let restore = ["recover", "web", "--full", "--wait", "--to-directory", full.to_str().unwrap()];
    let id = daemon.cli(&restore)["id"].as_str().unwrap().to_owned();
    daemon.text(&["jobs", &id, "--watch"]);
    assert!(flat(&full) == image(0, DISK_BYTES as usize), "the restored disk differs");

    let disk = recover(&daemon, &["--disk-only", "--disk", "scsi0:0"]);
    finish(&daemon, &disk.id, &["discard"], "discarded");
    nothing_is_left(&daemon, &site);
    daemon.stop(&[]);
    assert_eq!(state(&vms), before, "nothing was written to the images");
}

#[tokio::test]
async fn an_image_that_changes_is_an_error_and_no_wrong_byte() {
    let (site, vms) = site();
    let config = fs::read_to_string(site.config()).unwrap();
    // Nothing of it is read ahead into the cache.
    fs::write(site.config(), format!("{config}\n[mover]\nwarm = false\n")).unwrap();
    let daemon = site.start();
    let recovered = recover(&daemon, &["--mount"]);
    let mut mount = Mount::new(daemon.nfs, &recovered.path).await;
    let file = mount.handle(&[&recovered.folder, &recovered.extent]).await;
    assert!(mount.read(&file, 0, 4096).await == image(0, 4096));
    let disk = vms.join("web/web.vmdk");
    let len = fs::metadata(&disk).unwrap().len();
    fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(len + 512).unwrap();
    assert!(mount.try_read(&file, 5 << 20, 4096).await.is_none(), "an error, and no bytes");
    assert!(
        mount.read(&file, 0, 4096).await == image(0, 4096),
        "what is cached is of the old file"
    );
    finish(&daemon, &recovered.id, &["discard"], "discarded");
    nothing_is_left(&daemon, &site);
    daemon.stop(&["web.vmdk"]);
}

#[test]
fn what_a_place_of_images_cannot_do_is_refused() {
    let (site, vms) = site();
    let config = site.config().display().to_string();
    let vmdk = vms.join("web/web.vmdk").display().to_string();
    let refused = |args: &[&str]| {
        let (status, said) = run(&[args, &["--config", &config]].concat()).unwrap_err();
        assert!(status == 3 && said.contains("repository of images cannot"), "{status}: {said}");
    };
    refused(&["repo", "check", "copies"]);
    refused(&["ingest", &vmdk, "--repository", "copies"]);
    refused(&["repo", "move", "copies", "web", "--tier", "glacier"]);
    let listed = run(&["repo", "ls", "--json", "--config", &config]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let copies = &listed["repositories"][0];
    assert_eq!((&copies["kind"], &copies["points"]), (&"images".into(), &1.into()), "{listed:#}");
}
