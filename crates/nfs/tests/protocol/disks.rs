//! Files that are disks.

use crate::peer::*;
use rekindle_disk::{Base, Disk, DiskId, Disks, DisksConfig, pattern_byte};
use rekindle_state::Database;
use std::path::Path;
use std::sync::Arc;

const SIZE: u64 = 8 << 20;
const SEED: u8 = 3;

/// The handle of a file that is marked as a disk and has none attached: what READs of a stalled disk see.
pub fn marked_without_disk(server: &Server, name: &str) -> Vec<u8> {
    let disks = Kept::open(server.dir.path());
    let disk = disks.disk();
    let id = disk.id().clone();
    server.export.attach_disk(Path::new(name), &id, disk).unwrap();
    server.export.detach_disk(&id);
    let (mut wire, root) = server.mounted();
    wire.lookup(&root, name.as_bytes()).unwrap()
}

/// The overlays of a test.
struct Kept {
    disks: Arc<Disks>,
    id: DiskId,
}

impl Kept {
    fn open(dir: &Path) -> Self {
        let db = Database::open(&dir.join("db")).unwrap();
        let config = DisksConfig { journal_bytes: 4 << 20 };
        let disks = Disks::open(&dir.join("overlay"), &db, config).unwrap();
        Self { disks, id: "vm.disk-0".parse().unwrap() }
    }

    fn disk(&self) -> Arc<Disk> {
        self.disks.create(&self.id, SIZE).unwrap();
        self.disks.attach(&self.id, Base::Pattern { seed: SEED, size: SIZE }).unwrap()
    }
}

fn pattern(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| pattern_byte(SEED, at)).collect()
}

fn attach(server: &Server, kept: &Kept) -> Vec<u8> {
    server.export.attach_disk(Path::new("vm/flat.vmdk"), &kept.id, kept.disk()).unwrap();
    let (mut wire, root) = server.mounted();
    let vm = wire.lookup(&root, b"vm").unwrap();
    wire.lookup(&vm, b"flat.vmdk").unwrap()
}

#[test]
fn a_disk_reads_its_base_and_keeps_its_writes() {
    let server = Server::start();
    server.export.make_dir(Path::new("vm")).unwrap();
    let kept = Kept::open(server.dir.path());
    let disk = attach(&server, &kept);
    let mut wire = server.wire();
    let attributes = wire.getattr(&disk);
    assert_eq!((attributes.size, attributes.mode), (SIZE, 0o600));
    assert_eq!(wire.read(&disk, 1000, 70_000), (pattern(1000..71_000), false));
    assert_eq!(wire.read(&disk, SIZE - 5, 512), (pattern(SIZE - 5..SIZE), true));
    wire.write(&disk, 4000, &[0xaa; 9000]);
    let mut wanted = pattern(0..20_000);
    wanted[4000..13_000].fill(0xaa);
    assert_eq!(wire.read(&disk, 0, 20_000), (wanted, false));
    let after = wire.getattr(&disk);
    assert!((after.mtime, after.ctime) > (attributes.mtime, attributes.ctime), "{after:?}");
    let view = &server.server.exports().list()[0];
    assert_eq!(view.disks, ["vm.disk-0"]);
    assert!(view.read_bytes >= 90_005 && view.write_bytes == 9000);
    assert_eq!(view.sessions.len(), 1);
}

#[test]
fn a_disk_is_found_where_the_client_moved_it_also_after_a_restart() {
    let server = Server::start();
    server.export.make_dir(Path::new("vm")).unwrap();
    let kept = Kept::open(server.dir.path());
    let disk = attach(&server, &kept);
    let (mut wire, root) = server.mounted();
    wire.write(&disk, 0, b"written before the move");
    let vm = wire.lookup(&root, b"vm").unwrap();
    assert_eq!(wire.rename((&vm, b"flat.vmdk"), (&root, b"moved.vmdk")), OK);
    drop(kept);
    let server = server.restart();
    let kept = Kept::open(server.dir.path());
    assert!(server.export.disk_present(&kept.id));
    let mut wire = server.wire();
    assert_eq!(wire.getattr(&disk).size, SIZE, "its size is known before it is attached");
    assert!(server.export.reattach_disk(&kept.id, kept.disk()).unwrap());
    assert_eq!(wire.read(&disk, 0, 23).0, b"written before the move");
    // Attaching is idempotent, and finds the file rather than making another.
    server.export.attach_disk(Path::new("vm/flat.vmdk"), &kept.id, kept.disk()).unwrap();
    assert!(!server.export.has_entries(Path::new("vm")));
}

#[test]
fn a_disk_that_the_client_removed_is_not_there_and_not_made_again() {
    let server = Server::start();
    server.export.make_dir(Path::new("vm")).unwrap();
    let kept = Kept::open(server.dir.path());
    let disk = attach(&server, &kept);
    let (mut wire, root) = server.mounted();
    let vm = wire.lookup(&root, b"vm").unwrap();
    assert_eq!(wire.remove(&vm, b"flat.vmdk"), OK);
    assert!(!server.export.disk_present(&kept.id));
    assert!(!server.export.reattach_disk(&kept.id, kept.disk()).unwrap());
    assert_eq!(wire.nfs(6, Xdr::new().var(&disk).u64(0).u32(1)).0, STALE);
    assert_eq!(
        kept.disks.list(),
        std::slice::from_ref(&kept.id),
        "removing the file does not touch the overlay"
    );
}

/// A held READ is answered as soon as the disk is there: not with the placeholder's bytes before.
#[test]
fn reads_of_a_disk_not_attached_wait_for_it() {
    let server = Server::start();
    server.export.make_dir(Path::new("vm")).unwrap();
    let kept = Kept::open(server.dir.path());
    let disk = attach(&server, &kept);
    server.export.detach_disk(&kept.id);
    let mut wire = server.wire();
    wire.send(NFS, 6, Xdr::new().var(&disk).u64(100).u32(50));
    let read = wire.xid;
    wire.send(NFS, 7, write_args(&disk, 200, b"held"));
    wire.send(NFS, 0, Xdr::new());
    assert_eq!(wire.reply().xid, wire.xid, "NULL overtakes both");
    server.export.reattach_disk(&kept.id, kept.disk()).unwrap();
    for _ in 0..2 {
        let mut reply = wire.reply();
        assert_eq!(reply.u32(), OK);
        if reply.xid == read {
            assert_eq!(read_reply(reply), (pattern(100..150), false));
        }
    }
}

#[test]
fn a_disk_grows_and_does_not_shrink() {
    let server = Server::start();
    server.export.make_dir(Path::new("vm")).unwrap();
    let kept = Kept::open(server.dir.path());
    let disk = attach(&server, &kept);
    let mut wire = server.wire();
    let size =
        |size: u64| Xdr::new().var(&disk).u32(0).u32(0).u32(0).u32(1).u64(size).u64(0).u32(0);
    assert_eq!(wire.nfs(2, size(SIZE / 2)).0, INVAL);
    assert_eq!(wire.nfs(2, size(SIZE * 2)).0, OK);
    assert_eq!(wire.getattr(&disk).size, SIZE * 2);
    assert_eq!(wire.read(&disk, SIZE * 2 - 9, 100), (vec![0; 9], true));
    // Longer than any disk can be: said so, not held.
    assert_eq!(wire.nfs(2, size(1 << 59)).0, FBIG);
    assert_eq!(wire.nfs(7, write_args(&disk, 1 << 59, b"far")).0, FBIG);
    assert_eq!(wire.getattr(&disk).size, SIZE * 2);
}
