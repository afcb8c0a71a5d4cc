//! NFSv3, MOUNT and portmap server.
//!
//! # Layout
//!
//! ```text
//! server    sockets, a thread a core, one task a connection, replies batched        server/
//! record    calls cut out of a stream            rpc, wire   call heads, XDR in place
//! service   which program; portmap, mount, nfs/ (what calls look like)      drc/ (calls that come again)
//! exports   by name and id       export/ (what calls mean: nodes, names, attributes, files, disks)
//! store     the handle key and the counter of file ids             handle    what clients hold
//! ```
//!
//! An export is a real directory. What its files are to clients is kept on their inodes (`export/identity.rs`), so the
//! directory is all there is to keep. Some files are disks: their bytes are `rekindle_disk`'s.
//!
//! # Invariants
//!
//! 1. What is answered is on stable storage: WRITEs are FILE_SYNC whatever was asked, names and attributes are synced.
//! 2. A file id is never given out twice; it and the handle made of it hold over restarts.
//! 3. A handle names one file of one export or nothing: it cannot be made up, and that of a removed file is stale.
//! 4. Every call of every program is checked against the addresses of its export; closed by default.
//! 5. GETATTR, LOOKUP, ACCESS, READDIR, FSSTAT, FSINFO and PATHCONF are answered from memory by the task that read them.
//! 6. A call that must not be done twice is done once, whatever becomes of its connection, and its outcome survives a
//!    kill (`export/intents.rs`).
//! 7. A late duplicate of a WRITE does not undo a later one.
//! 8. Nothing on disk leads out of an export: whatever clients make there is a regular file or a folder.
//!
//! # Locking
//!
//! See [`Export`]: changes of names take one lock per export on a thread that may block; everything else takes locks for
//! moments. No lock is held across an await.
//!
//! # Crash
//!
//! See `export/create.rs`. After a crash a scan rebuilds the table of nodes from the directory.
//!
//! # Cancellation
//!
//! A connection that ends drops its READs and WRITEs that wait; they were not answered. Changes of names go on.
//!
//! # Bounds
//!
//! [`Limits`] names them; `server/connection.rs` and `server/clients.rs` keep them. `server/spin.rs` bounds how long a
//! thread looks for a next call.

mod clients;
mod config;
mod drc;
mod error;
mod export;
mod exports;
mod handle;
mod mount;
mod nfs;
mod portmap;
mod record;
mod rpc;
mod server;
mod service;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use clients::{ClientNet, ParseClientError};
pub use config::{HeldReadAnswer, Limits, NfsConfig, Portmap};
pub use error::NfsError;
pub use export::{
    DiskLatencyView, Export, ExportView, LATENCY_BOUNDS_MICROS, LatencyView, SessionView, Space,
    SpaceProvider,
};
pub use exports::{ExportSpec, Exports};
pub use server::{Bound, NfsServer, ServerStats};
