//! The design checklist of what ESXi needs of an NFS server, row by row.

use crate::peer::*;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Row 1: a portmapper on a port of its own, by TCP and UDP, that says where NFS and MOUNT are.
#[test]
fn row_1_portmapper_by_tcp_and_udp() {
    let server = Server::start();
    let mut tcp = Wire::connect(server.portmap);
    for (program, port) in [(NFS, server.nfs.port()), (MOUNT, server.nfs.port())] {
        let args = Xdr::new().u32(program).u32(3).u32(6).u32(0);
        assert_eq!(tcp.call(PORTMAP, 3, args).u32(), u32::from(port));
    }
    let args = Xdr::new().u32(NFS).u32(3).u32(17).u32(0);
    assert_eq!(tcp.call(PORTMAP, 3, args).u32(), 0, "NFS is not served by UDP");
    let mut dump = tcp.call(PORTMAP, 4, Xdr::new());
    let mut listed = Vec::new();
    while dump.u32() == 1 {
        listed.push((dump.u32(), dump.u32(), dump.u32(), dump.u32()));
    }
    dump.end();
    assert!(listed.contains(&(NFS, 3, 6, server.nfs.port().into())));
    assert!(listed.contains(&(MOUNT, 3, 6, server.nfs.port().into())));
    // The NFS port answers the same program.
    let args = Xdr::new().u32(MOUNT).u32(3).u32(6).u32(0);
    assert_eq!(server.wire().call(PORTMAP, 3, args).u32(), u32::from(server.nfs.port()));

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let call = tcp.record(PORTMAP, 2, 3, &Xdr::new().u32(MOUNT).u32(3).u32(6).u32(0).0);
    udp.send_to(&call, server.portmap).unwrap();
    let mut reply = [0; 64];
    assert_eq!(udp.recv(&mut reply).unwrap(), 28);
    assert_eq!(&reply[24..28], u32::from(server.nfs.port()).to_be_bytes());
}

/// Row 2: handles of at most 56 bytes that survive a restart.
#[test]
fn row_2_handles_are_short_and_persist() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    assert_eq!((root.len(), file.len()), (32, 32));
    wire.write(&file, 0, b"kept");
    let server = server.restart();
    let mut wire = server.wire();
    assert_eq!(wire.read(&file, 0, 10), (b"kept".to_vec(), true));
    assert_eq!(wire.mount("/export"), Ok(root));
}

/// Row 3: ids of 64 bits, never given out again, and the root's is the same wherever it is named.
#[test]
fn row_3_ids_are_never_reused_and_the_root_names_itself() {
    let mut server = Server::start();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let (mut wire, root) = server.mounted();
        for _ in 0..20 {
            let file = wire.create(&root, b"f");
            assert!(seen.insert(wire.getattr(&file).fileid));
            assert_eq!(wire.remove(&root, b"f"), OK);
        }
        let id = wire.getattr(&root).fileid;
        let listed = wire.list(&root);
        assert_eq!(listed.iter().map(|e| e.2).collect::<Vec<_>>(), [id, id], ". and ..");
        let up = wire.lookup(&root, b"..").unwrap();
        assert_eq!(wire.getattr(&up).fileid, id);
        server = server.restart();
    }
}

/// Row 4: all bytes that were asked for unless the file ends, and `eof` by the READ that reaches the end.
#[test]
fn row_4_read_says_eof_in_the_same_reply() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"vm.vmx");
    wire.write(&file, 0, &[b'x'; 139]);
    assert_eq!(wire.read(&file, 0, 512), (vec![b'x'; 139], true));
    assert_eq!(wire.read(&file, 0, 139), (vec![b'x'; 139], true));
    assert_eq!(wire.read(&file, 0, 138), (vec![b'x'; 138], false));
    assert_eq!(wire.read(&file, 139, 512), (vec![], true));
    assert_eq!(wire.read(&file, 1 << 63, 512), (vec![], true));
    assert_eq!(wire.read(&file, u64::MAX, u32::MAX), (vec![], true));
}

/// Row 5: transfers larger than what FSINFO says.
#[test]
fn row_5_transfers_of_four_mebibytes() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let mut info = wire.ok(19, Xdr::new().var(&root));
    info.attributes();
    assert_eq!(info.u32(), 1 << 20, "rtmax");
    let file = wire.create(&root, b"f");
    let data: Vec<u8> =
        (0..4_u32 << 20).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    wire.write(&file, 5, &data);
    assert_eq!(wire.read(&file, 5, 4 << 20), (data, true));
}

/// Row 6: WRITEs are FILE_SYNC whatever was asked; COMMIT succeeds; one verifier.
#[test]
fn row_6_every_write_is_file_sync_and_commit_agrees() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    let mut verifiers = std::collections::HashSet::new();
    for stable in 0..3 {
        let args = Xdr::new().var(&file).u64(0).u32(4).u32(stable).var(b"data");
        let mut reply = wire.ok(7, args);
        reply.wcc();
        assert_eq!((reply.u32(), reply.u32()), (4, 2));
        verifiers.insert(reply.u64());
        reply.end();
    }
    let mut commit = wire.ok(21, Xdr::new().var(&file).u64(0).u32(0));
    assert!(commit.wcc().is_some());
    verifiers.insert(commit.u64());
    assert_eq!(verifiers.len(), 1);
}

/// Row 7: all 22 procedures answer; EXCLUSIVE survives a restart; RENAME replaces its target.
#[test]
fn row_7_all_procedures_and_durable_exclusive_create() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    for procedure in 0..22 {
        wire.xid += 1;
        let record = wire.record(NFS, 3, procedure, &[]);
        wire.send_record(&record).unwrap();
        let reply = wire.receive().unwrap();
        assert_ne!(reply[20..24], [0, 0, 0, 3], "procedure {procedure} is not there");
    }
    let exclusive = |verifier: &[u8; 8]| Xdr::new().var(&root).var(b".lck").u32(2).raw(verifier);
    let first = wire.ok(8, exclusive(b"verifier")).handle();
    let server = server.restart();
    let mut wire = server.wire();
    assert_eq!(wire.ok(8, exclusive(b"verifier")).handle(), first);
    assert_eq!(wire.nfs(8, exclusive(b"another!")).0, EXIST);
    let other = wire.create(&root, b"other");
    assert_eq!(wire.rename((&root, b"other"), (&root, b".lck")), OK);
    assert_eq!(wire.lookup(&root, b".lck"), Ok(other));
    assert_eq!(wire.nfs(1, Xdr::new().var(&first)).0, STALE);
}

/// Row 8: LOOKUP of the root's `..`; READDIRPLUS after the end is the end again.
#[test]
fn row_8_listing_after_the_end_is_empty_and_no_error() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    wire.create(&root, b"f");
    assert_eq!(wire.lookup(&root, b".."), Ok(root.clone()));
    let listed = wire.list(&root);
    assert_eq!(listed.len(), 3);
    let last = listed.iter().map(|entry| entry.1).max().unwrap();
    for cookie in [last, last, u64::MAX, i64::MAX as u64] {
        assert_eq!(wire.page(&root, cookie), (vec![], true));
    }
}

/// Row 9: root is not squashed; AUTH_NONE does for NULL and MNT and for nothing else; the port does not matter.
#[test]
fn row_9_root_is_root_and_auth_none_mounts_only() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    let args = Xdr::new().var(&file).u32(1).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
    wire.ok(2, Xdr(args.0[..args.0.len()].to_vec()));
    wire.write(&file, 0, b"mode 0000 does not keep root out");
    assert_eq!(wire.getattr(&file).uid, 0);
    let none = |program: u32, procedure: u32, args: &[u8]| {
        let head = Xdr::new().u32(7).u32(0).u32(2).u32(program).u32(3).u32(procedure);
        head.u64(0).u64(0).raw(args).0
    };
    let mut ask = |record: Vec<u8>| {
        wire.send_record(&record).unwrap();
        let reply = wire.receive().unwrap();
        reply[8..].chunks(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(ask(none(NFS, 0, &[])), [0, 0, 0, 0]);
    assert_eq!(ask(none(MOUNT, 1, &Xdr::new().var(b"/export").0))[..5], [0, 0, 0, 0, 0]);
    assert_eq!(ask(none(NFS, 1, &Xdr::new().var(&root).0)), [1, 1, 5], "AUTH_TOOWEAK");
}

/// Row 10 and 11: 4 096 READs that a stalled disk holds do not delay a GETATTR or the traffic of a lock file on the
/// same connection.
#[test]
fn row_10_and_11_held_reads_do_not_delay_the_heartbeat() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let disk = crate::disks::marked_without_disk(&server, "flat.vmdk");
    let lock = wire.create(&root, b".lck-1");
    for n in 0..4096_u64 {
        wire.send(NFS, 6, Xdr::new().var(&disk).u64(n * 4096).u32(4096));
    }
    let begun = Instant::now();
    wire.getattr(&root);
    let heartbeat = begun.elapsed();
    wire.write(&lock, 0, &[1; 84]);
    assert_eq!(wire.read(&lock, 0, 512), (vec![1; 84], true));
    wire.ok(18, Xdr::new().var(&root));
    assert!(heartbeat < Duration::from_millis(100), "GETATTR took {heartbeat:?}");
    assert_eq!(server.server.stats().waiting_calls, 4096);
    drop(wire);
    let until = Instant::now() + Duration::from_secs(10);
    while server.server.stats().waiting_calls > 0 {
        assert!(Instant::now() < until, "calls of a closed connection are still held");
        std::thread::yield_now();
    }
    assert_eq!(server.server.exports().list()[0].held_reads, 0);
}

/// Row 12: a call that comes again over another connection while the first is still at work is not done twice, and both
/// get the first one's reply. (`replay.rs` has the rest of this row.)
#[test]
fn row_12_a_call_that_comes_twice_at_once_is_done_once() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    for n in 0..50 {
        let args = Xdr::new().var(&root).var(format!("f{n}").as_bytes()).u32(1).raw(&NOTHING);
        wire.xid += 1;
        let record = wire.record(NFS, 3, 8, &args.0);
        wire.send_record(&record).unwrap();
        // Opened after the call came: a client's new connection.
        let mut again = server.wire();
        again.send_record(&record).unwrap();
        let replies = [wire.receive().unwrap(), again.receive().unwrap()];
        assert_eq!(replies[0][24..28], [0; 4], "GUARDED CREATE of a new name");
        assert_eq!(replies[0], replies[1]);
    }
    assert_eq!(wire.list(&root).len(), 52);
}

/// Row 13: unknown handles are answered, and the connection lives. After the export went, STALE.
#[test]
fn row_13_a_handle_that_is_gone_is_stale_and_the_connection_lives() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, b"x");
    assert_eq!(wire.remove(&root, b"f"), OK);
    assert_eq!(wire.nfs(1, Xdr::new().var(&file)).0, STALE);
    assert_eq!(wire.nfs(6, Xdr::new().var(&file).u64(0).u32(10)).0, STALE);
    server.server.exports().remove("export").unwrap();
    server.server.exports().remove("export").unwrap();
    assert_eq!(wire.nfs(1, Xdr::new().var(&root)).0, STALE);
    assert!(server.dir.path().join("export").is_dir(), "unexporting removes nothing");
}

/// Row 14: a READ whose data cannot be had is held up to the cap, and then gets what is configured.
#[test]
fn row_14_a_read_is_held_up_to_the_cap() {
    for (answer, wanted) in
        [(rekindle_nfs::HeldReadAnswer::Jukebox, JUKEBOX), (rekindle_nfs::HeldReadAnswer::Io, 5)]
    {
        let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
        let server = Server::start_in(dir, |config| {
            config.held_read_seconds = 1;
            config.held_read_answer = answer;
        });
        let (mut wire, _) = server.mounted();
        let disk = crate::disks::marked_without_disk(&server, "flat.vmdk");
        let begun = Instant::now();
        assert_eq!(wire.nfs(6, Xdr::new().var(&disk).u64(0).u32(512)).0, wanted);
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    }
}

/// Row 15: the same port can be had again at once, with connections of before still open.
#[test]
fn row_15_a_restart_takes_its_port_back() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    wire.getattr(&root);
    let (port, dir) = (server.nfs.port(), server.dir.clone());
    drop(server);
    let begun = Instant::now();
    let server = Server::start_in(dir, |config| config.port = port);
    assert_eq!(server.nfs.port(), port);
    server.wire().getattr(&root);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Row 16: FSSTAT's space is the provider's; a swap file of any size is sparse and instant.
#[test]
fn row_16_space_is_what_is_provided_and_swap_is_sparse() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    server.server.exports().set_space(std::sync::Arc::new(|| {
        Some(rekindle_nfs::Space { total_bytes: 1000 << 30, free_bytes: 600 << 30 })
    }));
    let mut stat = wire.ok(18, Xdr::new().var(&root));
    stat.attributes();
    assert_eq!((stat.u64(), stat.u64(), stat.u64()), (1000 << 30, 600 << 30, 600 << 30));
    let files = (stat.u64(), stat.u64(), stat.u64());
    assert!(files.0 >= 1 << 20 && files.1 == files.2 && files.1 < files.0);
    let swap = wire.create(&root, b"vm.vswp");
    let begun = Instant::now();
    for size in 1..=4_u64 {
        let args = Xdr::new().var(&swap).u32(0).u32(0).u32(0).u32(1).u64(size * (10 << 30));
        wire.ok(2, args.u32(0).u32(0).u32(0));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    let attributes = wire.getattr(&swap);
    assert_eq!(attributes.size, 40 << 30);
    assert!(attributes.used < 1 << 20, "{}", attributes.used);
    assert_eq!(wire.read(&swap, (40 << 30) - 100, 200), (vec![0; 100], true));
}

/// Row 17: folders can be made at the root, as vCenter does.
#[test]
fn row_17_the_root_is_writable() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    for name in [&b".dvsData"[..], b".vSphere-HA", b".iormstats.sf"] {
        wire.mkdir(&root, name);
    }
    assert_eq!(wire.getattr(&root).links, 5);
}
