//! Clients that mean harm or are not allowed: nothing is given away, nothing leaks, nobody else notices.

use crate::peer::*;
use rekindle_nfs::ExportSpec;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Whether the server hangs up.
fn is_closed(socket: &mut TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut byte = [0];
    match socket.read(&mut byte) {
        Ok(n) => n == 0,
        Err(e) => {
            matches!(e.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        }
    }
}

/// An address that is no client is refused by MOUNT and by each NFS call, with a good handle too.
#[test]
fn a_client_that_is_not_allowed_gets_nothing() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    server.server.exports().set_clients("export", vec!["10.1.2.0/24".parse().unwrap()]).unwrap();
    assert_eq!(wire.mount("/export"), Err(ACCES));
    assert_eq!(wire.mount("/none"), Err(ACCES), "not even what there is");
    for procedure in 1..22 {
        let handle = if procedure == 6 || procedure == 7 { &file } else { &root };
        wire.xid += 1;
        let record = wire.record(NFS, 3, procedure, &Xdr::new().var(handle).raw(&[0; 64]).0);
        wire.send_record(&record).unwrap();
        let reply = wire.receive().unwrap();
        assert_eq!(reply[24..28], ACCES.to_be_bytes(), "procedure {procedure}");
    }
    let mut exports = wire.call(MOUNT, 5, Xdr::new());
    assert_eq!(exports.u32(), 0, "EXPORT lists nothing to him");
    assert!(server.server.stats().refused > 20);
    server.server.exports().set_clients("export", vec!["127.0.0.0/8".parse().unwrap()]).unwrap();
    wire.getattr(&file);
}

#[test]
fn handles_cannot_be_made_up_or_moved_to_another_export() {
    let server = Server::start();
    let exports = server.server.exports();
    let other = ExportSpec {
        name: "other".into(),
        dir: server.dir.path().join("other"),
        clients: vec!["10.9.9.9".parse().unwrap()],
    };
    exports.add(other).unwrap();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    for bit in 0..file.len() * 8 {
        let mut forged = file.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(wire.nfs(1, Xdr::new().var(&forged)).0, BADHANDLE, "bit {bit}");
    }
    for len in (0..=64).filter(|len| *len != 32) {
        assert_eq!(wire.nfs(1, Xdr::new().var(&vec![1; len])).0, BADHANDLE, "{len} bytes");
    }
    // The other export's root, were its number guessed.
    exports.set_clients("other", vec!["127.0.0.1".parse().unwrap()]).unwrap();
    let theirs = wire.mount("/other").unwrap();
    exports.set_clients("other", vec![]).unwrap();
    assert_eq!(wire.nfs(1, Xdr::new().var(&theirs)).0, ACCES);
    let mut mixed = theirs.clone();
    mixed[..8].copy_from_slice(&root[..8]);
    assert_eq!(wire.nfs(1, Xdr::new().var(&mixed)).0, BADHANDLE);
    assert_eq!(wire.nfs(14, Xdr::new().var(&root).var(b"f").var(&theirs).var(b"f")).0, ACCES);
    wire.getattr(&file);
}

#[test]
fn records_of_two_gibibytes_and_nonsense_end_their_connection_and_no_other() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let mut huge = TcpStream::connect(server.nfs).unwrap();
    huge.write_all(&[0xff; 64]).unwrap();
    assert!(is_closed(&mut huge));
    let mut reply = TcpStream::connect(server.nfs).unwrap();
    let record = Xdr::new().u32(0x8000_0018).u32(7).u32(1).u64(0).u64(0).0;
    reply.write_all(&record).unwrap();
    assert!(is_closed(&mut reply), "a reply is no call");
    let mut fragments = TcpStream::connect(server.nfs).unwrap();
    for _ in 0..2000 {
        if fragments.write_all(&[0; 4]).is_err() {
            break;
        }
    }
    assert!(is_closed(&mut fragments), "fragments of nothing without end");
    wire.getattr(&root);
}

#[test]
fn who_sends_nonsense_is_read_a_moment_later_the_next_time() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let mut last = Instant::now();
    for _ in 0..8 {
        last = Instant::now();
        let mut huge = TcpStream::connect(server.nfs).unwrap();
        huge.write_all(&[0xff; 64]).unwrap();
        assert!(is_closed(&mut huge));
    }
    let mut next = server.wire();
    next.getattr(&root);
    let waited = last.elapsed();
    assert!(waited >= Duration::from_millis(20), "it was read after {waited:?}");
    wire.getattr(&root);
}

/// A client of no export may ask for ports and mounts, in records of 4 KiB.
#[test]
fn a_stranger_may_not_send_much() {
    let server = Server::start();
    server.server.exports().set_clients("export", vec![]).unwrap();
    let mut stranger = TcpStream::connect(server.nfs).unwrap();
    stranger.write_all(&0x8000_2000_u32.to_be_bytes()).unwrap();
    assert!(is_closed(&mut stranger));
    let held: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(server.nfs).unwrap()).collect();
    let closed = held.into_iter().filter_map(|mut socket| {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        matches!(socket.read(&mut [0]), Ok(0)).then_some(())
    });
    assert!(closed.count() >= 24, "16 of 40 connections are kept at most");
}

#[test]
fn a_call_that_does_not_come_whole_ends_its_connection() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_in(dir, |config| config.limits.record_seconds = 1);
    let (mut wire, root) = server.mounted();
    let mut slow = TcpStream::connect(server.nfs).unwrap();
    slow.write_all(&[0x80, 0, 0, 40, 0, 0]).unwrap();
    assert!(is_closed(&mut slow));
    wire.getattr(&root);
}

/// Calls that were begun and never end do not keep the memory for calls: also those that waited for it have their time.
#[test]
fn calls_that_wait_for_memory_and_then_fall_silent_end() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_in(dir, |config| {
        config.limits.record_seconds = 1;
        config.limits.write_bytes = 16 << 20;
    });
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    let announce = |socket: &mut TcpStream| {
        socket.write_all(&(0x8000_0000_u32 | 4 << 20).to_be_bytes()).unwrap();
        socket.write_all(&[0; 100]).unwrap();
    };
    let connect = || TcpStream::connect(server.nfs).unwrap();
    // Those that will wait are older, so that the server looks at their times while they do.
    let mut waiting: Vec<_> = (0..2).map(|_| connect()).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        wire.getattr(&root);
    }
    let mut silent: Vec<_> = (0..3).map(|_| connect()).collect();
    silent.iter_mut().for_each(announce);
    wire.getattr(&root);
    waiting.iter_mut().for_each(announce);
    silent.append(&mut waiting);
    // Another client does not even wait.
    server.server.exports().set_clients("export", vec!["127.0.0.0/8".parse().unwrap()]).unwrap();
    let mut other = connect_from(([127, 0, 0, 2], 0).into(), server.nfs).unwrap();
    let begun = Instant::now();
    other.write(&file, 0, &[8; 64 << 10]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    wire.socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    wire.write(&file, 0, &[7; 4096]);
    for mut socket in silent {
        assert!(is_closed(&mut socket));
    }
}

/// A client that reads no replies is held back and costs no more than its bound; others go on.
#[test]
fn a_client_that_reads_nothing_is_held_back() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, &vec![7; 1 << 20]);
    let mut deaf = server.wire();
    deaf.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    let record = deaf.record(NFS, 3, 6, &Xdr::new().var(&file).u64(0).u32(1 << 20).0);
    while sent < 200_000 && deaf.send_record(&record).is_ok() {
        sent += 1;
    }
    assert!(sent < 200_000, "TCP holds the client back");
    let begun = Instant::now();
    for _ in 0..200 {
        wire.getattr(&root);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Many connections from one address: the bound holds, and when they go all is as before.
#[test]
fn connections_are_bounded_and_given_back() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_in(dir, |config| config.limits.connections_per_client = 20);
    let held: Vec<TcpStream> =
        (0..200).filter_map(|_| TcpStream::connect(server.nfs).ok()).collect();
    assert!(server.server.stats().connections <= 20);
    drop(held);
    let until = Instant::now() + Duration::from_secs(20);
    // Those that are not accepted yet come first: who is answered has come after all of them.
    let last = loop {
        let mut wire = server.wire();
        let record = wire.record(NFS, 3, 0, &[]);
        let mark = 0x8000_0000 | record.len() as u32;
        let sent = wire.socket.write_all(&[&mark.to_be_bytes()[..], &record].concat());
        if sent.is_ok() && wire.receive().is_ok() {
            break wire;
        }
        assert!(Instant::now() < until, "{:?}", server.server.stats());
    };
    while server.server.stats().connections > 1 {
        assert!(Instant::now() < until, "{:?}", server.server.stats());
        std::thread::yield_now();
    }
    drop(last);
    let (mut wire, root) = server.mounted();
    wire.getattr(&root);
}

#[test]
fn a_call_in_single_bytes_and_calls_in_one_packet_are_answered() {
    let server = Server::start();
    let mut wire = server.wire();
    let record = wire.record(NFS, 3, 0, &[]);
    let whole = [&(0x8000_0000 | record.len() as u32).to_be_bytes()[..], &record].concat();
    for byte in &whole {
        wire.socket.write_all(&[*byte]).unwrap();
    }
    assert_eq!(wire.reply().xid, wire.xid);
    wire.socket.write_all(&whole.repeat(500)).unwrap();
    for _ in 0..500 {
        assert_eq!(wire.reply().xid, wire.xid);
    }
    let mut fragments = Vec::new();
    for (n, piece) in record.chunks(7).enumerate() {
        let last = if (n + 1) * 7 >= record.len() { 0x8000_0000 } else { 0 };
        fragments.extend((last | piece.len() as u32).to_be_bytes());
        fragments.extend(piece);
    }
    wire.socket.write_all(&fragments).unwrap();
    assert_eq!(wire.reply().xid, wire.xid);
}

/// Errors of RPC itself.
#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    let server = Server::start();
    let mut wire = server.wire();
    let mut ask = |program: u32, version: u32, procedure: u32, args: &[u8]| {
        let record = wire.record(program, version, procedure, args);
        wire.send_record(&record).unwrap();
        let reply = wire.receive().unwrap();
        reply[20..].chunks(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(ask(200_999, 1, 0, &[]), [1], "PROG_UNAVAIL");
    for version in [2, 4, 99] {
        assert_eq!(ask(NFS, version, 0, &[]), [2, 3, 3], "PROG_MISMATCH");
        assert_eq!(ask(MOUNT, version, 0, &[]), [2, 3, 3], "PROG_MISMATCH");
    }
    assert_eq!(ask(NFS, 3, 77, &[]), [3], "PROC_UNAVAIL");
    assert_eq!(ask(MOUNT, 3, 77, &[]), [3], "PROC_UNAVAIL");
    assert_eq!(ask(NFS, 3, 1, &[]), [4], "GARBAGE_ARGS");
    assert_eq!(ask(NFS, 3, 1, &Xdr::new().var(&[0; 65]).0), [4], "a handle that is too long");
}

/// UMNT with and without its slash, of nothing, and UMNTALL; MNT of paths that lead out.
#[test]
fn mount_paths_as_clients_send_them() {
    let server = Server::start();
    let mut wire = server.wire();
    for path in ["/export", "export", "//export/", "/export/."] {
        let status = wire.mount(path).map(|_| ());
        assert_eq!(status.is_ok(), path != "/export/.", "{path}");
    }
    assert_eq!(server.export.mounted_by(), [std::net::IpAddr::from([127, 0, 0, 1])]);
    for path in ["/no/such", "/export/../../etc", "/export/none", "/"] {
        assert_eq!(wire.mount(path), Err(NOENT), "{path}");
    }
    for path in ["export", "/export", "", "/none"] {
        wire.call(MOUNT, 3, Xdr::new().var(path.as_bytes())).end();
    }
    wire.mount("/export").unwrap();
    wire.call(MOUNT, 4, Xdr::new()).end();
    assert_eq!(wire.call(MOUNT, 2, Xdr::new()).u32(), 0, "DUMP is empty");
    assert!(server.export.mounted_by().is_empty());
}
