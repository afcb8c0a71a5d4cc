//! Recovery points: the repository's format, read and ingest.
//!
//! # Layout
//!
//! ```text
//! repository.json                  version, id, block size, encryption
//! keys/<key>.json                  if it is sealed: the data key, wrapped by a passkey
//! points/<vm>/<point>.json         manifest: .vmx, nvram, disks; carries the checksum of its own body
//! maps/<map>.map                   a disk: block number to place in a pack
//! packs/<2 digits>/<pack>.pack     blocks
//! condemned/<time>-<n>.json        what a prune takes away later
//! checks/<time>-<n>.json           what checks found of each point
//! tmp/                             objects that are being written; no reader looks here
//! lock                             whoever writes holds a lock on it
//! ```
//!
//! A map is a tree of three levels whose root is at the end. Nothing of it is in the manifest but the root's
//! hash, and each entry vouches for what is below it, so that a page that is damaged, or another page put in
//! its place, is found by whoever reads it. A page without any stored block is absent.
//!
//! ```text
//! map:    "rekindle map v1\n" | leaf | leaf | directory | leaf | directory | root
//! root:   header 64 | entry for each directory     at 256 KiB blocks a directory is 64 GiB of disk
//! directory:          entry for each of 512 leaves                          a leaf is 128 MiB of disk
//! leaf:               entry for each of 512 blocks
//! entry:  root and directory   hash 32 | offset 8 | length 4 | zero 4
//!         leaf                 hash 32 | pack 8 | offset 4 | codec 1, stored length 3
//! ```
//!
//! A pack holds about 64 MiB of blocks in the order of their disk, each compressed by itself or stored as it is,
//! so that any block is one ranged read. Its index is at the end: with it the pack is checked, and the next
//! ingest knows what need not be written again.
//!
//! ```text
//! pack:   "RKPACK01" pack 8 | block | block | ... | index | tail
//! index:  for each block    hash 32 | offset 4 | codec 1, stored length 3 | plain length 4 | zero 4
//! tail:   "RKPKEND1" pack 8 | entries 8 | zero 8 | hash of the index 32
//! ```
//!
//! All numbers are little-endian; all hashes are BLAKE3. In a sealed repository blocks, pages, roots, pack indices and
//! manifests lie in the same shapes, each 28 bytes longer than what it seals (`seal` says how, and under which key), and the
//! folder of a VM has a name that tells nothing. Hashes in entries are of plain bytes; that of a pack's index, which
//! is not sealed, is of the index as it is stored.
//!
//! A repository may also be a place of images (`images`): VMs that lie there as others left them. It has none of these
//! objects, and nothing is written to it.
//!
//! In front of a bucket a directory may have a hot copy of some of its objects (`tier/hot.rs`), which reads prefer and
//! nobody relies on.
//!
//! # Invariants
//!
//! 1. Objects are written once and never changed. In a directory: created in `tmp/`, synced, renamed without
//!    replacing, the directory synced. On S3: a PUT or the completion of an upload, with `If-None-Match: *`. Passkeys
//!    are objects of their own, so that adding and removing one creates and deletes one and `repository.json` stays
//!    as it was made.
//! 2. A point is visible when its manifest is, and its manifest is written last.
//! 3. No byte leaves this crate unchecked: blocks are [`rekindle_block::Block`]s, pages match the hash above them,
//!    manifests their own checksum. Of images only what their formats check is checked, and that no file has changed.
//! 4. Sizes are checked against their bounds before memory is taken.
//! 5. A damaged object is an error for what needs it, and hides nothing else.
//! 6. Without a passkey, a sealed repository tells how many VMs, points, packs and blocks it has, when they were written
//!    and how long they are; nothing else.
//!
//! # Locking
//!
//! Readers take no lock on the repository. One writer at a time holds `lock` of a directory; on S3 several may write,
//! as names are random and nothing is replaced. In memory, a disk's pages are behind
//! a read-write lock that is held to copy 48 bytes or to put a page in, never across I/O.
//!
//! # Crash
//!
//! A writer that dies leaves files in `tmp/`, which the next one deletes, and packs and maps that nothing refers
//! to; on S3 it leaves parts of uploads, which an ingest or a prune takes away when the grace time is over. Whole packs among them are found by the next ingest and used; else both go with
//! the next prune. `prune` tells its own steps.
//!
//! # Cancellation
//!
//! Dropping a read's future is safe: its file I/O ends by itself. An ingest or a check looks at its flag every
//! 2 MiB.
//!
//! # Bounds
//!
//! Disks of 64 TiB, manifests of 16 MiB, 256 disks a point. A map's root takes at most 3 MiB (48 KiB at 256 KiB
//! blocks) and its pages 4.9 MiB. 64 packs are held open.
//! Of a map beyond the network 1 MiB more is held, or a file of 1 GiB (`map/copy.rs`), by who walks through all of it 32 MiB;
//! neighbouring blocks are read up to 4 MiB at once, 16 times (`run.rs`). An ingest takes 243 MB for the table of known blocks
//! and at most 4 MiB a core, 68 MiB in all, for data; one from a list of changes 16 MiB a disk
//! for the list, and a page of each level of the older point's map.
mod attached;
mod check;
mod codec;
mod envelope;
mod error;
mod id;
mod images;
mod ingest;
mod manifest;
mod map;
mod pace;
mod pack;
mod prune;
mod repository;
mod run;
mod seal;
mod store;
mod tier;

pub use attached::{Attached, Attachment, Reach};
pub use check::{
    Badge, CheckDepth, CheckOptions, CheckProgress, CheckReport, CheckScope, Problem, check,
    checkable,
};
pub use error::RepoError;
pub use id::{MapId, ParseIdError, PointId, VmId};
pub use ingest::{
    COMPRESSION_LEVELS, Changes, IngestCounts, IngestOptions, IngestProgress, IngestReport,
    MAX_CHANGES_BYTES, Machine, MachineDisk, Successor, SuccessorDisk, ingest, ingest_machine,
    ingest_successor,
};
pub use manifest::{
    DiskManifest, MAX_DISK_BYTES, MAX_DISKS, MAX_MANIFEST_BYTES, MAX_NVRAM_BYTES, PointManifest,
    VmIdentity,
};
pub use map::read::DiskMap;
pub use map::{BlockRef, MapEntry};
pub use prune::{
    KeptBy, PruneCounts, PruneOptions, PruneProgress, PruneReport, Retention, Verdict, prunable,
    prune,
};
pub use rekindle_image::Stream;
pub use repository::{CondemnedPoint, CreateOptions, DamagedPoint, PointListing, Repository};
pub use run::{BlockRun, RUN_BYTES};
pub use seal::{Passkey, PasskeyInfo};
pub use store::{Location, Near, S3Credentials, S3Location, S3Stats};
pub use tier::{
    Estimate, HotLimits, HotReport, KeepThawed, Kept, MoveReport, Readiness, Retrieval,
    ThawOptions, Tier, copy_hot, copy_newest_hot, drop_hot, has_cold_packs, hot_points, move_point,
    readiness, thaw,
};
