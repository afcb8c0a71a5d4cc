use std::time::Duration;

use rekindle_repo::{Kept, PointId, Readiness, ThawOptions};

use super::Work;
use crate::{JobError, failure};

/// How often the store is asked whether a thaw is done: at first, and at most.
const ASK_AFTER: Duration = Duration::from_secs(1);
const ASK_AT_MOST: Duration = Duration::from_secs(300);

impl Work<'_> {
    /// Waits until all that the point needs can be read, having asked the store to thaw what is frozen. Cut short and
    /// begun again it finds what was asked for; nothing is taken back, as thawed copies end by themselves. Says when
    /// the first of them does.
    pub(super) async fn await_thaw(&self) -> Result<Kept, JobError> {
        let options = self.record.request.thaw.unwrap_or_default();
        let mut pause = ASK_AFTER;
        let found = loop {
            match self.ask_for_thaw(options).await? {
                Some(readiness) if !readiness.ready => {
                    *self.status.waits_for.lock() = Some(said(&readiness, options));
                }
                found => break found,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AT_MOST);
        };
        *self.status.waits_for.lock() = None;
        let until = found.and_then(|readiness| readiness.thawed_until);
        Ok(Kept { until, ..Kept::default() })
    }

    /// Asks for the thaw, once more if need be. `None`: nothing at all is cold.
    async fn ask_for_thaw(&self, options: ThawOptions) -> Result<Option<Readiness>, JobError> {
        let repository = self.env.repository(&self.record.repository)?;
        let name = &self.record.point;
        let id: PointId =
            name.parse().map_err(|_| JobError::NotFound { what: "point", name: name.clone() })?;
        let opened = repository.point(&id).await;
        let point = opened.map_err(|e| failure::repo("open the recovery point", e))?;
        failure::blocking(move || {
            let asked = || {
                if !rekindle_repo::has_cold_packs(&repository)? {
                    return Ok(None);
                }
                let found = rekindle_repo::readiness(&repository, &point)?;
                if found.frozen > 0 {
                    return rekindle_repo::thaw(&repository, &point, options).map(Some);
                }
                Ok(Some(found))
            };
            asked().map_err(|e| failure::repo("thaw the recovery point", e))
        })
        .await
    }
}

fn said(readiness: &Readiness, options: ThawOptions) -> String {
    let way = match options.retrieval {
        rekindle_repo::Retrieval::Expedited => "expedited",
        rekindle_repo::Retrieval::Standard => "standard",
        rekindle_repo::Retrieval::Bulk => "bulk",
    };
    let ready = readiness.packs - readiness.frozen - readiness.thawing;
    format!(
        "the store to thaw {} packs ({ready} of {} are at hand; {way} retrieval, within {} hours)",
        readiness.thawing + readiness.frozen,
        readiness.packs,
        options.retrieval.hours(readiness.tier),
    )
}
