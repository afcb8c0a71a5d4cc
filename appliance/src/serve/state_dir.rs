use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, umask},
};

use crate::exit::{Failure, Kind};

/// Makes the state directory if it is missing, for us alone.
pub(crate) fn make(dir: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| {
        let text = format!("cannot make the state directory {}: {e}", dir.display());
        Failure::said(Kind::Refused, text)
    })
}

/// Takes the state directory for this process. While the lock lives no other daemon gets it; the
/// kernel lets go of it when the process ends, however that happens.
pub(crate) fn lock(dir: &Path) -> Result<Flock<File>, Failure> {
    umask(Mode::from_bits_truncate(0o077));
    make(dir)?;
    let path = dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| {
        Failure::said(
            Kind::Refused,
            format!("cannot write to the state directory: {}: {e}", path.display()),
        )
    })?;
    let mut file =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => taken(dir, &path),
            other => Failure::from(
                anyhow::Error::from(other).context(format!("lock {}", path.display())),
            ),
        })?;
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .context("write the lock")?;
    Ok(file)
}

fn taken(dir: &Path, path: &Path) -> Failure {
    let owner = match fs::read_to_string(path) {
        Ok(pid) => format!("process {}", pid.trim()),
        Err(e) if e.kind() == ErrorKind::NotFound => "another process".to_owned(),
        Err(_) => "another process".to_owned(),
    };
    Failure::said(
        Kind::Refused,
        format!("{} is in use by {owner}: stop it, or use another --state-dir", dir.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let held = lock(&state).unwrap();
        let refused = lock(&state).unwrap_err();
        assert_eq!(refused.kind, Kind::Refused);
        assert!(refused.cause.to_string().contains(&std::process::id().to_string()));
        drop(held);
        lock(&state).unwrap();
    }
}
