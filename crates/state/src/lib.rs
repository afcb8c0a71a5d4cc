//! Small durable records: typed keyspaces in one database.
//!
//! # Layout
//!
//! ```text
//! dir/ (0700)                 one RocksDB; LOCK keeps a second process out
//!   column family "jobs"      Keyspace<V>:   key bytes -> V as JSON
//!   column family "grains"    BytesKeyspace: key bytes -> raw bytes
//! ```
//!
//! # Invariants
//!
//! 1. When a write returns `Ok`, a power cut cannot lose it: every write syncs the log.
//! 2. A [`Batch`] is there as a whole or not at all, across keyspaces.
//! 3. A value that does not read back as its type is [`StateError::Corrupt`], never a default.
//!
//! # Locking
//!
//! RocksDB's own. All handles are cheap clones of one `Arc` and may be used from any thread. Calls
//! block for a sync (about 0.3 ms): on async paths they belong in `spawn_blocking`.
//!
//! # Crash
//!
//! A log that ends in a torn record is cut there: that record was never acknowledged. Damage before
//! the end of the log makes [`Database::open`] fail with [`StateError::Corrupt`].
//!
//! # Cancellation
//!
//! Nothing here awaits, so nothing is cancelled half-way.
//!
//! # Bounds
//!
//! [`KEY_MAX`], [`VALUE_MAX`], [`BATCH_MAX`], [`SCAN_MAX`], [`KEYSPACES_MAX`]; RocksDB's memory and
//! files are bounded in `database.rs`.

mod backup;
mod backups;
mod batch;
mod database;
mod error;
mod keyspace;

pub use backup::{Backup, BackupHead};
pub use backups::{BackupError, BackupFile, Backups, BackupsConfig};
pub use batch::Batch;
pub use database::Database;
pub use error::StateError;
pub use keyspace::{BytesKeyspace, Entry, Keyspace};

/// Longest key, in bytes.
pub const KEY_MAX: usize = 1 << 10;
/// Longest value as stored (JSON or raw), in bytes.
pub const VALUE_MAX: usize = 16 << 20;
/// Most bytes of keys and values in one [`Batch`]: RocksDB holds them in memory twice.
pub const BATCH_MAX: usize = 64 << 20;
/// Most stored bytes that one `scan` collects. What may be larger is read with `visit`.
pub const SCAN_MAX: usize = 256 << 20;
/// Most keyspaces in a database: each may hold two write buffers of 1 MiB.
pub const KEYSPACES_MAX: usize = 64;
