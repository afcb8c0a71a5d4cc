//! What broke other user-space servers with ESXi, where the checklist has no row for it.

use crate::peer::*;
use std::io::Write;
use std::time::{Duration, Instant};

/// nfs-ganesha #386 and #87: the size that was set is in every reply at once, and ESXi sets it in steps of 10 GiB.
#[test]
fn a_size_that_was_set_is_told_at_once_by_every_call() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"vm-flat.vmdk");
    for step in 1..=4_u64 {
        let size = step * (10 << 30);
        let set = Xdr::new().u32(0).u32(0).u32(0).u32(1).u64(size).u32(0).u32(0).u32(0);
        let after = wire.ok(2, Xdr::new().var(&file).raw(&set.0)).wcc().unwrap();
        assert_eq!(after.size, size, "SETATTR");
        assert_eq!(wire.getattr(&file).size, size, "GETATTR");
        let mut found = wire.ok(3, Xdr::new().var(&root).var(b"vm-flat.vmdk"));
        found.var();
        assert_eq!(found.attributes().unwrap().size, size, "LOOKUP");
        let mut read = wire.ok(6, Xdr::new().var(&file).u64(size - 512).u32(1024));
        assert_eq!(read.attributes().unwrap().size, size, "READ");
        assert_eq!((read.u32(), read.u32()), (512, 1), "count and eof");
        let mut opened =
            wire.ok(8, Xdr::new().var(&root).var(b"vm-flat.vmdk").u32(0).raw(&NOTHING));
        opened.handle();
        assert_eq!(opened.attributes().unwrap().size, size, "CREATE of what is there");
    }
}

/// nfs-ganesha FSAL_VFS: a file that its mode makes read-only can still be cut by root.
#[test]
fn a_read_only_file_can_be_truncated() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"vmware.log");
    wire.write(&file, 0, &[7; 5000]);
    let mode = Xdr::new().u32(1).u32(0o400).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
    wire.ok(2, Xdr::new().var(&file).raw(&mode.0));
    let size = Xdr::new().u32(0).u32(0).u32(0).u32(1).u64(100).u32(0).u32(0).u32(0);
    wire.ok(2, Xdr::new().var(&file).raw(&size.0));
    assert_eq!(wire.read(&file, 0, 512), (vec![7; 100], true));
}

/// QNAP and ZBS: ESXi comes back from the port it had. The server lets go of a connection that its client has closed, also
/// with READs held on it, so that the port can be had again within seconds.
#[test]
fn a_client_comes_back_from_the_same_port() {
    let server = Server::start();
    let (_, root) = server.mounted();
    let disk = crate::disks::marked_without_disk(&server, "flat.vmdk");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for abrupt in [false, true, false] {
        let until = Instant::now() + Duration::from_secs(20);
        let mut wire = loop {
            match connect_from(([127, 0, 0, 1], port).into(), server.nfs) {
                Ok(wire) => break wire,
                Err(e) => assert!(Instant::now() < until, "the port is still taken: {e}"),
            }
            std::thread::yield_now();
        };
        wire.getattr(&root);
        wire.send(NFS, 6, Xdr::new().var(&disk).u64(0).u32(4096));
        if abrupt {
            socket2::SockRef::from(&wire.socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
        wire.socket.flush().unwrap();
    }
}

/// Vaiz/nfs3 and nfsserve: more calls in flight than a window of slots are all answered, each once.
#[test]
fn a_thousand_calls_in_flight_are_answered_once_each() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, &[1; 512]);
    let first = wire.xid;
    for n in 0..1000_u64 {
        match n % 3 {
            0 => wire.send(NFS, 6, Xdr::new().var(&file).u64(0).u32(512)),
            1 => wire.send(NFS, 7, write_args(&file, 0, &[1; 512])),
            _ => wire.send(NFS, 1, Xdr::new().var(&file)),
        }
    }
    let mut answered: Vec<u32> = (0..1000).map(|_| wire.reply().xid.wrapping_sub(first)).collect();
    answered.sort_unstable();
    assert!(answered.iter().copied().eq(1..=1000), "{answered:?}");
}
