//! Calls that were good and are changed a little: each is answered or its connection closed, and the server lives.

use crate::peer::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::time::Duration;

/// One good call of each procedure of each program.
fn good_calls(wire: &Wire, root: &[u8], file: &[u8]) -> Vec<Vec<u8>> {
    let dir = |name: &[u8]| Xdr::new().var(root).var(name);
    let nfs = [
        (0, Xdr::new()),
        (1, Xdr::new().var(file)),
        (2, Xdr::new().var(file).raw(&NOTHING).u32(0)),
        (3, dir(b"f")),
        (4, Xdr::new().var(file).u32(0x3f)),
        (5, Xdr::new().var(file)),
        (6, Xdr::new().var(file).u64(0).u32(512)),
        (7, write_args(file, 0, b"some data")),
        (8, dir(b"new").u32(0).raw(&NOTHING)),
        (8, dir(b"new").u32(2).raw(b"verifier")),
        (9, dir(b"folder").raw(&NOTHING)),
        (10, dir(b"link").raw(&NOTHING).var(b"target")),
        (11, dir(b"node").u32(4).raw(&NOTHING).u64(1)),
        (12, dir(b"new")),
        (13, dir(b"folder")),
        (14, dir(b"link").var(root).var(b"moved")),
        (15, Xdr::new().var(file).var(root).var(b"linked")),
        (16, Xdr::new().var(root).u64(0).u64(0).u32(4096)),
        (17, Xdr::new().var(root).u64(0).u64(0).u32(4096).u32(4096)),
        (18, Xdr::new().var(root)),
        (19, Xdr::new().var(root)),
        (20, Xdr::new().var(root)),
        (21, Xdr::new().var(file).u64(0).u32(0)),
    ];
    let mut calls: Vec<Vec<u8>> =
        nfs.iter().map(|(procedure, args)| wire.record(NFS, 3, *procedure, &args.0)).collect();
    for procedure in 0..6 {
        calls.push(wire.record(MOUNT, 3, procedure, &Xdr::new().var(b"/export").0));
    }
    for procedure in 0..5 {
        calls.push(wire.record(PORTMAP, 2, procedure, &Xdr::new().u64(7).u64(8).0));
    }
    calls
}

/// A change of a record: bytes replaced, a word made extreme, the end cut off or more put there.
#[derive(Clone, Debug)]
enum Mutation {
    Byte(usize, u8),
    Word(usize, u32),
    Cut(usize),
    More(Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let extreme = prop_oneof![Just(0), Just(1), Just(0x7fff_ffff), Just(u32::MAX), any::<u32>()];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        (any::<usize>(), extreme).prop_map(|(at, word)| Mutation::Word(at, word)),
        any::<usize>().prop_map(Mutation::Cut),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Mutation::More),
    ]
}

fn apply(mut record: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let len = record.len().max(1);
        match mutation {
            Mutation::Byte(at, byte) => {
                if let Some(found) = record.get_mut(at % len) {
                    *found = *byte;
                }
            }
            Mutation::Word(at, word) => {
                let at = at % len / 4 * 4;
                if let Some(found) = record.get_mut(at..at + 4) {
                    found.copy_from_slice(&word.to_be_bytes());
                }
            }
            Mutation::Cut(at) => record.truncate(at % len),
            Mutation::More(bytes) => record.extend(bytes),
        }
    }
    record
}

#[test]
fn changed_calls_are_answered_or_refused_and_the_server_lives() {
    let server = Server::start();
    let (mut good, root) = server.mounted();
    let file = good.create(&root, b"f");
    let calls = good_calls(&good, &root, &file);
    let mut runner = TestRunner::new(Config { cases: 3000, ..Config::default() });
    let which = (0..calls.len(), prop::collection::vec(mutation(), 1..4));
    let bad = std::cell::RefCell::new(server.wire());
    runner
        .run(&which, |(which, mutations)| {
            let mut bad = bad.borrow_mut();
            let record = apply(calls[which].clone(), &mutations);
            let sent = bad.send_record(&record);
            if sent.is_err() || bad.receive().is_err() {
                *bad = server.wire();
            }
            Ok::<(), TestCaseError>(())
        })
        .unwrap();
    let mut wire = server.wire();
    wire.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(wire.mount("/export"), Ok(root));
}
