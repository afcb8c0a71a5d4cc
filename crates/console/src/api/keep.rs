use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rekindle_jobs::{JobId, KeepRequest};

use super::{jobs::visible, reasoned::Reasoned};
use crate::{
    Console, Problem,
    act::Act,
    auth::Caller,
    given::{At, Body},
};

/// `POST /api/v1/jobs/{id}/keep`
pub(crate) async fn keep(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    body: Result<Body<Reasoned<KeepRequest>>, Problem>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Body(Reasoned { reason, body }) = body?;
    let job = visible(&console, &caller, &id)?;
    let (jobs, of) = (Arc::clone(&console.jobs), id.clone());
    let act = Act::new(&caller, "recovery.keep", id.to_string()).because(&console, reason)?;
    let ending = console.act(act, async move { Ok(jobs.keep_as_point(&of, body).await?) }).await?;
    console.record_end(Act::new(&caller, "recovery.keep_end", id.to_string()), ending);
    let upkeep = console.jobs.upkeep(&job.repository)?;
    Ok((StatusCode::ACCEPTED, Json(upkeep)).into_response())
}
