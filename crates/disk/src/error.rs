use std::error::Error;
use std::io;
use std::sync::Arc;

use rekindle_state::StateError;

/// What lies behind an error; shared, because one failed batch fails many writers.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// What went wrong on a disk, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskError {
    /// Try the same call again later: the repository or the overlay's device did not answer.
    #[error("{verb}: unavailable")]
    Unavailable {
        /// What was being done.
        verb: &'static str,
        /// Why it did not work.
        #[source]
        source: Cause,
    },
    /// Never retry, raise an alarm: stored bytes do not match their checksum or make no sense.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Free space on the overlay's file system, then retry. Nothing was changed.
    #[error("overlay file system is full")]
    Full,
    /// Fix the call.
    #[error("range {start}+{len} is outside a disk of {size} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes in the disk.
        size: u64,
    },
    /// A person must look: the overlay's device failed a write or a sync, and no further write of
    /// any disk is acknowledged until the process restarts. Reads go on, but of disks whose data
    /// file's sync failed: what the page cache has of them may not be what was written.
    #[error("writes have stopped until restart")]
    Stopped(#[source] Cause),
    /// The disk was discarded, or never created.
    #[error("disk is gone")]
    Gone,
    /// Fix the call.
    #[error("refused: {0}")]
    Refused(String),
}

impl DiskError {
    pub(crate) fn io(verb: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full,
            io::ErrorKind::FileTooLarge => Self::Refused(format!("{verb}: {error}")),
            _ => Self::Unavailable { verb, source: Arc::new(error) },
        }
    }
}

impl From<StateError> for DiskError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Full => Self::Full,
            StateError::Corrupt(text) => Self::Corrupt(format!("state database: {text}")),
            StateError::Unavailable(_) | StateError::Refused(_) => {
                Self::Unavailable { verb: "keep overlay records", source: Arc::new(error) }
            }
        }
    }
}
