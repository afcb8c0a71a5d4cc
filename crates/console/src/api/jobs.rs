use std::{future::Future, sync::Arc};

use axum::{
    Json,
    extract::{
        ConnectInfo, Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use rekindle_jobs::{
    Destination, Finish, Forecast, JobId, JobView, Offer, RecoveryRequest, Report,
};
use rekindle_repo::Passkey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Console, Problem, listen::ClientAddress};

/// The longest `Idempotency-Key`, in characters.
const KEY_MAX: usize = 200;

#[derive(Serialize)]
pub(crate) struct Jobs {
    jobs: Vec<JobView>,
}

/// How a job is to end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishBody {
    action: Action,
    #[serde(default)]
    to: Option<Destination>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Migrate,
    Discard,
}

impl TryFrom<FinishBody> for Finish {
    type Error = Problem;

    fn try_from(body: FinishBody) -> Result<Self, Problem> {
        match (body.action, body.to) {
            (Action::Migrate, to) => Ok(Self::Migrate { to }),
            (Action::Discard, None) => Ok(Self::Discard),
            (Action::Discard, Some(_)) => Err(Problem::bad_request("`discard` takes no `to`")),
        }
    }
}

/// `POST /api/v1/recoveries`
pub(crate) async fn recover(
    State(console): State<Arc<Console>>,
    ConnectInfo(ClientAddress(client)): ConnectInfo<ClientAddress>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(mut body) = body?;
    let passkey = take_passkey(&mut body)?;
    let request: RecoveryRequest =
        serde_json::from_value(body).map_err(|e| Problem::bad_request(e.to_string()))?;
    let key = idempotency_key(&headers)?;
    let offer = Offer { passkey, client: client.ip() };
    let jobs = Arc::clone(&console.jobs);
    let id = to_its_end(async move { jobs.start_with(request, key, Some(offer)).await }).await??;
    let location = format!("/api/v1/jobs/{id}");
    let view = console.jobs.view(&id)?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// `POST /api/v1/recoveries/forecast`
pub(crate) async fn forecast(
    State(console): State<Arc<Console>>,
    body: Result<Json<RecoveryRequest>, JsonRejection>,
) -> Result<Json<Forecast>, Problem> {
    let Json(request) = body?;
    Ok(Json(console.jobs.forecast(&request).await?))
}

/// `GET /api/v1/jobs`
pub(crate) async fn jobs(State(console): State<Arc<Console>>) -> Json<Jobs> {
    let mut jobs = console.jobs.list();
    jobs.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
    Json(Jobs { jobs })
}

/// `GET /api/v1/jobs/{id}`
pub(crate) async fn job(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    Ok(Json(console.jobs.view(&id.parse()?)?))
}

/// `POST /api/v1/jobs/{id}/finish`
pub(crate) async fn finish(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    body: Result<Json<FinishBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Json(body) = body?;
    let how = Finish::try_from(body)?;
    let (jobs, ends) = (Arc::clone(&console.jobs), id.clone());
    to_its_end(async move { jobs.finish(&ends, how).await }).await??;
    accepted(&console, &id)
}

/// A new time limit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendBody {
    expires_in_seconds: u64,
}

/// `POST /api/v1/jobs/{id}/extend`
pub(crate) async fn extend(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    body: Result<Json<ExtendBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Json(body) = body?;
    let (jobs, moved) = (Arc::clone(&console.jobs), id.clone());
    to_its_end(async move { jobs.extend(&moved, body.expires_in_seconds).await }).await??;
    accepted(&console, &id)
}

/// `POST /api/v1/jobs/{id}/undo`
pub(crate) async fn undo(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let (jobs, undone) = (Arc::clone(&console.jobs), id.clone());
    to_its_end(async move { jobs.undo(&undone).await }).await??;
    accepted(&console, &id)
}

/// `POST /api/v1/jobs/{id}/retry`
pub(crate) async fn retry(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let (jobs, tried) = (Arc::clone(&console.jobs), id.clone());
    to_its_end(async move { jobs.retry(&tried).await }).await??;
    accepted(&console, &id)
}

/// How a report is to be written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReportFormat {
    #[default]
    Json,
    Csv,
    Html,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportQuery {
    #[serde(default)]
    format: ReportFormat,
}

/// `GET /api/v1/jobs/{id}/report`
pub(crate) async fn report(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let report = Report::of(&console.jobs.view(&id.parse()?)?);
    let text = |kind: &'static str, body: String| ([(header::CONTENT_TYPE, kind)], body);
    Ok(match query.format {
        ReportFormat::Json => Json(report).into_response(),
        ReportFormat::Csv => text("text/csv; charset=utf-8", report.csv()).into_response(),
        ReportFormat::Html => text("text/html; charset=utf-8", report.html()).into_response(),
    })
}

/// `POST /api/v1/jobs/{id}/cancel`
pub(crate) async fn cancel(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let (jobs, ends) = (Arc::clone(&console.jobs), id.clone());
    to_its_end(async move { jobs.cancel(&ends).await }).await??;
    accepted(&console, &id)
}

/// Takes the field `passkey` out of a recovery's request. What is left may be kept; this may not.
fn take_passkey(body: &mut Value) -> Result<Option<Passkey>, Problem> {
    let field = body.as_object_mut().and_then(|fields| fields.remove("passkey"));
    match field {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Passkey::new(&text)?)),
        Some(_) => Err(Problem::bad_request("`passkey` is a text")),
    }
}

fn accepted(console: &Console, id: &JobId) -> Result<Response, Problem> {
    Ok((StatusCode::ACCEPTED, Json(console.jobs.view(id)?)).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=KEY_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Problem::bad_request(format!(
            "Idempotency-Key must be 1 to {KEY_MAX} printable ASCII characters"
        ))),
    }
}

/// Runs what was begun to its end, also when the client goes away meanwhile.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.map_err(|e| Problem::internal(&e))
}
