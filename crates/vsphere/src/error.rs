//! What can go wrong, by what the caller can do about it.

use std::time::Duration;

use crate::{soap::Fault, tls::SeenCertificate};

/// What went wrong with a vSphere call, by what the caller can do about it.
#[derive(thiserror::Error, Debug)]
pub enum VsphereError {
    /// Try again later: no connection, a broken one, or a server that is starting.
    #[error("{call}: vSphere does not answer: {reason}")]
    Unreachable {
        /// The call that was on its way, or `connect`.
        call: &'static str,
        /// What the connection said.
        reason: String,
    },
    /// Compare the thumbprint with the server's and pin it, or name the CA. Nothing was sent.
    #[error("the server's certificate is not trusted: {reason}{}", seen_text(.seen))]
    Untrusted {
        /// Why it was refused.
        reason: String,
        /// The certificate that the server showed.
        seen: Option<Box<SeenCertificate>>,
    },
    /// Fix the user, the password, or the user's rights.
    #[error("{call}: not allowed: {fault}: {message}")]
    Denied {
        /// The call that was refused.
        call: &'static str,
        /// The fault's name, such as `InvalidLogin` or `NoPermission`.
        fault: String,
        /// The server's own text.
        message: String,
    },
    /// Fix the call: what it names is not there.
    #[error("{what} is not there")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The server understood and said no: fix what its message says.
    #[error("{call}: {fault}: {message}")]
    Refused {
        /// The call that was refused.
        call: &'static str,
        /// The fault's name, such as `PlatformConfigFault`.
        fault: String,
        /// The server's own text.
        message: String,
    },
    /// It may still be going on at the server: ask again, or give up.
    #[error("{call}: no end after {} s", .after.as_secs())]
    TimedOut {
        /// The call or task that was waited for.
        call: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// Never retry: the peer does not speak vim25, or breaks our bounds.
    #[error("{call}: the answer makes no sense: {reason}")]
    Garbled {
        /// The call that was answered so.
        call: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Fix the configuration: the endpoint cannot be used as it is.
    #[error("bad vSphere endpoint: {reason}")]
    BadEndpoint {
        /// What is wrong with it.
        reason: String,
    },
}

fn seen_text(seen: &Option<Box<SeenCertificate>>) -> String {
    seen.as_ref().map_or_else(String::new, |seen| format!(" (it has SHA-256 {})", seen.sha256))
}

/// Inside the crate a fault stays a fault, because idempotent calls tell faults apart.
#[derive(Debug)]
pub(crate) enum Failure {
    Fault(Box<Fault>),
    Error(VsphereError),
}

impl Failure {
    /// Whether it is a fault of one of these names.
    pub(crate) fn is(&self, names: &[&str]) -> bool {
        matches!(self, Self::Fault(fault) if names.contains(&fault.name.as_str()))
    }

    /// Whether the object that was asked has gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.is(&["ManagedObjectNotFound"])
    }

    /// Whether the same call may do better in a while.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Error(VsphereError::Unreachable { .. }))
    }

    pub(crate) fn garbled(call: &'static str, reason: impl Into<String>) -> Self {
        Self::Error(VsphereError::Garbled { call, reason: reason.into() })
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::Error(VsphereError::NotFound { what: what.into() })
    }
}

impl From<VsphereError> for Failure {
    fn from(error: VsphereError) -> Self {
        Self::Error(error)
    }
}

/// The only place where a fault becomes an error of this crate.
impl From<Failure> for VsphereError {
    fn from(failure: Failure) -> Self {
        let fault = match failure {
            Failure::Error(error) => return error,
            Failure::Fault(fault) => *fault,
        };
        let Fault { call, name, message, .. } = fault;
        match name.as_str() {
            "InvalidLogin" | "InvalidLocale" | "NoPermission" | "NotAuthenticated" => {
                Self::Denied { call, fault: name, message }
            }
            "ManagedObjectNotFound" | "NotFound" | "FileNotFound" => {
                Self::NotFound { what: format!("what {call} asked for ({message})") }
            }
            _ => Self::Refused { call, fault: name, message },
        }
    }
}
