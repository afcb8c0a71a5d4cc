use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{ConnectInfo, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use rekindle_jobs::{BatchRequest, BatchView, JobError, JobId, Offer, RecoveryRequest, Resume};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jobs::{Paging, WhyBody, in_scope, offered};
use super::reasoned::Asked;
use crate::{
    Console, Problem,
    act::{Act, REASON_MAX},
    auth::Caller,
    given::{At, Body, MaybeBody},
    listen::ClientAddress,
    paging::{self, Place},
    tag::{self, Seen},
};

/// The largest body: 500 VMs, each with what an admin would write of one.
pub(crate) const BODY_MAX: usize = 1 << 20;

#[derive(Serialize, JsonSchema)]
pub(crate) struct Batches {
    batches: Vec<BatchView>,
    /// What to ask for as `cursor` for the next part; none if this is the last.
    next: Option<String>,
}

/// `POST /api/v1/batches`
pub(crate) async fn start_batch(
    State(console): State<Arc<Console>>,
    ConnectInfo(ClientAddress(client)): ConnectInfo<ClientAddress>,
    Extension(caller): Extension<Caller>,
    body: Result<Body<Asked<BatchRequest>>, Problem>,
) -> Result<Response, Problem> {
    let Body(Asked { reason, passkey, body }) = body?;
    let passkey = offered(passkey)?;
    let request = all_in_scope(body, &caller)?;
    let offer = Offer { passkey, client: client.ip() };
    let name = request.name.clone().unwrap_or_default();
    let subject = format!("{name} of {} groups", request.groups.len());
    let batches = Arc::clone(&console.batches);
    let act = Act::new(&caller, "batch.start", subject.trim()).because(&console, reason)?;
    let id =
        console.act(act, async move { Ok(batches.start(request, Some(offer)).await?) }).await?;
    let location = format!("/api/v1/batches/{id}");
    let view = console.batches.view(&id)?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// `GET /api/v1/batches`
pub(crate) async fn batches(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Batches>, Problem> {
    let Query(paging) = paging?;
    let mut batches = console.batches.list();
    batches.retain(|batch| is_visible(batch, &caller));
    let place = |batch: &BatchView| Place::new(batch.created_at, batch.id.as_str());
    let part = paging::part(batches, paging.wanted()?, place)?;
    Ok(Json(Batches { batches: part.entries, next: part.next }))
}

/// `GET /api/v1/batches/{id}`
pub(crate) async fn batch(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(tag::shown(&headers, &visible(&console, &caller, &id)?))
}

/// `POST /api/v1/batches/{id}/cancel`
pub(crate) async fn cancel_batch(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
    body: Result<MaybeBody<WhyBody>, Problem>,
) -> Result<Response, Problem> {
    let reason = body?.0.reason;
    let id = visible(&console, &caller, &id)?.id;
    let (batches, ends) = (Arc::clone(&console.batches), id.clone());
    let act = Act::new(&caller, "batch.cancel", id.to_string()).because(&console, reason)?;
    let (seen, console_) = (Seen::of(&headers), Arc::clone(&console));
    let in_turn = async move {
        let _turn = console_.lanes.turn(ends.as_str()).await;
        seen.holds(&tag::of(&batches.view(&ends)?))?;
        Ok(batches.cancel(&ends)?)
    };
    console.act(act, in_turn).await?;
    Ok((StatusCode::ACCEPTED, Json(console.batches.view(&id)?)).into_response())
}

/// How a halted batch goes on; the body may be absent.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResumeBody {
    #[serde(default)]
    failed: Resume,
    /// Why, for the audit log.
    #[serde(default)]
    #[schemars(length(max = REASON_MAX))]
    reason: Option<String>,
}

/// `POST /api/v1/batches/{id}/resume`
pub(crate) async fn resume_batch(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
    body: Result<MaybeBody<ResumeBody>, Problem>,
) -> Result<Response, Problem> {
    let ResumeBody { failed, reason } = body?.0;
    let id = visible(&console, &caller, &id)?.id;
    let how = match failed {
        Resume::Retry => "retry what failed",
        Resume::Skip => "skip what failed",
    };
    let act =
        Act::new(&caller, "batch.resume", format!("{id}: {how}")).because(&console, reason)?;
    let (batches, goes_on) = (Arc::clone(&console.batches), id.clone());
    let (seen, console_) = (Seen::of(&headers), Arc::clone(&console));
    let in_turn = async move {
        let _turn = console_.lanes.turn(goes_on.as_str()).await;
        seen.holds(&tag::of(&batches.view(&goes_on)?))?;
        Ok(batches.resume(&goes_on, failed).await?)
    };
    console.act(act, in_turn).await?;
    Ok((StatusCode::ACCEPTED, Json(console.batches.view(&id)?)).into_response())
}

/// The batch, unless some of it is outside the caller's scope: then there is none for this caller.
pub(super) fn visible(console: &Console, caller: &Caller, id: &str) -> Result<BatchView, Problem> {
    let not_found = || JobError::NotFound { what: "batch", name: id.to_owned() };
    let id: JobId = id.parse().map_err(|_| not_found())?;
    let view = console.batches.view(&id)?;
    if is_visible(&view, caller) { Ok(view) } else { Err(not_found().into()) }
}

fn is_visible(batch: &BatchView, caller: &Caller) -> bool {
    let scope = &caller.scope;
    batch.groups.iter().flat_map(|group| &group.vms).all(|vm| {
        let repository = vm.repository.as_ref();
        let known =
            repository.map_or(scope.repositories.is_none(), |name| scope.has_repository(name));
        known && scope.has_target(&vm.target)
    })
}

fn all_in_scope(mut request: BatchRequest, caller: &Caller) -> Result<BatchRequest, Problem> {
    let scope = &caller.scope;
    for group in &mut request.groups {
        let recoveries = std::mem::take(&mut group.recoveries).into_iter();
        group.recoveries = recoveries
            .map(|recovery| in_scope(recovery, scope))
            .collect::<Result<Vec<RecoveryRequest>, Problem>>()?;
        if let Some(select) = &mut group.select {
            *select.each = in_scope((*select.each).clone(), scope)?;
        }
    }
    Ok(request)
}
