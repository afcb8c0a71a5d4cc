use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderName, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use rekindle_jobs::{JobId, JobView};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{Console, Problem, auth::Caller};

/// The shortest time between two events of a stream: what changed in between is in the next one.
const PACE: Duration = Duration::from_millis(250);

/// `GET /api/v1/jobs/{id}/events`: an event `job` with the whole job whenever it changed, the first
/// at once, then `end` when it has ended.
pub(crate) async fn events(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    super::jobs::visible(&console, &caller, &id)?;
    let permit = Arc::clone(&console.streams)
        .try_acquire_owned()
        .map_err(|_| Problem::too_many_streams())?;
    let mut job = console.jobs.watch(&id)?;
    job.mark_changed();
    let follower =
        Follower { job, shutdown: console.shutdown.clone(), next: Next::First, _permit: permit };
    // Proxies must not hold events back.
    let headers =
        [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("x-accel-buffering"), "no")];
    let sse = Sse::new(follower.stream()).keep_alive(KeepAlive::new());
    Ok((headers, sse).into_response())
}

struct Follower {
    job: watch::Receiver<JobView>,
    shutdown: CancellationToken,
    next: Next,
    _permit: OwnedSemaphorePermit,
}

enum Next {
    First,
    Change,
    End,
    Nothing,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.event().await?;
            Some((Ok(event), follower))
        })
    }

    /// The next event; `None` ends the stream.
    async fn event(&mut self) -> Option<Event> {
        match self.next {
            Next::First => {}
            Next::Change => sleep(PACE).await,
            Next::End => {
                self.next = Next::Nothing;
                return Some(Event::default().event("end").data("{}"));
            }
            Next::Nothing => return None,
        }
        let changed = tokio::select! {
            () = self.shutdown.cancelled() => return None,
            changed = self.job.changed() => changed,
        };
        changed.ok()?;
        let view = self.job.borrow_and_update().clone();
        self.next = if view.state.is_final() { Next::End } else { Next::Change };
        let event = Event::default().event("job").json_data(&view);
        event.inspect_err(|error| tracing::error!(%error, "cannot encode a job")).ok()
    }
}
