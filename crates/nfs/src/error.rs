//! What can go wrong for the one who runs the server. Clients get NFS statuses instead.

use std::io;
use std::net::SocketAddr;

/// A failure of the server or of a call that manages exports, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum NfsError {
    /// Free the address or configure another.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was to be listened on.
        address: SocketAddr,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The local file system failed; retry when it works again.
    #[error("failed to {what}")]
    Io {
        /// What was tried: a verb and its object.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Never retry: what was stored cannot be trusted.
    #[error("{0} is damaged")]
    Corrupt(String),
    /// Free space, then retry.
    #[error("no space left to {0}")]
    Full(String),
    /// Fix the call: there is no such thing.
    #[error("{0} is not there")]
    NotFound(String),
    /// Fix the call.
    #[error("refused: {0}")]
    Refused(String),
}

impl NfsError {
    /// Wraps an I/O error with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let what = what.into();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(what),
                _ => Self::Io { what, source },
            }
        }
    }

    /// The same for rustix's error numbers.
    pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::io(what)(errno.into())
    }
}
