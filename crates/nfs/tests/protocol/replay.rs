//! Calls that are sent again, as clients do when no reply came.

use crate::peer::*;

fn send_again(wire: &mut Wire, procedure: u32, args: Xdr) -> u32 {
    wire.xid = wire.xid.wrapping_sub(1);
    wire.nfs(procedure, args).0
}

/// The same call over the same connection, and over a new one after the first was closed, has the first one's answer.
#[test]
fn a_call_sent_again_gets_the_first_reply() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let calls = [
        (8, Xdr::new().var(&root).var(b"g").u32(1).raw(&NOTHING)),
        (9, Xdr::new().var(&root).var(b"d").raw(&NOTHING)),
        (14, Xdr::new().var(&root).var(b"g").var(&root).var(b"h")),
        (12, Xdr::new().var(&root).var(b"h")),
        (13, Xdr::new().var(&root).var(b"d")),
    ];
    for (procedure, args) in calls {
        assert_eq!(wire.nfs(procedure, args.clone()).0, OK);
        assert_eq!(send_again(&mut wire, procedure, args.clone()), OK, "same connection");
        let xid = wire.xid;
        drop(wire);
        wire = server.wire();
        wire.xid = xid;
        assert_eq!(send_again(&mut wire, procedure, args), OK, "new connection");
    }
    assert_eq!(server.server.stats().replayed, 10);
}

/// The credential is part of what a call is: another user's call with the same xid is another call.
#[test]
fn another_users_call_with_the_same_xid_is_not_answered_for_him() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let args = Xdr::new().var(&root).var(b"g").u32(1).raw(&NOTHING);
    assert_eq!(wire.nfs(8, args.clone()).0, OK);
    wire.uid = 1001;
    assert_eq!(send_again(&mut wire, 8, args), EXIST);
}

/// Outcomes survive the server: after a restart the calls that changed names are known by the folder's own records.
#[test]
fn a_call_sent_again_after_a_restart_is_known() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let calls = [
        (8, Xdr::new().var(&root).var(b"g").u32(1).raw(&NOTHING)),
        (9, Xdr::new().var(&root).var(b"d").raw(&NOTHING)),
        (10, Xdr::new().var(&root).var(b"l").raw(&NOTHING).var(b"target")),
        (14, Xdr::new().var(&root).var(b"g").var(&root).var(b"h")),
        (12, Xdr::new().var(&root).var(b"h")),
        (13, Xdr::new().var(&root).var(b"d")),
    ];
    let mut server = server;
    for (procedure, args) in calls {
        assert_eq!(wire.nfs(procedure, args.clone()).0, OK);
        let xid = wire.xid;
        server = server.restart();
        wire = server.wire();
        wire.xid = xid;
        assert_eq!(send_again(&mut wire, procedure, args.clone()), OK, "procedure {procedure}");
        // A call of its own with the same arguments is not mistaken for it.
        let (status, _) = wire.nfs(procedure, args);
        assert_ne!(status, OK, "procedure {procedure} anew");
    }
}

/// A guarded SETATTR that comes again after a restart is known, though its guard does not hold any more.
#[test]
fn a_guarded_setattr_sent_again_after_a_restart_is_known() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, b"12345");
    let (seconds, nanos) = wire.getattr(&file).ctime;
    let size = Xdr::new().u32(0).u32(0).u32(0).u32(1).u64(2).u32(0).u32(0);
    let args = Xdr::new().var(&file).raw(&size.0).u32(1).u32(seconds).u32(nanos);
    assert_eq!(wire.nfs(2, args.clone()).0, OK);
    wire.write(&file, 2, b"more");
    let xid = wire.xid.wrapping_sub(1);
    let server = server.restart();
    let mut wire = server.wire();
    wire.xid = xid;
    assert_eq!(send_again(&mut wire, 2, args.clone()), OK);
    assert_eq!(wire.read(&file, 0, 10).0, b"12more", "it is not done again");
    assert_eq!(wire.nfs(2, args).0, NOT_SYNC, "a call of its own");
}

/// A record of an intent is not believed: what the folder says decides.
#[test]
fn an_intent_whose_change_was_undone_is_done_again() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let remove = Xdr::new().var(&root).var(b"f");
    wire.create(&root, b"f");
    assert_eq!(wire.nfs(12, remove.clone()).0, OK);
    let xid = wire.xid;
    // The name is taken again by another file, which a late REMOVE of the first must not touch: it is replayed.
    let other = wire.create(&root, b"f");
    let server = server.restart();
    let mut wire = server.wire();
    wire.xid = xid;
    assert_eq!(send_again(&mut wire, 12, remove), OK);
    assert_eq!(wire.lookup(&root, b"f"), Ok(other));
}

/// A delayed duplicate of a WRITE does not bring old bytes back.
#[test]
fn a_late_write_does_not_undo_a_later_one() {
    let server = Server::start();
    let (mut wire, root) = server.mounted();
    let file = wire.create(&root, b"f");
    wire.write(&file, 0, b"first");
    let xid = wire.xid;
    wire.write(&file, 2, b"later");
    let mut late = server.wire();
    late.xid = xid.wrapping_sub(1);
    late.write(&file, 0, b"first");
    assert_eq!(wire.read(&file, 0, 20).0, b"filater");
    wire.write(&file, 0, b"anew!");
    assert_eq!(wire.read(&file, 0, 20).0, b"anew!er");
}
