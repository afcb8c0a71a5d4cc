use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is enough: 4096 connections, and a few files per disk and export.
const OPEN_FILES: u64 = 65_536;

/// Raises the limit of open files as far as it is allowed.
pub(super) fn raise_open_files() {
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = OPEN_FILES.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
        Ok::<_, nix::Error>(wanted)
    };
    match raise() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}
