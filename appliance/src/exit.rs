//! How a command ends: its exit status and its last sentence.

use std::process::ExitCode;

/// Shown by `--help`; the numbers are stable.
pub(crate) const HELP: &str = "\
Exit status:
  0    done
  1    failed in a way that is none of the following
  2    the command line is wrong
  3    the configuration, the input or the request has to be fixed
  4    what was named does not exist
  5    the appliance, or something it needs, does not answer: try again later
  6    the token or a passkey is missing or wrong
  7    the job that was watched failed, was cancelled or is stuck
  130  interrupted";

/// What kind of failure it is, by what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Refused = 3,
    NotFound = 4,
    Unavailable = 5,
    Denied = 6,
    JobFailed = 7,
    Interrupted = 130,
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) cause: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(kind: Kind, cause: impl Into<anyhow::Error>) -> Self {
        Self { kind, cause: cause.into() }
    }

    pub(crate) fn said(kind: Kind, text: impl std::fmt::Display) -> Self {
        Self { kind, cause: anyhow::anyhow!("{text}") }
    }

    pub(crate) fn refused(text: impl std::fmt::Display) -> Self {
        Self::said(Kind::Refused, text)
    }

    /// Writes the sentence to stderr and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        eprintln!("rekindle: {:#}", self.cause);
        ExitCode::from(self.kind as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(cause: anyhow::Error) -> Self {
        Self { kind: Kind::Failed, cause }
    }
}

impl From<rekindle_repo::RepoError> for Failure {
    fn from(error: rekindle_repo::RepoError) -> Self {
        use rekindle_repo::RepoError;
        let kind = match &error {
            RepoError::Unavailable { .. } | RepoError::Cold { .. } => Kind::Unavailable,
            RepoError::Corrupt { .. } | RepoError::Full => Kind::Failed,
            RepoError::NotFound { .. } => Kind::NotFound,
            RepoError::Refused { .. } | RepoError::Locked { .. } => Kind::Refused,
            RepoError::Cancelled => Kind::Interrupted,
        };
        Self::new(kind, error)
    }
}
