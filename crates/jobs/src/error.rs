use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What went wrong with a job or a request for one, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Ask for something that exists.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// What kind of thing was asked for: `job`, `point`, `target`, `repository`.
        what: &'static str,
        /// The name that was given.
        name: String,
    },
    /// Fix the request. Nothing was changed.
    #[error("{message}")]
    Refused {
        /// Stable, machine-readable.
        code: &'static str,
        /// What to fix.
        message: String,
    },
    /// The request is well formed but does not fit what is there now.
    #[error("{message}")]
    Conflict {
        /// Stable, machine-readable.
        code: &'static str,
        /// What it collides with.
        message: String,
    },
    /// Offer what opens the repository, after the wait if there is one. Nothing was changed.
    #[error("{message}")]
    Denied {
        /// Stable, machine-readable.
        code: &'static str,
        /// What is missing or wrong, without showing it.
        message: String,
        /// How long to wait before the next offer.
        wait: Option<Duration>,
    },
    /// Try again when other jobs have ended.
    #[error("the queue is full: {queued} jobs wait already")]
    Busy {
        /// Jobs that wait.
        queued: usize,
    },
    /// Free space, then try again.
    #[error("{place} needs {missing} bytes more free space")]
    Full {
        /// Which file system.
        place: String,
        /// Bytes that are missing; 0 where the file system did not say.
        missing: u64,
    },
    /// Try again later: something this needs does not answer.
    #[error("{what}: {source:#}")]
    Unavailable {
        /// Stable, machine-readable.
        code: &'static str,
        /// What was tried, as a present-tense verb.
        what: String,
        /// Why it failed.
        source: anyhow::Error,
    },
    /// Never try again: stored bytes are not what they should be.
    #[error("{what}: {source:#}")]
    Corrupt {
        /// What was read.
        what: String,
        /// What is wrong with it.
        source: anyhow::Error,
    },
}

impl JobError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { what, .. } => match *what {
                "job" => "job_not_found",
                "point" => "point_not_found",
                "target" => "target_not_found",
                "repository" => "repository_not_found",
                "batch" => "batch_not_found",
                _ => "not_found",
            },
            Self::Refused { code, .. }
            | Self::Conflict { code, .. }
            | Self::Denied { code, .. } => code,
            Self::Busy { .. } => "queue_full",
            Self::Full { .. } => "no_space",
            Self::Unavailable { code, .. } => code,
            Self::Corrupt { .. } => "corrupt",
        }
    }

    pub(crate) fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict { code, message: message.into() }
    }

    pub(crate) fn unavailable(
        code: &'static str,
        what: impl Into<String>,
        source: impl Into<anyhow::Error>,
    ) -> Self {
        Self::Unavailable { code, what: what.into(), source: source.into() }
    }

    /// An error of the file system below a path of ours.
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let what = what.into();
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full { place: what, missing: 0 };
        }
        Self::unavailable("io", what, source)
    }

    /// The part of an error that outlives the process, in the journal.
    pub(crate) fn to_view(&self) -> ErrorView {
        ErrorView { code: self.code().to_owned(), message: self.to_string() }
    }
}

/// An error as it is shown and journaled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorView {
    /// Stable, machine-readable.
    pub code: String,
    /// For people.
    pub message: String,
}
