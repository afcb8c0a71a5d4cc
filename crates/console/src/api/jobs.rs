use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{ConnectInfo, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use rekindle_jobs::{
    CutOver, Destination, Finish, Forecast, JobError, JobId, JobView, Offer, RecoveryRequest,
    Report, TargetRef, Verification,
};
use rekindle_repo::Passkey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reasoned::{Asked, Reasoned};
use crate::{
    Console, Problem,
    act::{Act, REASON_MAX},
    auth::Caller,
    given::{At, Body, MaybeBody},
    listen::ClientAddress,
    once,
    paging::{self, Place},
    tag::{self, Seen},
    users::{Role, Scope},
};

/// The most jobs in one part of the list, at about 8 KiB each: 8 MiB.
const JOBS_MAX: usize = 1000;

#[derive(Serialize, JsonSchema)]
pub(crate) struct Jobs {
    jobs: Vec<JobView>,
    /// What to ask for as `cursor` for the next part; none if this is the last.
    next: Option<String>,
}

/// Which part of a list is wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    /// The most entries in the answer.
    #[schemars(range(min = 1, max = JOBS_MAX))]
    limit: Option<usize>,
    /// What `next` was in the answer before; the newest entries when absent.
    cursor: Option<String>,
}

impl Paging {
    pub(super) fn wanted(&self) -> Result<(Option<&str>, usize), Problem> {
        Ok((self.cursor.as_deref(), paging::limit(self.limit, JOBS_MAX)?))
    }
}

/// How a job is to end.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishBody {
    action: Action,
    #[serde(default)]
    to: Option<Destination>,
    /// How a migration to a datastore comes to its end.
    #[serde(default)]
    cut_over: Option<CutOver>,
    /// How much of the copy is compared.
    #[serde(default)]
    verify: Option<Verification>,
    #[serde(default)]
    remove_original: bool,
}

/// Why something is done to a job; the body may be absent.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhyBody {
    /// Why, for the audit log.
    #[serde(default)]
    #[schemars(length(max = REASON_MAX))]
    pub(super) reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
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
            return Err(Problem::refused("only `migrate` takes a `cut_over`"));
        }
        if body.verify.is_some() && !matches!(body.action, Action::Migrate) {
            return Err(Problem::refused("only `migrate` takes a `verify`"));
        }
        match (body.action, body.to) {
            (Action::Commit, None) => Ok(Self::Commit { remove_original: body.remove_original }),
            _ if body.remove_original => {
                Err(Problem::refused("`remove_original` belongs to `commit`"))
            }
            (Action::Migrate, to) => {
                Ok(Self::Migrate { to, cut_over: body.cut_over, verify: body.verify })
            }
            (Action::Discard, None) => Ok(Self::Discard),
            (Action::Discard | Action::Commit, Some(_)) => {
                Err(Problem::refused("only `migrate` takes a `to`"))
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
    body: Result<Body<Asked<RecoveryRequest>>, Problem>,
) -> Result<Response, Problem> {
    let Body(Asked { reason, passkey, body }) = body?;
    let passkey = offered(passkey)?;
    let request = in_scope(sourced(&console, &caller, body)?, &caller.scope)?;
    let key = once::key(&headers, 1)?;
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
    body: Result<Body<RecoveryRequest>, Problem>,
) -> Result<Json<Forecast>, Problem> {
    let Body(request) = body?;
    let request = in_scope(sourced(&console, &caller, request)?, &caller.scope)?;
    Ok(Json(console.jobs.forecast(&request).await?))
}

/// `GET /api/v1/jobs`
pub(crate) async fn jobs(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Jobs>, Problem> {
    let Query(paging) = paging?;
    let mut jobs = console.jobs.list();
    jobs.retain(|job| caller.scope.has_job(job));
    let place = |job: &JobView| Place::new(job.created_at, job.id.as_str());
    let part = paging::part(jobs, paging.wanted()?, place)?;
    Ok(Json(Jobs { jobs: part.entries, next: part.next }))
}

/// `GET /api/v1/jobs/{id}`
pub(crate) async fn job(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(tag::shown(&headers, &visible(&console, &caller, &id.parse()?)?))
}

/// `POST /api/v1/jobs/{id}/finish`
pub(crate) async fn finish(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
    body: Result<Body<Reasoned<FinishBody>>, Problem>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Body(Reasoned { reason, body }) = body?;
    let how = Finish::try_from(body)?;
    if how == (Finish::Commit { remove_original: true }) {
        // To delete a VM that no recovery made is more than to end one.
        caller.has(Role::Admin)?;
    }
    let action = match how {
        Finish::Migrate { .. } => "recovery.migrate",
        Finish::Discard => "recovery.discard",
        Finish::Commit { remove_original: false } => "recovery.commit",
        Finish::Commit { remove_original: true } => "recovery.commit_and_remove_original",
    };
    let wish = Wish { action, reason, seen: Seen::of(&headers) };
    let (jobs, ends) = (Arc::clone(&console.jobs), id.clone());
    change(&console, &caller, &id, wish, async move { Ok(jobs.finish(&ends, how).await?) }).await
}

/// A new time limit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendBody {
    expires_in_seconds: u64,
}

/// `POST /api/v1/jobs/{id}/extend`
pub(crate) async fn extend(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
    body: Result<Body<Reasoned<ExtendBody>>, Problem>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let Body(Reasoned { reason, body }) = body?;
    let wish = Wish { action: "recovery.extend", reason, seen: Seen::of(&headers) };
    let (jobs, moved) = (Arc::clone(&console.jobs), id.clone());
    change(&console, &caller, &id, wish, async move {
        Ok(jobs.extend(&moved, body.expires_in_seconds).await?)
    })
    .await
}

/// `POST /api/v1/jobs/{id}/undo`
pub(crate) async fn undo(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
    body: Result<MaybeBody<WhyBody>, Problem>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let reason = body?.0.reason;
    let wish = Wish { action: "recovery.undo", reason, seen: Seen::of(&headers) };
    let (jobs, undone) = (Arc::clone(&console.jobs), id.clone());
    change(&console, &caller, &id, wish, async move { Ok(jobs.undo(&undone).await?) }).await
}

/// `POST /api/v1/jobs/{id}/retry`
pub(crate) async fn retry(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
    headers: HeaderMap,
    body: Result<MaybeBody<WhyBody>, Problem>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let reason = body?.0.reason;
    let wish = Wish { action: "recovery.retry", reason, seen: Seen::of(&headers) };
    let (jobs, tried) = (Arc::clone(&console.jobs), id.clone());
    change(&console, &caller, &id, wish, async move { Ok(jobs.retry(&tried).await?) }).await
}

/// How a report is to be written.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ReportFormat {
    #[default]
    Json,
    Csv,
    Html,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportQuery {
    #[serde(default)]
    format: ReportFormat,
}

/// `GET /api/v1/jobs/{id}/report`
pub(crate) async fn report(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    At(id): At,
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
    At(id): At,
    headers: HeaderMap,
    body: Result<MaybeBody<WhyBody>, Problem>,
) -> Result<Response, Problem> {
    let id: JobId = id.parse()?;
    let reason = body?.0.reason;
    let wish = Wish { action: "recovery.cancel", reason, seen: Seen::of(&headers) };
    let (jobs, ends) = (Arc::clone(&console.jobs), id.clone());
    change(&console, &caller, &id, wish, async move { Ok(jobs.cancel(&ends).await?) }).await
}

pub(super) fn offered(passkey: Option<String>) -> Result<Option<Passkey>, Problem> {
    Ok(passkey.map(|text| Passkey::new(&text)).transpose()?)
}

/// What is to be done to a job, why, and how the caller has seen it.
struct Wish {
    action: &'static str,
    reason: Option<String>,
    seen: Seen,
}

/// Does something to a job that the caller sees, if it is still as it was then.
async fn change(
    console: &Arc<Console>,
    caller: &Caller,
    id: &JobId,
    wish: Wish,
    work: impl Future<Output = Result<(), Problem>> + Send + 'static,
) -> Result<Response, Problem> {
    visible(console, caller, id)?;
    let act = Act::new(caller, wish.action, id.to_string()).because(console, wish.reason)?;
    let (of, console_) = (id.clone(), Arc::clone(console));
    let in_turn = async move {
        let _turn = console_.lanes.turn(of.as_str()).await;
        wish.seen.holds(&tag::of(&console_.jobs.view(&of)?))?;
        work.await
    };
    console.act(act, in_turn).await?;
    accepted(console, id)
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
    if request.attach_to.is_some() {
        return Err(Problem::forbidden(
            "for you disks are not attached to a VM of the target: leave out `attach_to`",
        ));
    }
    if request.repository.is_none() && known.len() == 1 {
        request.repository = known.first().cloned();
    }
    match &request.repository {
        Some(name) if known.contains(name) => Ok(request),
        Some(_) => Err(Problem::forbidden("this repository is not among those you deal with")),
        None => Err(Problem::refused("name the `repository`: you deal with several")),
    }
}

#[cfg(test)]
mod tests {
    use rekindle_jobs::Sampling;

    use super::*;

    fn in_place(which: &str) -> RecoveryRequest {
        let target = serde_json::json!({ "kind": "vsphere", "name": "lab" });
        let in_place: serde_json::Value = serde_json::from_str(which).unwrap();
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
        let mut attached = in_place("{}");
        (attached.in_place, attached.attach_to) = (None, told_by_name());
        assert!(in_scope(attached.clone(), &Scope::default()).is_ok());
        assert_eq!(in_scope(attached, &some).err().unwrap().code, "forbidden");
    }

    fn told_by_name() -> Option<rekindle_jobs::OriginalRef> {
        Some(rekindle_jobs::OriginalRef::Name("web".into()))
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
        assert_eq!(finish(told).ok(), Some(Finish::Migrate { to: None, cut_over, verify: None }));
        let told = r#"{"action": "migrate", "verify": {"sampled": {"percent": 5}}}"#;
        let sampled = Verification::Sampled(Sampling { percent: 5, seed: None });
        let migrate = Finish::Migrate { to: None, cut_over: None, verify: Some(sampled) };
        assert_eq!(finish(told).ok(), Some(migrate));
        assert!(finish(r#"{"action": "discard", "verify": "full"}"#).is_err());
        assert!(finish(r#"{"action": "discard", "cut_over": {}}"#).is_err());
        let unknown = r#"{"action": "migrate", "cut_over": {"stop": "suspend"}}"#;
        assert!(serde_json::from_str::<FinishBody>(unknown).is_err());
    }
}
