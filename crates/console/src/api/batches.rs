use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{ConnectInfo, Path, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use rekindle_jobs::{BatchRequest, BatchView, JobError, JobId, Offer, RecoveryRequest};
use serde::Serialize;
use serde_json::Value;

use super::jobs::{WhyBody, in_scope, take_passkey};
use super::reasoned::Reasoned;
use crate::{Console, Problem, act::Act, auth::Caller, listen::ClientAddress};

/// The largest body: 500 VMs, each with what an admin would write of one.
pub(crate) const BODY_MAX: usize = 1 << 20;

#[derive(Serialize)]
pub(crate) struct Batches {
    batches: Vec<BatchView>,
}

/// `POST /api/v1/batches`
pub(crate) async fn start_batch(
    State(console): State<Arc<Console>>,
    ConnectInfo(ClientAddress(client)): ConnectInfo<ClientAddress>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Reasoned<Value>>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Reasoned { reason, mut body }) = body?;
    let passkey = take_passkey(&mut body)?;
    let request: BatchRequest =
        serde_json::from_value(body).map_err(|e| Problem::bad_request(e.to_string()))?;
    let request = all_in_scope(request, &caller)?;
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
) -> Json<Batches> {
    let mut batches = console.batches.list();
    batches.retain(|batch| is_visible(batch, &caller));
    Json(Batches { batches })
}

/// `GET /api/v1/batches/{id}`
pub(crate) async fn batch(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchView>, Problem> {
    Ok(Json(visible(&console, &caller, &id)?))
}

/// `POST /api/v1/batches/{id}/cancel`
pub(crate) async fn cancel_batch(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Result<Option<Json<WhyBody>>, JsonRejection>,
) -> Result<Response, Problem> {
    let reason = body?.and_then(|Json(body)| body.reason);
    let id = visible(&console, &caller, &id)?.id;
    let (batches, ends) = (Arc::clone(&console.batches), id.clone());
    let act = Act::new(&caller, "batch.cancel", id.to_string()).because(&console, reason)?;
    console.act(act, async move { Ok(batches.cancel(&ends)?) }).await?;
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
