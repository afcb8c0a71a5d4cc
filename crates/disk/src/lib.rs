//! A virtual disk: recovery point underneath, the guest's writes on top.
//!
//! # Layout
//!
//! ```text
//! dir/ (0700)  journal-0 … journal-3    segments, written in turn: batches of all disks' writes
//!              <disk>/data              sparse; the disk's own offsets; the guest's bytes
//!              .<number>/data           the same of what lies over a frozen layer
//! state        disk-overlays            name    -> number, size, the layer below
//!              disk-layers              number  -> size, folder, the layer below: frozen
//!              disk-grains              overlay -> who owns each grain, 2 bits each
//!              disk-journal             where the live batches begin, and the lives they are of
//!
//! grain (4 KiB)   base ──────────► data ◄─────► zero        never back to base
//! read            recovery point   data file    nothing
//! ```
//!
//! A freeze makes a layer of a disk's overlay, which never changes again, and puts an empty overlay over it. To that one the
//! layer, and what it lies over, is the base. Other disks may be put over the layer: forks. A layer that only one other lies
//! over is merged into that one, in the background, so that a disk can be frozen for ever.
//!
//! # Invariants
//!
//! 1. A write that returned `Ok` survives a power cut; one that did not is there as a whole or not
//!    at all (up to [`Disk::write_max`] bytes).
//! 2. A read that begins after a write returned sees it.
//! 3. Overlapping writes have one order: in the journal, in the data file, after a replay.
//! 4. A grain is the overlay's only once all its bytes are: what a guest wrote in part was laid over
//!    the recovery point's bytes first. Zeros written differ from never written.
//! 5. The recovery point is never written to.
//! 6. After a failed write or sync of the journal no write is acknowledged until the next open.
//! 7. A full file system refuses the write that finds it so, and no other.
//! 8. A freeze is of one moment over all the disks that it names: of what was answered before it began all is in the
//!    layers, of what began after it ended nothing. What a layer and those below it have never changes; it goes with the last
//!    disk that lies over it, and who holds it reads on.
//!
//! # Locking
//!
//! Reads take one for a moment, to see what is answered and not in place yet. A write meets its disk's gate, the queue, and nothing else: partial grains need
//! no lock, because the base never changes and the committer decides, in the journal's order, whether
//! a fill still counts. Committers put batches together one at a time and apply them in turn. No
//! lock is held across an await, and none but the committers' own across a system call.
//!
//! # Crash
//!
//! The crash order is two numbered lists at the top of `journal.rs`, one for freezing in
//! `disks/freeze.rs` and one for merging layers in `disks/merge.rs`.
//!
//! # Cancellation
//!
//! A read may be dropped at any time. A write that is dropped may still happen, as a whole.
//!
//! # Bounds
//!
//! [`DISK_MAX`], [`READ_MAX`], [`LAYERS_MAX`], [`TOUCHES_MAX`], [`DisksConfig::journal_bytes`]; 64 MiB of writes under way
//! (`journal/queue.rs`), two batches of 6 MiB; two windows of at most 8 MiB read ahead for each of 8
//! streams a disk (`streams.rs`), all of them within the cache's bounds; per disk 64 KiB, and 512 bytes for each 8 MiB in which
//! the guest wrote, since the disk was frozen and in each layer. Read-ahead: 8 streams a disk, two windows of 8 MiB each at most (`streams.rs`); the
//! cache bounds what is under way for all.

mod ahead;
mod base;
mod changes;
mod disk;
mod disks;
mod error;
mod file;
mod gate;
mod grain;
mod id;
mod journal;
mod layer;
mod overlay;
mod records;
mod segments;
mod streams;
mod touches;

pub use base::Base;
#[cfg(feature = "testing")]
pub use base::pattern_byte;
pub use changes::ChangeTracker;
pub use disk::{Disk, READ_MAX, Written};
pub use disks::{Disks, DisksConfig};
pub use error::{Cause, DiskError};
pub use file::Space;
#[cfg(feature = "testing")]
pub use file::{FailedCommit, Faults, FaultyStorage, WriteBacks};
pub use gate::WriteHold;
pub use grain::DISK_MAX;
pub use id::{DiskId, ID_MAX};
pub use journal::JournalStats;
pub use layer::{LAYERS_MAX, Layer};
pub use records::KEYSPACES;
pub use rekindle_cache::Priority;
pub use segments::{Segments, concat};
pub use touches::{Recording, TOUCHES_MAX, Touch};
