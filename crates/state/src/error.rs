use rocksdb::ErrorKind;

/// What went wrong with a record, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Try again later: the disk failed, or another process holds the database.
    #[error("state database is unavailable: {0}")]
    Unavailable(String),
    /// Never retry: stored bytes are damaged or of another type.
    #[error("state database is corrupt: {0}")]
    Corrupt(String),
    /// Free space, then retry.
    #[error("file system of the state database is full")]
    Full,
    /// Fix the call: a key, value, batch or name outside its bounds.
    #[error("state database refuses: {0}")]
    Refused(String),
}

impl StateError {
    pub(crate) fn io(verb: &str, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full;
        }
        Self::Unavailable(format!("{verb}: {error}"))
    }
}

impl From<rocksdb::Error> for StateError {
    fn from(error: rocksdb::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            ErrorKind::Corruption => Self::Corrupt(text),
            ErrorKind::InvalidArgument | ErrorKind::NotSupported => Self::Refused(text),
            // RocksDB names the cause only in the text, in two spellings.
            _ if text.contains("No space left") || text.contains("NoSpace") => Self::Full,
            _ => Self::Unavailable(text),
        }
    }
}
