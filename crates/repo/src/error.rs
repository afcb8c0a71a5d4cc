use std::io;

use nix::errno::Errno;

/// What went wrong with a repository, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// Try again later: the repository did not answer, or somebody else is writing to it.
    #[error("cannot {what} now")]
    Unavailable {
        /// What was tried, as a present-tense verb.
        what: String,
        /// Why it did not work.
        #[source]
        source: anyhow::Error,
    },
    /// Never retry: stored bytes are not what was written. An alarm.
    #[error("{what} is corrupt: {detail}")]
    Corrupt {
        /// Which object.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Thaw it, then retry: the object is in an archive that answers in hours.
    #[error("{what} is in a cold tier and must be thawed first")]
    Cold {
        /// Which object.
        what: String,
    },
    /// Free space where the repository lives, then retry.
    #[error("the repository is out of space")]
    Full,
    /// There is no such repository, recovery point or disk.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Fix the call or its input: the text says what is wrong with it.
    #[error("{reason}")]
    Refused {
        /// What must be different.
        reason: String,
    },
    /// Offer the right passkey: the repository is sealed, and what was offered, if anything, does not open it.
    #[error("{reason}")]
    Locked {
        /// What was offered and what is wanted.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl RepoError {
    /// A failed system call while doing `what`.
    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        let what = what.into();
        let full = [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG];
        if full.iter().any(|errno| error.raw_os_error() == Some(*errno as i32)) {
            return Self::Full;
        }
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { what: format!("what it takes to {what}") },
            _ => Self::Unavailable { what, source: error.into() },
        }
    }

    /// The same once more, for another caller.
    pub(crate) fn same(&self) -> Self {
        match self {
            Self::Unavailable { what, source } => {
                Self::Unavailable { what: what.clone(), source: anyhow::anyhow!("{source:#}") }
            }
            Self::Corrupt { what, detail } => {
                Self::Corrupt { what: what.clone(), detail: detail.clone() }
            }
            Self::Cold { what } => Self::Cold { what: what.clone() },
            Self::Full => Self::Full,
            Self::NotFound { what } => Self::NotFound { what: what.clone() },
            Self::Refused { reason } => Self::Refused { reason: reason.clone() },
            Self::Locked { reason } => Self::Locked { reason: reason.clone() },
            Self::Cancelled => Self::Cancelled,
        }
    }

    /// What it says, with its causes.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Unavailable { source, .. } => format!("{self}: {source:#}"),
            other => other.to_string(),
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.into() }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }

    /// A failed read of an object that something verified refers to: if it is gone or short, data
    /// is lost, and retrying does not bring it back.
    pub(crate) fn referenced(object: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::corrupt(object, "it is referred to but missing"),
            io::ErrorKind::UnexpectedEof => Self::corrupt(object, "it ends too early"),
            _ => Self::io(format!("read {object}"), error),
        }
    }
}
