//! Calls of MOUNT and of the portmapper, whole records of anything among them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rekindle_nfs::{ExportSpec, NfsConfig, NfsServer};
use std::sync::OnceLock;
use tokio::runtime::Runtime;

fn world() -> &'static (NfsServer, Runtime, tempfile::TempDir) {
    static WORLD: OnceLock<(NfsServer, Runtime, tempfile::TempDir)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("make a directory");
        let server = NfsServer::open(&dir.path().join("nfs"), NfsConfig::default()).expect("open");
        let clients = vec!["127.0.0.1".parse().expect("an address")];
        let spec = ExportSpec { name: "export".into(), dir: dir.path().join("export"), clients };
        server.exports().add(spec).expect("export");
        (server, Runtime::new().expect("start a runtime"), dir)
    })
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (is_mount, procedure, rest) = input;
    let (server, runtime, _) = world();
    let (program, version) = if is_mount { (100_005, 3) } else { (100_000, 2) };
    let mut record = Vec::new();
    for word in [7, 0, 2, program, version, u32::from(procedure % 8), 0, 0, 0, 0] {
        record.extend(u32::to_be_bytes(word));
    }
    record.extend(rest);
    let reply = runtime.block_on(rekindle_nfs::testing::answer(server, &record));
    let reply = reply.expect("a good head is always answered");
    assert!(reply.len() >= 24 && reply.len() % 4 == 0);
    // And without the head.
    let _ = runtime.block_on(rekindle_nfs::testing::answer(server, rest));
});
