use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::Changes;
use crate::{PointManifest, RepoError};

/// The levels of zstd that an ingest takes. Each thread has a compressor of its own, whose tables grow with the level.
pub const COMPRESSION_LEVELS: RangeInclusive<i32> = 1..=19;
/// Fast, and within a few percent of what higher levels save on disks.
pub(super) const DEFAULT_LEVEL: i32 = 1;

/// What is not in the VM's files.
#[derive(Clone, Debug, Default)]
pub struct IngestOptions {
    /// The VM's name, instead of its display name or, for a bare image, the file's name.
    pub name: Option<String>,
    /// Words to find the point by.
    pub tags: Vec<String>,
    /// When the point was taken; now if not said otherwise.
    pub created_at: Option<Timestamp>,
    /// The controller that a bare image is attached to, `lsilogic` if not said otherwise, which most systems
    /// can boot from. Or `pvscsi`, `lsisas1068`, `buslogic`, `ide`, `ahci`, `nvme`.
    pub adapter: Option<String>,
    /// What changed since an older point, whose blocks are taken for the rest; all is read if not said.
    pub changes: Option<Changes>,
    /// How hard new blocks are compressed, from 1 (fast) to 19 (small, and far slower); 1 if not said.
    pub compression_level: Option<i32>,
    /// After how long what an ingest has not finished is taken away, as one's that died: more than any ingest takes.
    /// Three days if not said. In a directory it is at once, as there is one ingest at a time.
    pub abandoned_after: Option<Duration>,
}

impl IngestOptions {
    pub(super) fn validate(&self) -> Result<(), RepoError> {
        match self.compression_level {
            Some(level) if !COMPRESSION_LEVELS.contains(&level) => {
                Err(RepoError::refused(format!("a compression level is 1 to 19, and not {level}")))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// How far an ingest is. All are bytes of disks as the guest sees them, but for `stored`.
#[derive(Debug, Default)]
pub struct IngestProgress {
    total: AtomicU64,
    done: AtomicU64,
    read: AtomicU64,
    zero: AtomicU64,
    unchanged: AtomicU64,
    deduplicated: AtomicU64,
    written: AtomicU64,
    stored: AtomicU64,
}

/// [`IngestProgress`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct IngestCounts {
    /// Bytes of all disks.
    pub total: u64,
    /// Bytes that are dealt with; `total` at the end. The rest of the time left follows from it.
    pub done: u64,
    /// Bytes that were read: `done` without the holes.
    pub read: u64,
    /// Bytes of blocks of zeros, holes among them.
    pub zero: u64,
    /// Bytes that were taken from an older point unread.
    pub unchanged: u64,
    /// Bytes of blocks that the repository had.
    pub deduplicated: u64,
    /// Bytes of new blocks.
    pub written: u64,
    /// Bytes that the new blocks take, compressed.
    pub stored: u64,
}

/// What an ingest did.
#[derive(Clone, Debug)]
pub struct IngestReport {
    /// The new recovery point.
    pub point: PointManifest,
    /// What became of its bytes.
    pub counts: IngestCounts,
}

impl IngestProgress {
    /// Where it stands.
    pub fn counts(&self) -> IngestCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IngestCounts {
            total: load(&self.total),
            done: load(&self.done),
            read: load(&self.read),
            zero: load(&self.zero),
            unchanged: load(&self.unchanged),
            deduplicated: load(&self.deduplicated),
            written: load(&self.written),
            stored: load(&self.stored),
        }
    }

    pub(super) fn start(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn report(&self, point: PointManifest) -> IngestReport {
        IngestReport { point, counts: self.counts() }
    }

    pub(super) fn add_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_zero(&self, bytes: u64) {
        self.zero.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_unchanged(&self, bytes: u64) {
        self.unchanged.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_deduplicated(&self, bytes: u64) {
        self.deduplicated.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_written(&self, plain: u64, stored: u64) {
        self.written.fetch_add(plain, Ordering::Relaxed);
        self.stored.fetch_add(stored, Ordering::Relaxed);
        self.done.fetch_add(plain, Ordering::Relaxed);
    }
}
