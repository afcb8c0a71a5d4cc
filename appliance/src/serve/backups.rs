//! Backups of the appliance's own state, by the clock.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rekindle_console::ANSWERS_KEYSPACE;
use rekindle_jobs::ORIGINS_KEYSPACE;
use rekindle_notify::OUTBOX_KEYSPACE;
use rekindle_state::{BackupError, BackupFile, Backups, BackupsConfig, Database};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{config::Config, local};

/// When one is tried again that could not be made.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// The longest that is slept: a clock that was set is noticed within it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The configured backups of `db`, if there are to be any.
pub(super) fn open(config: &Config, db: &Database) -> Option<Arc<Backups>> {
    let dir = config.state_backup.dir.clone()?;
    let passing = [ANSWERS_KEYSPACE, OUTBOX_KEYSPACE, ORIGINS_KEYSPACE];
    let config = BackupsConfig {
        dir,
        keep: config.state_backup.keep,
        left_out: passing.into_iter().chain(rekindle_disk::KEYSPACES).collect(),
        host: local::host_name().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Some(Arc::new(Backups::new(db, config)))
}

/// Makes one whenever the newest is so old. Never ends.
pub(super) async fn keep(backups: Arc<Backups>, every_hours: u64) {
    let every = Duration::from_secs(every_hours * 3600);
    loop {
        let pause = match by_the_clock(backups.clone(), every).await {
            Ok(pause) => pause.min(LOOK_EVERY),
            // Somebody has asked for one.
            Err(BackupError::Busy) => LOOK_EVERY,
            Err(error @ BackupError::Failed { .. }) => {
                tracing::warn!(%error, "no backup of the state");
                AGAIN_AFTER
            }
        };
        sleep(pause).await;
    }
}

/// Makes one if it is time. Says how long it is until the next.
async fn by_the_clock(backups: Arc<Backups>, every: Duration) -> Result<Duration, BackupError> {
    let dir = backups.config().dir.display().to_string();
    let failed = |why: String| BackupError::Failed { dir: dir.clone(), why };
    let work = move || {
        let now = Timestamp::now();
        let newest = backups.look()?.into_iter().find(|file| file.made_at <= now);
        if let Some(left) = newest.and_then(|newest| left(&newest, every, now)) {
            return Ok(left);
        }
        let BackupFile { path, bytes, .. } = backups.make()?;
        tracing::info!(file = %path.display(), bytes, "backup of the state made");
        Ok(every)
    };
    let mut work = spawn_blocking(work);
    // One thread at most waits for it, however long that is.
    loop {
        match timeout(AGAIN_AFTER, &mut work).await {
            Ok(made) => return made.unwrap_or_else(|e| Err(failed(e.to_string()))),
            Err(_) => {
                tracing::warn!(error = %failed("it does not answer".into()), "no backup of the state");
            }
        }
    }
}

/// How long it is until the next is due. One from the future is of a clock that was wrong, and counts for nothing.
fn left(newest: &BackupFile, every: Duration, now: Timestamp) -> Option<Duration> {
    let age = Duration::try_from(now.duration_since(newest.made_at)).ok()?;
    every.checked_sub(age).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_due_when_the_newest_is_too_old_or_from_the_future() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let newest = BackupFile { path: "x".into(), bytes: 1, made_at: at(1000) };
        let left = |now| left(&newest, Duration::from_secs(60), at(now));
        assert_eq!(left(1000), Some(Duration::from_secs(60)));
        assert_eq!(left(1059), Some(Duration::from_secs(1)));
        assert_eq!((left(1060), left(5000), left(999)), (None, None, None));
    }
}
