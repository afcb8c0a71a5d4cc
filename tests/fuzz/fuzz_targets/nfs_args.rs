//! Arguments of every NFS procedure: a good head, a good handle, and then anything.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rekindle_nfs::{ExportSpec, NfsConfig, NfsServer};
use std::sync::OnceLock;
use tokio::runtime::Runtime;

struct World {
    server: NfsServer,
    runtime: Runtime,
    root: Vec<u8>,
    _dir: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut config = NfsConfig::default();
        config.limits.files_per_export = 200;
        let server = NfsServer::open(&dir.path().join("nfs"), config).expect("open");
        let clients = vec!["127.0.0.1".parse().expect("an address")];
        let spec = ExportSpec { name: "export".into(), dir: dir.path().join("export"), clients };
        server.exports().add(spec).expect("export");
        let runtime = Runtime::new().expect("start a runtime");
        let mount = call(100_005, 1, &[&7_u32.to_be_bytes()[..], b"/export\0"].concat());
        let reply = runtime.block_on(rekindle_nfs::testing::answer(&server, &mount));
        let root = reply.expect("mount")[28..28 + 36].to_vec();
        World { server, runtime, root, _dir: dir }
    })
}

fn call(program: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7, 0, 2, program, 3, procedure, 1, 20, 0, 0, 0, 0, 0, 0, 0] {
        out.extend(u32::to_be_bytes(word));
    }
    out.extend(args);
    out
}

fuzz_target!(|input: (u8, &[u8])| {
    let (procedure, args) = input;
    let world = world();
    let args = [&world.root[..], args].concat();
    let record = call(100_003, u32::from(procedure % 23), &args);
    let reply = world.runtime.block_on(rekindle_nfs::testing::answer(&world.server, &record));
    let reply = reply.expect("a good head is always answered");
    assert!(reply.len() >= 24 && reply.len() % 4 == 0 || procedure % 23 == 6, "{}", reply.len());
    assert_eq!(reply[..4], 7_u32.to_be_bytes());
});
