//! A client that sends exactly what a test says, and a server for it.

use rekindle_nfs::{ClientNet, Export, ExportSpec, Exports, NfsConfig, NfsServer, Portmap};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const NFS: u32 = 100_003;
pub const MOUNT: u32 = 100_005;
pub const PORTMAP: u32 = 100_000;

pub const OK: u32 = 0;
pub const NOENT: u32 = 2;
pub const ACCES: u32 = 13;
pub const EXIST: u32 = 17;
pub const NOTDIR: u32 = 20;
pub const ISDIR: u32 = 21;
pub const INVAL: u32 = 22;
pub const FBIG: u32 = 27;
pub const STALE: u32 = 70;
pub const BADHANDLE: u32 = 10_001;
pub const NOT_SYNC: u32 = 10_002;
pub const JUKEBOX: u32 = 10_008;

/// A `sattr3` that sets nothing.
pub const NOTHING: [u8; 24] = [0; 24];

/// XDR, put together.
#[derive(Clone, Default)]
pub struct Xdr(pub Vec<u8>);

impl Xdr {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn u32(mut self, word: u32) -> Self {
        self.0.extend(word.to_be_bytes());
        self
    }

    pub fn u64(mut self, word: u64) -> Self {
        self.0.extend(word.to_be_bytes());
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn var(self, bytes: &[u8]) -> Self {
        let pad = bytes.len().wrapping_neg() % 4;
        self.u32(bytes.len() as u32).raw(bytes).raw(&[0; 3][..pad])
    }
}

/// Connects from an address of the test's choice.
pub fn connect_from(from: SocketAddr, to: SocketAddr) -> io::Result<Wire> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(Wire { socket, xid: 1, uid: 0 })
}

/// A reply, taken apart.
#[derive(Debug)]
pub struct Reply {
    pub xid: u32,
    pub bytes: Vec<u8>,
    pub at: usize,
}

impl Reply {
    pub fn raw(&mut self, len: usize) -> Vec<u8> {
        self.at += len;
        self.bytes[self.at - len..self.at].to_vec()
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.raw(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.raw(8).try_into().unwrap())
    }

    pub fn var(&mut self) -> Vec<u8> {
        let len = self.u32() as usize;
        let bytes = self.raw(len);
        self.raw(len.wrapping_neg() % 4);
        bytes
    }

    /// `post_op_attr`.
    pub fn attributes(&mut self) -> Option<Attributes> {
        (self.u32() == 1).then(|| Attributes::read(self))
    }

    /// `wcc_data`; what comes after.
    pub fn wcc(&mut self) -> Option<Attributes> {
        if self.u32() == 1 {
            self.raw(24);
        }
        self.attributes()
    }

    /// `post_op_fh3`.
    pub fn handle(&mut self) -> Vec<u8> {
        assert_eq!(self.u32(), 1, "no handle");
        self.var()
    }

    pub fn end(&self) {
        assert_eq!(self.at, self.bytes.len(), "bytes left over");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: u32,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub used: u64,
    pub fsid: u64,
    pub fileid: u64,
    pub mtime: (u32, u32),
    pub ctime: (u32, u32),
}

impl Attributes {
    pub fn read(r: &mut Reply) -> Self {
        let (kind, mode, links, uid, gid) = (r.u32(), r.u32(), r.u32(), r.u32(), r.u32());
        let (size, used) = (r.u64(), r.u64());
        r.u64();
        let (fsid, fileid) = (r.u64(), r.u64());
        r.u64();
        let mtime = (r.u32(), r.u32());
        let ctime = (r.u32(), r.u32());
        Self { kind, mode, links, uid, gid, size, used, fsid, fileid, mtime, ctime }
    }
}

/// Keeps a call as seeds of the fuzz targets `nfs_args`, `mount_portmap` and `rpc_record`, in the form that each wants:
/// `REKINDLE_SEEDS=tests/fuzz/seeds cargo test --test protocol`.
fn keep_seeds(seeds: &Path, (program, procedure): (u32, u32), args: &[u8], record: &[u8]) {
    let keep = |target: &str, parts: &[&[u8]]| {
        let dir = seeds.join(target);
        std::fs::create_dir_all(&dir).unwrap();
        let begin = format!("{program}-{procedure}-");
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        let known = names.filter(|name| name.to_string_lossy().starts_with(&begin)).count();
        let seed = parts.concat();
        if known < 3 && seed.len() <= 1024 {
            std::fs::write(dir.join(format!("{begin}{}", args.len())), seed).unwrap();
        }
    };
    match program {
        // The target puts the handle of its own root there.
        NFS if args.starts_with(&32_u32.to_be_bytes()) => {
            keep("nfs_args", &[&[procedure as u8], &args[36..]]);
        }
        MOUNT | PORTMAP => {
            keep("mount_portmap", &[&[u8::from(program == MOUNT), procedure as u8], args]);
        }
        _ => {}
    }
    let mark = 0x8000_0000 | record.len() as u32;
    keep("rpc_record", &[&[16], &mark.to_be_bytes(), record]);
}

/// A connection that calls as root by AUTH_SYS.
pub struct Wire {
    pub socket: TcpStream,
    pub xid: u32,
    pub uid: u32,
}

impl Wire {
    pub fn connect(to: SocketAddr) -> Self {
        let socket = TcpStream::connect(to).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut random = [0; 4];
        getrandom(&mut random);
        Self { socket, xid: u32::from_be_bytes(random), uid: 0 }
    }

    pub fn of_user(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    pub fn record(&self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        let credential = Xdr::new().u32(0).var(b"test").u32(self.uid).u32(self.uid).u32(0);
        Xdr::new()
            .u32(self.xid)
            .u32(0)
            .u32(2)
            .u32(program)
            .u32(version)
            .u32(procedure)
            .u32(1)
            .var(&credential.0)
            .u32(0)
            .u32(0)
            .raw(args)
            .0
    }

    pub fn send_record(&mut self, record: &[u8]) -> io::Result<()> {
        let mark = 0x8000_0000 | record.len() as u32;
        self.socket.write_all(&[&mark.to_be_bytes(), record].concat())
    }

    pub fn send(&mut self, program: u32, procedure: u32, args: Xdr) {
        self.xid = self.xid.wrapping_add(1);
        let version = if program == PORTMAP { 2 } else { 3 };
        let record = self.record(program, version, procedure, &args.0);
        if let Ok(seeds) = std::env::var("REKINDLE_SEEDS") {
            keep_seeds(Path::new(&seeds), (program, procedure), &args.0, &record);
        }
        self.send_record(&record).unwrap();
    }

    /// The next record, whole.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut record = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.socket.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            let from = record.len();
            record.resize(from + (mark & 0x7fff_ffff) as usize, 0);
            self.socket.read_exact(&mut record[from..])?;
            if mark >> 31 == 1 {
                return Ok(record);
            }
        }
    }

    /// The reply to a call that was accepted and succeeded.
    pub fn reply(&mut self) -> Reply {
        let bytes = self.receive().unwrap();
        let mut reply = Reply { xid: 0, bytes, at: 0 };
        reply.xid = reply.u32();
        let head: Vec<u32> = (0..5).map(|_| reply.u32()).collect();
        assert_eq!(head, [1, 0, 0, 0, 0], "accepted and successful");
        reply
    }

    pub fn call(&mut self, program: u32, procedure: u32, args: Xdr) -> Reply {
        self.send(program, procedure, args);
        let reply = self.reply();
        assert_eq!(reply.xid, self.xid);
        reply
    }

    /// An NFS call with its status.
    pub fn nfs(&mut self, procedure: u32, args: Xdr) -> (u32, Reply) {
        let mut reply = self.call(NFS, procedure, args);
        (reply.u32(), reply)
    }

    pub fn ok(&mut self, procedure: u32, args: Xdr) -> Reply {
        let (status, reply) = self.nfs(procedure, args);
        assert_eq!(status, OK, "procedure {procedure}");
        reply
    }

    pub fn mount(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let mut reply = self.call(MOUNT, 1, Xdr::new().var(path.as_bytes()));
        match reply.u32() {
            0 => Ok(reply.var()),
            status => Err(status),
        }
    }

    pub fn getattr(&mut self, handle: &[u8]) -> Attributes {
        Attributes::read(&mut self.ok(1, Xdr::new().var(handle)))
    }

    pub fn lookup(&mut self, dir: &[u8], name: &[u8]) -> Result<Vec<u8>, u32> {
        let (status, mut reply) = self.nfs(3, Xdr::new().var(dir).var(name));
        if status == OK { Ok(reply.var()) } else { Err(status) }
    }

    pub fn create(&mut self, dir: &[u8], name: &[u8]) -> Vec<u8> {
        self.ok(8, Xdr::new().var(dir).var(name).u32(0).raw(&NOTHING)).handle()
    }

    pub fn mkdir(&mut self, dir: &[u8], name: &[u8]) -> Vec<u8> {
        self.ok(9, Xdr::new().var(dir).var(name).raw(&NOTHING)).handle()
    }

    pub fn write(&mut self, file: &[u8], at: u64, data: &[u8]) {
        let args = write_args(file, at, data);
        let mut reply = self.ok(7, args);
        assert!(reply.wcc().is_some(), "WRITE lacks attributes");
        assert_eq!(reply.u32(), data.len() as u32);
        assert_eq!(reply.u32(), 2, "FILE_SYNC");
    }

    pub fn read(&mut self, file: &[u8], at: u64, count: u32) -> (Vec<u8>, bool) {
        let reply = self.ok(6, Xdr::new().var(file).u64(at).u32(count));
        read_reply(reply)
    }

    pub fn remove(&mut self, dir: &[u8], name: &[u8]) -> u32 {
        self.nfs(12, Xdr::new().var(dir).var(name)).0
    }

    pub fn rename(&mut self, from: (&[u8], &[u8]), to: (&[u8], &[u8])) -> u32 {
        self.nfs(14, Xdr::new().var(from.0).var(from.1).var(to.0).var(to.1)).0
    }

    /// All names with their cookies and ids.
    pub fn list(&mut self, dir: &[u8]) -> Vec<(Vec<u8>, u64, u64)> {
        let mut found: Vec<(Vec<u8>, u64, u64)> = Vec::new();
        loop {
            let cookie = found.last().map_or(0, |last| last.1);
            let (page, eof) = self.page(dir, cookie);
            found.extend(page);
            if eof {
                return found;
            }
        }
    }

    pub fn page(&mut self, dir: &[u8], cookie: u64) -> (Vec<(Vec<u8>, u64, u64)>, bool) {
        let args = Xdr::new().var(dir).u64(cookie).u64(0).u32(8192).u32(8192);
        let mut reply = self.ok(17, args);
        assert!(reply.attributes().is_some());
        reply.u64();
        let mut found = Vec::new();
        while reply.u32() == 1 {
            let (id, name, cookie) = (reply.u64(), reply.var(), reply.u64());
            assert_eq!(reply.attributes().unwrap().fileid, id);
            reply.handle();
            found.push((name, cookie, id));
        }
        let eof = reply.u32() == 1;
        reply.end();
        (found, eof)
    }
}

pub fn write_args(file: &[u8], at: u64, data: &[u8]) -> Xdr {
    Xdr::new().var(file).u64(at).u32(data.len() as u32).u32(2).var(data)
}

pub fn read_reply(mut reply: Reply) -> (Vec<u8>, bool) {
    assert!(reply.attributes().is_some(), "READ lacks attributes");
    let count = reply.u32();
    let eof = reply.u32() == 1;
    let data = reply.var();
    assert_eq!(count as usize, data.len());
    reply.end();
    (data, eof)
}

fn getrandom(bytes: &mut [u8]) {
    std::fs::File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
}

/// A server with one export, `/export`, in a runtime and directory of its own.
pub struct Server {
    pub server: NfsServer,
    pub export: Arc<Export>,
    pub nfs: SocketAddr,
    pub portmap: SocketAddr,
    shutdown: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
    pub dir: Arc<TempDir>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), |_| {})
    }

    /// Starts over what is in `dir`, with a changed configuration.
    pub fn start_in(dir: Arc<TempDir>, configure: impl FnOnce(&mut NfsConfig)) -> Self {
        Self::start_with(dir, configure, |_| {})
    }

    /// The same, with something done to the exports before the server listens.
    pub fn start_with(
        dir: Arc<TempDir>,
        configure: impl FnOnce(&mut NfsConfig),
        prepare: impl FnOnce(&Exports),
    ) -> Self {
        let mut config = NfsConfig {
            listen: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            portmap: Portmap::Own,
            portmap_port: 0,
            ..NfsConfig::default()
        };
        configure(&mut config);
        let server = NfsServer::open(&dir.path().join("nfs"), config).unwrap();
        let export = server.exports().add(spec(dir.path())).unwrap();
        prepare(&server.exports());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shutdown = CancellationToken::new();
        let (running, stop) = (server.clone(), shutdown.clone());
        runtime.spawn(async move { running.serve(stop).await.unwrap() });
        let mut bound = server.bound();
        let bound = runtime.block_on(async { *bound.wait_for(Option::is_some).await.unwrap() });
        let bound = bound.unwrap();
        let portmap = bound.portmap.unwrap_or(bound.nfs);
        Self { server, export, nfs: bound.nfs, portmap, shutdown, runtime: Some(runtime), dir }
    }

    pub fn wire(&self) -> Wire {
        Wire::connect(self.nfs)
    }

    /// A connection and the root's handle.
    pub fn mounted(&self) -> (Wire, Vec<u8>) {
        let mut wire = self.wire();
        let root = wire.mount("/export").unwrap();
        (wire, root)
    }

    /// Ends it as a kill would, as far as that goes within one process, and starts it again.
    pub fn restart(self) -> Self {
        let dir = self.dir.clone();
        drop(self);
        Self::start_in(dir, |_| {})
    }
}

pub fn spec(dir: &Path) -> ExportSpec {
    let clients: Vec<ClientNet> = vec!["127.0.0.1".parse().unwrap()];
    ExportSpec { name: "export".into(), dir: dir.join("export"), clients }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}
