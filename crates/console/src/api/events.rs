use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderName, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use rekindle_jobs::{BatchView, JobId, JobView};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{Console, Problem, auth::Caller, given::At};

/// The shortest time between two events of a stream: what changed in between is in the next one.
const PACE: Duration = Duration::from_millis(250);

/// `GET /api/v1/jobs/{id}/events`: an event `job` with the whole job whenever it changed, the first
/// at once, then `end` when it has ended.
pub(crate) async fn events(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    super::jobs::visible(&console, &caller, &id)?;
    let job = console.jobs.watch(&id)?;
    follow(&console, job, "job", |job: &JobView| job.state.is_final())
}

/// `GET /api/v1/batches/{id}/events`: the same with events `batch`.
pub(crate) async fn batch_events(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
) -> Result<Response, Problem> {
    let id = super::batches::visible(&console, &caller, &id)?.id;
    let batch = console.batches.watch(&id)?;
    follow(&console, batch, "batch", |batch: &BatchView| batch.finished_at.is_some())
}

fn follow<T: Clone + Serialize + Send + Sync + 'static>(
    console: &Console,
    mut view: watch::Receiver<T>,
    name: &'static str,
    is_last: fn(&T) -> bool,
) -> Result<Response, Problem> {
    let permit = Arc::clone(&console.streams)
        .try_acquire_owned()
        .map_err(|_| Problem::too_many_streams())?;
    view.mark_changed();
    let shutdown = console.shutdown.clone();
    let follower = Follower { view, name, is_last, shutdown, next: Next::First, _permit: permit };
    // Proxies must not hold events back.
    let headers =
        [(header::CACHE_CONTROL, "no-store"), (HeaderName::from_static("x-accel-buffering"), "no")];
    let sse = Sse::new(follower.stream()).keep_alive(KeepAlive::new());
    Ok((headers, sse).into_response())
}

struct Follower<T> {
    view: watch::Receiver<T>,
    name: &'static str,
    is_last: fn(&T) -> bool,
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

impl<T: Clone + Serialize + Send + Sync + 'static> Follower<T> {
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
            changed = self.view.changed() => changed,
        };
        changed.ok()?;
        let view = self.view.borrow_and_update().clone();
        self.next = if (self.is_last)(&view) { Next::End } else { Next::Change };
        let event = Event::default().event(self.name).json_data(&view);
        let name = self.name;
        event.inspect_err(|error| tracing::error!(%error, "cannot encode a {name}")).ok()
    }
}
