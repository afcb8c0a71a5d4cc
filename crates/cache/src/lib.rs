//! Blocks at hand: RAM and ring, with one shared fetch for all who wait.
//!
//! # Layout
//!
//! ```text
//! peek ──► RAM ──► ring, if its pages are in the page cache              never waits
//! get  ──► RAM ──► flight { ring, else fetch } shared by all who ask     waits
//!
//! root_dir/  lock                    one process owns the directory
//!            ring-<id>.seg           segments, of two circles: in each the highest id is the head, the lowest goes first
//!
//! ring-<id>.seg   ┌────────┬────────┬────────┬────────┬───┬────────┐
//!                 │ record │ record │ record │ record │   │ footer │   the head has no footer yet
//!                 └────────┴────────┴────────┴────────┴───┴────────┘
//! record          ┌────────────────────────────────┬─────────────────────┐
//! (4 KiB pages)   │ header: name, length, sums     │ data, zero-padded   │
//!                 └────────────────────────────────┴─────────────────────┘
//! sums            one CRC-32C per 4 KiB of data, over name ‖ page number ‖ data; those of blocks that
//!                 are read stay in memory, so that a read of 4 KiB is one system call
//! footer          name, place and length of every record, so that a restart reads one page per
//!                 segment; without it (after a kill) headers are read instead
//! ```
//!
//! # Invariants
//!
//! 1. No byte leaves unchecked: a RAM block was hashed when it came in; each 4 KiB page that leaves
//!    the ring matches its sum, which also holds the block's name and the page's place in it. A whole block from the
//!    ring is hashed again, but one that is called by its place: its sums are all it has.
//! 2. A bad ring slot is a miss and a counter ([`CacheStats::bad_slots`]), never an error.
//! 3. Min-free wins: the ring takes no byte that would leave less than `min_free_percent` of its file
//!    system free, and gives segments back when others take the space. `max_bytes` holds likewise.
//! 4. One fetch for all who wait for a block, and its failure is not remembered.
//! 5. What [`Priority::Scan`] brings in fills the ring, not RAM; what [`Priority::Ahead`] and
//!    [`Priority::Profile`] do pushes nothing out of RAM. None of it counts as used. At pruning, used blocks go round again and unused ones go.
//!    What a guest missed goes round a small circle first, a tenth of the ring, and to the large one if it was used there or is
//!    missed again soon after: S3-FIFO by whole segments (`tests/all/policies.rs` compares).
//! 6. Deleting `root_dir` loses speed and nothing else.
//! 7. Repositories are read in turn (`schedule.rs`): guests, read-ahead, boot profiles, scans, movers. A
//!    quarter of the places is guests' own, read-ahead has another at most; a read that a guest comes to wait for goes with the
//!    guests. Nobody waits for ever for those before it: after seven turns of others the next is its own.
//! 8. With a key no byte of a block and none of its name is in a segment's file (`ring/seal.rs`).
//!
//! # Locking
//!
//! One thread owns the segments; others send it orders and read the index, which is 64 maps each
//! behind a read-write lock held for one look-up. No lock is held across an await or a system call.
//!
//! # Crash
//!
//! Nothing is synced: after a power cut a page holds what its sum says or is a miss. Segment files
//! are written once and never rewritten, so a reader of a pruned one sees old bytes or none.
//!
//! # Cancellation
//!
//! [`Cache::get`] may be dropped at any time: its fetch runs on in a task of its own for the others
//! who wait, and its block is kept. A fetch that has not begun is given up with its caller, unless a guest's read it is, or
//! waits for it; others who wait for it then ask for themselves.
//!
//! # Bounds
//!
//! RAM: `ram_bytes`, and named constants for the index, the queue to the ring, the fetches under way
//! and the buffers at rest: see `ring.rs`, `ring/index.rs`, `cache.rs` and `buffer.rs`.

mod buffer;
mod cache;
mod config;
mod flight;
mod ram;
mod ring;
mod schedule;
mod stats;
mod steering;

pub use cache::{Cache, Priority};
pub use config::{CacheConfig, CacheError};
pub use ring::RingKey;
pub use stats::CacheStats;
