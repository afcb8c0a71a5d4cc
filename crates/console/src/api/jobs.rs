use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{
        ConnectInfo, Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use rekindle_jobs::{
    CutOver, Destination, Finish, Forecast, JobError, JobId, JobView, Offer, RecoveryRequest,
    Report, TargetRef,
};
use rekindle_repo::Passkey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reasoned::Reasoned;
use crate::{
    Console, Problem,
    act::Act,
    auth::Caller,
    listen::ClientAddress,
    users::{Role, Scope},
};

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
    /// How a migration to a datastore comes to its end.
    #[serde(default)]
    cut_over: Option<CutOver>,
    #[serde(default)]
    remove_original: bool,
}

/// Why something is done to a job; the body may be absent.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhyBody {
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Migrate,
    Discard,
    Commit,
}

impl TryFrom<FinishBody> for Finish {
    type Error = Problem;

    fn try_from(body: FinishBody) -> Result<Self, Problem> {
        if body.cut_over.is_some() && !matches!(body.action, Action::Migrate) {
            return Err(Problem::bad_request("only `migrate` takes a `cut_over`"));
        }
        match (body.action, body.to) {
            (Action::Commit, None) => Ok(Self::Commit { remove_original: body.remove_original }),
            _ if body.remove_original => {
                Err(Problem::bad_request("`remove_original` belongs to `commit`"))
            }
            (Action::Migrate, to) => Ok(Self::Migrate { to, cut_over: body.cut_over }),
            (Action::Discard, None) => Ok(Self::Discard),
            (Action::Discard | Action::Commit, Some(_)) => {
                Err(Problem::bad_request("only `migrate` takes a `to`"))
            }
        }
    }
}

/// `POST /api/v1/recoveries`
pub(crate) async fn recover(
    State(console): State<Arc<Console>>,
    ConnectInfo(ClientAddress(client)): ConnectInfo<ClientAddress>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Json<Reasoned<Value>>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(Reasoned { reason, mut body }) = body?;
    let passkey = take_passkey(&mut body)?;
    let request: RecoveryRequest =
        serde_json::from_value(body).map_err(|e| Problem::bad_request(e.to_string()))?;
    let request = in_scope(sourced(&console, &caller, request)?, &caller.scope)?;
    let key = idempotency_key(&headers)?;
    let offer = Offer { passkey, client: client.ip() };
    let jobs = Arc::clone(&console.jobs);
    let act = Act::new(&caller, "recovery.start", subject(&request)).because(&console, reason)?;
    let started = async move { Ok(jobs.start_with(request, key, Some(offer)).await?) };
    let id = console.act(act, started).await?;
    let location = format!("/api/v1/jobs/{id}");
    let view = console.jobs.view(&id)?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// `POST /api/v1/recoveries/forecast`
pub(crate) async fn forecast(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<RecoveryRequest>, JsonRejection>,
) -> Result<Json<Forecast>, Problem> {
    let Json(request) = body?;
    let request = in_scope(sourced(&console, &caller, request)?, &caller.scope)?;
    Ok(Json(console.jobs.forecast(&request).await?))
}

/// `GET /api/v1/jobs`
pub(crate) async fn jobs(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<Jobs> {
    let mut jobs = console.jobs.list();
    jobs.retain(|job| caller.scope.has_job(job));
    jobs.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
    Json(Jobs { jobs })
}

/// `GET /api/v1/jobs/{id}`
pub(crate) async fn job(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    Ok(Json(visible(&console, &caller, &id.parse()?)?))
}

/// `POST /api/v1/jobs/{id}/finish`
pub(crate) async fn finish(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Result<Json<Reasoned<FinishBody>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Json(Reasoned { reason, body }) = body?;
    let how = Finish::try_from(body)?;
    if how == (Finish::Commit { remove_original: true }) {
        // To delete a VM that no recovery made is more than to end one.
        caller.has(Role::Admin)?;
    }
    visible(&console, &caller, &id)?;
    let action = match how {
        Finish::Migrate { .. } => "recovery.migrate",
        Finish::Discard => "recovery.discard",
        Finish::Commit { remove_original: false } => "recovery.commit",
        Finish::Commit { remove_original: true } => "recovery.commit_and_remove_original",
    };
    let (jobs, ends) = (Arc::clone(&console.jobs), id.clone());
    let act = Act::new(&caller, action, id.to_string()).because(&console, reason)?;
    console.act(act, async move { Ok(jobs.finish(&ends, how).await?) }).await?;
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
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Result<Json<Reasoned<ExtendBody>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Json(Reasoned { reason, body }) = body?;
    visible(&console, &caller, &id)?;
    let (jobs, moved) = (Arc::clone(&console.jobs), id.clone());
    let act = Act::new(&caller, "recovery.extend", id.to_string()).because(&console, reason)?;
    let work = async move { Ok(jobs.extend(&moved, body.expires_in_seconds).await?) };
    console.act(act, work).await?;
    accepted(&console, &id)
}

/// `POST /api/v1/jobs/{id}/undo`
pub(crate) async fn undo(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Result<Option<Json<WhyBody>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let reason = body?.and_then(|Json(body)| body.reason);
    visible(&console, &caller, &id)?;
    let (jobs, undone) = (Arc::clone(&console.jobs), id.clone());
    let act = Act::new(&caller, "recovery.undo", id.to_string()).because(&console, reason)?;
    console.act(act, async move { Ok(jobs.undo(&undone).await?) }).await?;
    accepted(&console, &id)
}

/// `POST /api/v1/jobs/{id}/retry`
pub(crate) async fn retry(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Result<Option<Json<WhyBody>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let reason = body?.and_then(|Json(body)| body.reason);
    visible(&console, &caller, &id)?;
    let (jobs, tried) = (Arc::clone(&console.jobs), id.clone());
    let act = Act::new(&caller, "recovery.retry", id.to_string()).because(&console, reason)?;
    console.act(act, async move { Ok(jobs.retry(&tried).await?) }).await?;
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
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let report = Report::of(&visible(&console, &caller, &id.parse()?)?);
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
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Result<Option<Json<WhyBody>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let reason = body?.and_then(|Json(body)| body.reason);
    visible(&console, &caller, &id)?;
    let (jobs, ends) = (Arc::clone(&console.jobs), id.clone());
    let act = Act::new(&caller, "recovery.cancel", id.to_string()).because(&console, reason)?;
    console.act(act, async move { Ok(jobs.cancel(&ends).await?) }).await?;
    accepted(&console, &id)
}

/// Takes the field `passkey` out of a recovery's request. What is left may be kept; this may not.
pub(super) fn take_passkey(body: &mut Value) -> Result<Option<Passkey>, Problem> {
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

/// What a recovery is of and where it goes, for the record.
fn subject(request: &RecoveryRequest) -> String {
    let target = match &request.target {
        TargetRef::Export { clients } => {
            let clients: Vec<_> = clients.iter().map(ToString::to_string).collect();
            format!("export to {}", clients.join(", "))
        }
        TargetRef::Vsphere { name, .. } => name.clone(),
        TargetRef::Nowhere {} => "a directory".into(),
    };
    match &request.from_job {
        Some(job) => format!("what job {job} has now on {target}"),
        None => format!("{} on {target}", request.point),
    }
}

/// The job, unless it is outside the caller's scope: then there is none for this caller.
pub(super) fn visible(console: &Console, caller: &Caller, id: &JobId) -> Result<JobView, Problem> {
    let view = console.jobs.view(id)?;
    if caller.scope.has_job(&view) {
        return Ok(view);
    }
    Err(JobError::NotFound { what: "job", name: id.to_string() }.into())
}

/// The request, in the repository of the job that it is of, if that is one which the caller sees.
fn sourced(
    console: &Console,
    caller: &Caller,
    mut request: RecoveryRequest,
) -> Result<RecoveryRequest, Problem> {
    if let Some(job) = &request.from_job {
        let source = visible(console, caller, job)?;
        request.repository.get_or_insert(source.repository);
    }
    Ok(request)
}

/// The request, if its target and repository are in `scope`. Whoever deals with one repository need
/// not name it; whoever deals with several names which, so that none outside is looked into.
pub(super) fn in_scope(
    mut request: RecoveryRequest,
    scope: &Scope,
) -> Result<RecoveryRequest, Problem> {
    if !scope.has_target(&request.target) {
        return Err(Problem::forbidden("this target is not among those you deal with"));
    }
    let Some(known) = &scope.repositories else { return Ok(request) };
    if request.in_place.as_ref().is_some_and(|in_place| in_place.original.is_some()) {
        // Whose VMs are in these repositories does not deal with any other of the target.
        return Err(Problem::forbidden(
            "for you only the VM with the backed-up VM's name steps aside: leave out `original`",
        ));
    }
    if request.repository.is_none() && known.len() == 1 {
        request.repository = known.first().cloned();
    }
    match &request.repository {
        Some(name) if known.contains(name) => Ok(request),
        Some(_) => Err(Problem::forbidden("this repository is not among those you deal with")),
        None => Err(Problem::bad_request("name the `repository`: you deal with several")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn in_place(which: &str) -> RecoveryRequest {
        let target = serde_json::json!({ "kind": "vsphere", "name": "lab" });
        let in_place: Value = serde_json::from_str(which).unwrap();
        let body = serde_json::json!({ "point": "web", "target": target, "in_place": in_place });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn who_deals_with_some_repositories_sets_no_other_vm_aside() {
        let some = Scope { repositories: Some(["main".to_owned()].into()), ..Scope::default() };
        let told = in_place(r#"{"original": {"moref": "vm-7"}}"#);
        assert!(in_scope(told.clone(), &Scope::default()).is_ok());
        assert_eq!(in_scope(told, &some).err().unwrap().code, "forbidden");
        assert!(in_scope(in_place("{}"), &some).is_ok());
    }

    #[test]
    fn only_a_commit_removes_an_original() {
        let finish = |text| Finish::try_from(serde_json::from_str::<FinishBody>(text).unwrap());
        let commit = r#"{"action": "commit", "remove_original": true}"#;
        assert_eq!(finish(commit).ok(), Some(Finish::Commit { remove_original: true }));
        let kept = finish(r#"{"action": "commit"}"#).ok();
        assert_eq!(kept, Some(Finish::Commit { remove_original: false }));
        for bad in [
            r#"{"action": "migrate", "remove_original": true}"#,
            r#"{"action": "discard", "remove_original": true}"#,
            r#"{"action": "commit", "to": {"datastore": "d"}}"#,
        ] {
            assert!(finish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_migration_is_told_how_the_guest_is_stopped() {
        let finish = |text| Finish::try_from(serde_json::from_str::<FinishBody>(text).unwrap());
        let cut_over = Some(CutOver { shut_down_seconds: Some(60), ..CutOver::default() });
        let told = r#"{"action": "migrate", "cut_over": {"shut_down_seconds": 60}}"#;
        assert_eq!(finish(told).ok(), Some(Finish::Migrate { to: None, cut_over }));
        assert!(finish(r#"{"action": "discard", "cut_over": {}}"#).is_err());
        let unknown = r#"{"action": "migrate", "cut_over": {"stop": "suspend"}}"#;
        assert!(serde_json::from_str::<FinishBody>(unknown).is_err());
    }
}
