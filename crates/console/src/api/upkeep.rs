use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rekindle_jobs::{CheckRequest, Ending, JobError, PruneRequest, UpkeepView};

use super::{jobs::WhyBody, reasoned::Reasoned};
use crate::{
    Console, Problem,
    act::Act,
    auth::Caller,
    given::{At, Body, MaybeBody},
};

/// `GET /api/v1/repositories/{name}/upkeep`
pub(crate) async fn upkeep(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
) -> Result<Json<UpkeepView>, Problem> {
    visible(&caller, &name)?;
    Ok(Json(console.jobs.upkeep(&name)?))
}

/// `POST /api/v1/repositories/{name}/prune`
pub(crate) async fn prune(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    body: Result<Body<Reasoned<PruneRequest>>, Problem>,
) -> Result<Response, Problem> {
    let Body(Reasoned { reason, body }) = body?;
    visible(&caller, &name)?;
    let action = if body.dry_run { "repository.prune_dry_run" } else { "repository.prune" };
    let act = Act::new(&caller, action, name.as_str()).noting(reason)?;
    let (jobs, of) = (Arc::clone(&console.jobs), name.clone());
    let ending = console.act(act, async move { Ok(jobs.prune(&of, body)?) }).await?;
    console.record_end(Act::new(&caller, "repository.prune_end", name.as_str()), ending);
    accepted(&console, &name)
}

/// `POST /api/v1/repositories/{name}/check`
pub(crate) async fn check(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    body: Result<Body<Reasoned<CheckRequest>>, Problem>,
) -> Result<Response, Problem> {
    let Body(Reasoned { reason, body }) = body?;
    visible(&caller, &name)?;
    let act = Act::new(&caller, "repository.check", name.as_str()).noting(reason)?;
    let (jobs, of) = (Arc::clone(&console.jobs), name.clone());
    let ending = console.act(act, async move { Ok(jobs.check_repository(&of, body)?) }).await?;
    console.record_end(Act::new(&caller, "repository.check_end", name.as_str()), ending);
    accepted(&console, &name)
}

/// `POST /api/v1/repositories/{name}/upkeep/cancel`
pub(crate) async fn stop_upkeep(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(name): At,
    body: Result<MaybeBody<WhyBody>, Problem>,
) -> Result<Response, Problem> {
    let reason = body?.0.reason;
    visible(&caller, &name)?;
    let act = Act::new(&caller, "repository.stop", name.as_str()).noting(reason)?;
    let (jobs, of) = (Arc::clone(&console.jobs), name.clone());
    console.act(act, async move { Ok(jobs.stop_upkeep(&of)?) }).await?;
    accepted(&console, &name)
}

fn accepted(console: &Console, name: &str) -> Result<Response, Problem> {
    Ok((StatusCode::ACCEPTED, Json(console.jobs.upkeep(name)?)).into_response())
}

/// A repository outside the caller's scope does not exist for this caller.
fn visible(caller: &Caller, name: &str) -> Result<(), Problem> {
    if caller.scope.has_repository(name) {
        return Ok(());
    }
    Err(JobError::NotFound { what: "repository", name: name.to_owned() }.into())
}

impl Console {
    /// Puts on record what came of upkeep that was begun, when it ends.
    pub(super) fn record_end(self: &Arc<Self>, act: Act, ending: Ending) {
        let console = Arc::clone(self);
        tokio::spawn(async move {
            let note = match ending.line().await {
                Ok(line) => act.note_of("done", &line),
                Err(error) => act.note_of(error.code(), ""),
            };
            // Nobody waits for an answer; that it cannot be written is in the log.
            let _ = console.record(note).await;
        });
    }
}
