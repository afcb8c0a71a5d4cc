//! Keeps what a job reads thawed, for as long as it reads.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rekindle_repo::{KeepThawed, Kept, PointId, ThawOptions};
use tokio::task::AbortHandle;

use super::Driver;
use crate::env::Env;
use crate::{JobError, Step, failure};

/// How often it is looked how long thawed copies stay: a quarter of the time they have, within these. The shortest
/// have a day, of which half is left at least six hours later.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
const LOOK_AT_MOST: Duration = Duration::from_secs(6 * 3600);
/// The pause after a look that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// The task that does it. It ends when this is dropped.
pub(crate) struct KeptThawed(AbortHandle);

impl Drop for KeptThawed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driver {
    /// From when the point was opened until the job goes back, also over restarts: what was asked for stands with the
    /// store, and is looked at anew.
    pub(super) fn keep_thawed(&mut self) {
        let plan = &self.record.plan;
        if !plan.has_done(Step::Open) || plan.is_unwinding() || plan.is_shelved() {
            self.thawed = None;
            return;
        }
        if self.thawed.is_some() {
            return;
        }
        let Ok(point) = self.record.point.parse() else { return };
        let options = self.record.request.thaw.unwrap_or_default();
        let reader = Reader {
            env: self.env.clone(),
            repository: self.record.repository.clone(),
            point,
            options,
            keeper: None,
        };
        let kept = reader.keep(self.live.thawed.take());
        let kept = tracing::Instrument::instrument(kept, tracing::Span::current());
        self.thawed = Some(KeptThawed(tokio::spawn(kept).abort_handle()));
    }
}

/// What a job reads.
struct Reader {
    env: Arc<Env>,
    repository: String,
    point: PointId,
    options: ThawOptions,
    /// Once it is known that something is cold.
    keeper: Option<Arc<KeepThawed>>,
}

impl Reader {
    /// For ever. With what is known already the first look has time.
    async fn keep(mut self, known: Option<Kept>) {
        if let Some(known) = known {
            tokio::time::sleep(pause_after(&known)).await;
        }
        let mut warned = false;
        loop {
            let pause = match self.look().await {
                Ok(kept) => {
                    warned = false;
                    said(&kept);
                    pause_after(&kept)
                }
                Err(error) => {
                    if !warned {
                        tracing::warn!("cannot look how long what it reads stays thawed: {error}");
                    }
                    warned = true;
                    AFTER_FAILURE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&mut self) -> Result<Kept, JobError> {
        if self.keeper.is_none() {
            let repository = self.env.repository(&self.repository)?;
            let opened = repository.point(&self.point).await;
            let point = opened.map_err(|e| failure::repo("open the recovery point", e))?;
            let options = self.options;
            let begun =
                failure::blocking(move || begun(KeepThawed::begin(&repository, &point, options)));
            self.keeper = begun.await?.map(Arc::new);
        }
        // A lifecycle rule may move it later.
        let Some(keeper) = self.keeper.clone() else { return Ok(Kept::default()) };
        failure::blocking(move || begun(keeper.look(Timestamp::now()))).await
    }
}

fn begun<T>(result: Result<T, rekindle_repo::RepoError>) -> Result<T, JobError> {
    result.map_err(|e| failure::repo("keep the recovery point thawed", e))
}

fn pause_after(kept: &Kept) -> Duration {
    let Some(end) = kept.until else { return LOOK_AT_MOST };
    let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
    (left / 4).clamp(LOOK_AT_LEAST, LOOK_AT_MOST)
}

fn said(kept: &Kept) {
    if kept.extended > 0 {
        let until = kept.until.map(|until| until.to_string());
        tracing::info!(packs = kept.extended, until, "what it reads stays thawed for longer");
    }
    if kept.ended > 0 {
        let packs = kept.ended;
        tracing::warn!(packs, "what it reads was cold again, it is thawed anew");
    }
}
