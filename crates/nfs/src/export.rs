//! An export: a real directory, and what its files are to NFS clients.
//!
//! The table of nodes in memory is what clients see. It is built by a scan and changed together with the real
//! directory, which nobody else may change meanwhile.
//!
//! # Locking
//!
//! `names` is held, on a thread that may block, for the whole of a change of names or attributes. All other locks
//! are held for moments and never across a system call: entries of a folder, then the table, then a node's meta.
//! Reading calls take only these and so never wait for a disk.

pub(crate) mod access;
pub(crate) mod cookie;
mod create;
pub(crate) mod data;
pub(crate) mod disks;
mod group_sync;
mod identity;
mod intents;
mod latency;
mod local;
mod lookup;
pub(crate) mod node;
mod open;
mod open_files;
mod remove;
mod rename;
mod scan;
mod setattr;
pub(crate) mod space;
pub(crate) mod stats;
mod view;
mod write_queue;

pub(crate) use create::{Creation, New};
pub(crate) use intents::CallKey;
pub use latency::{DiskLatencyView, LATENCY_BOUNDS_MICROS, LatencyView};
pub(crate) use lookup::LONGEST_NAME;
pub(crate) use open_files::OpenFiles;
pub(crate) use setattr::Changes;
pub(crate) use space::SpaceView;
pub use space::{Space, SpaceProvider};
pub(crate) use stats::{Session, Stats};
pub use view::{ExportView, SessionView};

use crate::clients::ClientNet;
use crate::handle::HandleKey;
use crate::store::Store;
use cookie::CookieKey;
use group_sync::GroupSync;
use intents::Intents;
use node::Node;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// An NFSv3 status: what a call failed with.
pub(crate) type Status = nfsserve::nfs::nfsstat3;

/// The folder in which new files get their attributes before they get their name. Hidden from clients.
const STAGING: &str = ".rekindle-staging";

/// What all exports share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    /// Names this server in the identities of files.
    pub(crate) store_id: u64,
    pub(crate) instance: u32,
    pub(crate) handles: HandleKey,
    pub(crate) cookies: CookieKey,
    pub(crate) open_files: OpenFiles,
    pub(crate) files_per_export: usize,
    pub(crate) space: RwLock<Option<SpaceProvider>>,
}

/// A directory that is served.
pub struct Export {
    name: String,
    path: String,
    dir: PathBuf,
    id: u64,
    root_dir: OwnedFd,
    root: Arc<Node>,
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
    /// The files that are disks, by the disk's id.
    disks: Mutex<HashMap<String, u64>>,
    names: Mutex<Intents>,
    sync: GroupSync,
    clients: RwLock<Vec<ClientNet>>,
    mounts: Mutex<HashMap<IpAddr, Instant>>,
    sessions: RwLock<HashMap<IpAddr, Arc<Session>>>,
    space: Mutex<SpaceView>,
    removed: AtomicBool,
    pub(crate) stats: Stats,
    shared: Arc<Shared>,
}

impl Export {
    /// The export's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What clients mount: a slash and the name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The real directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What tells it from all other exports, ever; in handles and as `fsid`.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    pub(crate) fn node(&self, id: u64) -> Option<Arc<Node>> {
        self.nodes.read().get(&id).cloned()
    }

    /// Whether this address may use the export.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        self.clients.read().iter().any(|net| net.contains(client))
    }

    pub(crate) fn set_clients(&self, clients: Vec<ClientNet>) {
        *self.clients.write() = clients;
    }

    pub(crate) fn clients(&self) -> Vec<ClientNet> {
        self.clients.read().clone()
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("name", &self.name).field("id", &self.id).finish()
    }
}

/// The status for a failure of the local file system.
pub(crate) fn status(e: &io::Error) -> Status {
    use nfsserve::nfs::nfsstat3::*;
    use rustix::io::Errno;
    match Errno::from_io_error(e) {
        Some(Errno::NOSPC) => NFS3ERR_NOSPC,
        Some(Errno::DQUOT) => NFS3ERR_DQUOT,
        Some(Errno::FBIG | Errno::OVERFLOW) => NFS3ERR_FBIG,
        Some(Errno::ROFS) => NFS3ERR_ROFS,
        Some(Errno::NAMETOOLONG) => NFS3ERR_NAMETOOLONG,
        Some(Errno::MLINK) => NFS3ERR_MLINK,
        Some(Errno::EXIST) => NFS3ERR_EXIST,
        Some(Errno::NOTEMPTY) => NFS3ERR_NOTEMPTY,
        Some(Errno::INVAL) => NFS3ERR_INVAL,
        // The table says it is there and the disk says it is not, or the disk is bad.
        _ => NFS3ERR_IO,
    }
}

pub(crate) fn errno_status(e: rustix::io::Errno) -> Status {
    status(&e.into())
}
