//! What holds over a restart, and over copies made behind the server's back.

use crate::peer::*;

#[test]
fn attributes_names_and_data_are_all_there_again() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let mut dir = root.clone();
    let mut handles = vec![root.clone()];
    for depth in 0..20 {
        dir = wire.mkdir(&dir, format!("{depth}{}", "d".repeat(200)).as_bytes());
        let file = wire.create(&dir, b"f");
        wire.write(&file, 0, format!("file {depth}").as_bytes());
        let owner = Xdr::new().var(&file).u32(1).u32(0o4711).u32(1).u32(1001).u32(1).u32(1002);
        wire.ok(2, owner.u32(0).u32(0).u32(0).u32(0));
        handles.extend([dir.clone(), file]);
    }
    let stable =
        |a: Attributes| (a.kind, a.mode, a.links, (a.uid, a.gid), a.size, a.fsid, a.fileid);
    let before: Vec<_> = handles.iter().map(|handle| stable(wire.getattr(handle))).collect();
    let server = server.restart();
    let mut wire = server.wire();
    let after: Vec<_> = handles.iter().map(|handle| stable(wire.getattr(handle))).collect();
    assert_eq!(before, after);
    assert_eq!(wire.read(&handles[40], 0, 99).0, b"file 19", "deeper than a path may be long");
}

#[test]
fn a_file_copied_in_with_its_attributes_is_another_file() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, b"data");
    let dir = server.dir.clone();
    drop(server);
    let export = dir.path().join("export");
    let copied = std::process::Command::new("cp")
        .args(["--preserve=xattr"])
        .args([export.join("f"), export.join("copy")])
        .status()
        .unwrap();
    assert!(copied.success());
    let server = Server::start_in(dir, |_| {});
    let mut wire = server.wire();
    let (f, copy) = (wire.lookup(&root, b"f").unwrap(), wire.lookup(&root, b"copy").unwrap());
    assert_ne!(f, copy);
    assert!(f == file || copy == file, "one of them is the first");
    assert_eq!(wire.read(&copy, 0, 9).0, b"data");
}

#[test]
fn links_and_pipes_found_in_the_directory_are_not_served() {
    let server = Server::start();
    let dir = server.dir.clone();
    drop(server);
    let export = dir.path().join("export");
    std::os::unix::fs::symlink("/etc/passwd", export.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", export.join("folder")).unwrap();
    std::fs::write(export.join("plain"), b"found").unwrap();
    let server = Server::start_in(dir, |_| {});
    let (mut wire, root) = server.mounted();
    assert_eq!(wire.lookup(&root, b"link"), Err(NOENT));
    assert_eq!(wire.lookup(&root, b"folder"), Err(NOENT));
    let plain = wire.lookup(&root, b"plain").unwrap();
    assert_eq!(wire.read(&plain, 0, 9).0, b"found");
}

#[test]
fn leftovers_of_a_crash_in_the_staging_folder_go() {
    let server = Server::start();
    let dir = server.dir.clone();
    drop(server);
    let staging = dir.path().join("export/.rekindle-staging");
    std::fs::write(staging.join("1234"), b"never named").unwrap();
    std::fs::create_dir(staging.join("1235")).unwrap();
    let _server = Server::start_in(dir, |_| {});
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
}
