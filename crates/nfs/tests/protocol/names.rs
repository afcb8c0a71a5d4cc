//! Names and attributes: what each change does, and what it must not do.

use crate::peer::*;

fn sattr(mode: Option<u32>, size: Option<u64>) -> Xdr {
    let mut set = Xdr::new();
    set = match mode {
        Some(mode) => set.u32(1).u32(mode),
        None => set.u32(0),
    };
    set = set.u32(0).u32(0);
    set = match size {
        Some(size) => set.u32(1).u64(size),
        None => set.u32(0),
    };
    set.u32(0).u32(0)
}

#[test]
fn create_in_its_three_modes() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let create = |how: u32, rest: &[u8]| Xdr::new().var(&root).var(b"f").u32(how).raw(rest);
    let file = wire.ok(8, create(1, &sattr(Some(0o640), None).0)).handle();
    assert_eq!(wire.getattr(&file).mode, 0o640);
    assert_eq!(wire.nfs(8, create(1, &NOTHING)).0, EXIST, "GUARDED");
    wire.write(&file, 0, b"12345");
    assert_eq!(wire.ok(8, create(0, &NOTHING)).handle(), file, "UNCHECKED");
    assert_eq!(wire.getattr(&file).size, 5);
    wire.ok(8, create(0, &sattr(None, Some(0)).0));
    assert_eq!(wire.getattr(&file).size, 0, "UNCHECKED with a size cuts");
    assert_eq!(wire.nfs(8, create(2, b"verifier")).0, EXIST, "EXCLUSIVE over another's file");
}

#[test]
fn names_are_bytes_but_not_any_bytes() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    for name in [&b"\xff\xfe"[..], b" ", b"...", b"new\nline", &[b'n'; 255]] {
        let file = wire.create(&root, name);
        assert_eq!(wire.lookup(&root, name), Ok(file));
    }
    for (name, status) in [
        (&b""[..], INVAL),
        (b".", EXIST),
        (b"..", EXIST),
        (b"a/b", INVAL),
        (b"a\0b", INVAL),
        (&[b'n'; 256], 63),
        (b".rekindle-staging", ACCES),
    ] {
        for (procedure, rest) in
            [(8, [&[0, 0, 0, 0][..], &NOTHING].concat()), (9, NOTHING.to_vec())]
        {
            let args = Xdr::new().var(&root).var(name).raw(&rest);
            assert_eq!(wire.nfs(procedure, args).0, status, "{name:?} by {procedure}");
        }
        assert_ne!(wire.remove(&root, name), OK);
        assert_ne!(wire.rename((&root, b" "), (&root, name)), OK);
    }
    assert_eq!(wire.list(&root).len(), 7);
    assert_eq!(wire.lookup(&root, b".rekindle-staging"), Err(NOENT), "it is not to be seen");
}

#[test]
fn rename_replaces_in_one_step_and_refuses_what_does_not_fit() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let (a, d) = (wire.create(&root, b"a"), wire.mkdir(&root, b"d"));
    let old = wire.create(&d, b"old");
    assert_eq!(wire.rename((&root, b"a"), (&d, b"old")), OK);
    assert_eq!(wire.lookup(&d, b"old"), Ok(a.clone()));
    assert_eq!(wire.nfs(1, Xdr::new().var(&old)).0, STALE);
    assert_eq!(wire.rename((&root, b"none"), (&root, b"x")), NOENT);
    let e = wire.mkdir(&root, b"e");
    assert_eq!(wire.rename((&root, b"e"), (&root, b"d")), 66, "a folder that is not empty");
    assert_eq!(wire.rename((&d, b"old"), (&root, b"e")), ISDIR);
    assert_eq!(wire.rename((&root, b"e"), (&d, b"old")), NOTDIR);
    assert_eq!(wire.rename((&root, b"d"), (&d, b"below")), INVAL, "a folder into itself");
    assert_eq!(wire.rename((&root, b"e"), (&d, b"e")), OK);
    assert_eq!(wire.lookup(&e, b".."), Ok(d.clone()));
    assert_eq!((wire.getattr(&root).links, wire.getattr(&d).links), (3, 3));
}

#[test]
fn links_share_one_file_until_the_last_goes() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"a");
    let link = |name: &[u8]| Xdr::new().var(&file).var(&root).var(name);
    let mut reply = wire.ok(15, link(b"b"));
    assert_eq!(reply.attributes().unwrap().links, 2);
    assert!(reply.wcc().is_some());
    assert_eq!(wire.nfs(15, link(b"a")).0, EXIST);
    assert_eq!(wire.rename((&root, b"a"), (&root, b"b")), OK, "two names of one file: nothing");
    assert_eq!(wire.lookup(&root, b"a"), Ok(file.clone()));
    assert_eq!(wire.remove(&root, b"a"), OK);
    wire.write(&file, 0, b"still here");
    let server = server.restart();
    let mut wire = server.wire();
    assert_eq!(wire.lookup(&root, b"b"), Ok(file.clone()));
    assert_eq!(wire.getattr(&file).links, 1);
    assert_eq!(wire.remove(&root, b"b"), OK);
    assert_eq!(wire.nfs(1, Xdr::new().var(&file)).0, STALE);
}

#[test]
fn symbolic_links_and_special_files_are_marks_and_lead_nowhere() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let args = Xdr::new().var(&root).var(b"l").raw(&NOTHING).var(b"../../etc/passwd");
    let link = wire.ok(10, args).handle();
    let rdev = Xdr::new().var(&root).var(b"null").u32(4).raw(&NOTHING).u32(1).u32(3);
    wire.ok(11, rdev);
    wire.ok(11, Xdr::new().var(&root).var(b"fifo").u32(7).raw(&NOTHING));
    assert_eq!(wire.nfs(11, Xdr::new().var(&root).var(b"f").u32(1).raw(&NOTHING)).0, 10_007);
    for entry in std::fs::read_dir(server.dir.path().join("export")).unwrap() {
        let kind = entry.unwrap().file_type().unwrap();
        assert!(kind.is_file() || kind.is_dir(), "{kind:?}");
    }
    let server = server.restart();
    let mut wire = server.wire();
    let mut reply = wire.ok(5, Xdr::new().var(&link));
    assert_eq!(reply.attributes().unwrap().kind, 5);
    assert_eq!(reply.var(), b"../../etc/passwd");
    let device = wire.lookup(&root, b"null").unwrap();
    assert_eq!(wire.getattr(&device).kind, 4);
    assert_eq!(wire.nfs(6, Xdr::new().var(&link).u64(0).u32(10)).0, INVAL);
}

#[test]
fn a_guarded_setattr_needs_the_right_ctime() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, b"12345");
    let ctime = wire.getattr(&file).ctime;
    let guarded = |size: u64, (seconds, nanos): (u32, u32)| {
        Xdr::new().var(&file).raw(&sattr(None, Some(size)).0).u32(1).u32(seconds).u32(nanos)
    };
    assert_eq!(wire.nfs(2, guarded(1, (ctime.0, ctime.1 ^ 1))).0, NOT_SYNC);
    assert_eq!(wire.getattr(&file).size, 5);
    wire.ok(2, guarded(2, ctime));
    assert_eq!(wire.getattr(&file).size, 2);
}

#[test]
fn modes_keep_other_users_out() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"secret");
    wire.ok(2, Xdr::new().var(&file).raw(&sattr(Some(0o600), None).0).u32(0));
    let mut user = server.wire().of_user(1001);
    assert_eq!(user.nfs(6, Xdr::new().var(&file).u64(0).u32(1)).0, ACCES);
    assert_eq!(user.nfs(7, write_args(&file, 0, b"x")).0, ACCES);
    assert_eq!(user.remove(&root, b"secret"), ACCES);
    let chmod = Xdr::new().var(&file).raw(&sattr(Some(0o777), None).0).u32(0);
    assert_eq!(user.nfs(2, chmod).0, 1, "NFS3ERR_PERM");
    let mut access = user.ok(4, Xdr::new().var(&file).u32(0x3f));
    access.attributes();
    assert_eq!(access.u32(), 0);
    let mut access = wire.ok(4, Xdr::new().var(&root).u32(0x1f));
    access.attributes();
    assert_eq!(access.u32(), 0x1f, "root may do everything");
}

#[test]
fn access_fsinfo_and_pathconf_say_what_is_served() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    let mut access = wire.ok(4, Xdr::new().var(&file).u32(0x3f));
    access.attributes();
    // DELETE and LOOKUP are a folder's, EXECUTE needs a mode that has it.
    assert_eq!(access.u32(), 0x0d);
    let mut access = wire.ok(4, Xdr::new().var(&root).u32(0x1f));
    access.attributes();
    assert_eq!(access.u32(), 0x1f);
    let mut info = wire.ok(19, Xdr::new().var(&root));
    info.attributes();
    let mib = 1 << 20;
    let transfers: Vec<_> = (0..7).map(|_| info.u32()).collect();
    assert_eq!(transfers, [mib, mib, 512, mib, mib, 512, 64 << 10]);
    assert_eq!(info.u64(), 1 << 60);
    let mut conf = wire.ok(20, Xdr::new().var(&root));
    conf.attributes();
    let words: Vec<_> = (0..6).map(|_| conf.u32()).collect();
    assert_eq!(words, [32_000, 255, 1, 1, 0, 1]);
}

/// Cookies hold while other names come and go, and over a restart.
#[test]
fn cookies_hold() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    for n in 0..200 {
        wire.create(&root, format!("f{n}").as_bytes());
    }
    let before = wire.list(&root);
    assert_eq!(before.len(), 202);
    let middle = before[100].1;
    for entry in before[2..80].iter() {
        assert_eq!(wire.remove(&root, &entry.0), OK);
    }
    let server = server.restart();
    let mut wire = server.wire();
    let mut after = Vec::new();
    let mut cookie = middle;
    loop {
        let (page, eof) = wire.page(&root, cookie);
        cookie = page.last().map_or(cookie, |last| last.1);
        after.extend(page);
        if eof {
            break;
        }
    }
    assert_eq!(after, before[101..]);
}

/// What the appliance puts into an export is there for clients, and what it removes is stale to them.
#[test]
fn the_appliance_puts_and_removes_trees() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let path = |text: &str| std::path::PathBuf::from(text);
    server.export.make_dir(&path("vm/logs")).unwrap();
    server.export.make_dir(&path("vm/logs")).unwrap();
    server.export.put_file(&path("vm/vm.vmx"), b"first", 0o755).unwrap();
    server.export.put_file(&path("vm/vm.vmx"), b"second", 0o755).unwrap();
    let vm = wire.lookup(&root, b"vm").unwrap();
    let vmx = wire.lookup(&vm, b"vm.vmx").unwrap();
    assert_eq!(wire.read(&vmx, 0, 100), (b"second".to_vec(), true));
    assert_eq!(wire.getattr(&vmx).mode, 0o755);
    assert_eq!(server.export.read_file(&path("vm/vm.vmx")).unwrap().unwrap(), b"second");
    assert_eq!(server.export.read_file(&path("vm/none")).unwrap(), None);
    for bad in ["../x", "/etc/x", "vm/../../x", ""] {
        assert!(server.export.put_file(&path(bad), b"", 0o600).is_err(), "{bad}");
    }
    let logs = wire.lookup(&vm, b"logs").unwrap();
    wire.create(&logs, b"vmware.log");
    assert!(server.export.has_entries(&path("vm")));
    server.export.remove_tree(&path("vm")).unwrap();
    server.export.remove_tree(&path("vm")).unwrap();
    assert!(!server.export.has_entries(&path("vm")));
    assert_eq!(wire.nfs(1, Xdr::new().var(&logs)).0, STALE);
    assert!(!server.dir.path().join("export/vm").exists());
    assert_eq!(wire.getattr(&root).links, 2);
}
