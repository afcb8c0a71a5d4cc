use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};
use rekindle_jobs::{
    BatchRequest, BatchView, CheckRequest, Forecast, JobView, KeepRequest, PruneRequest,
    RecoveryRequest, Report, UpkeepView,
};

use super::{ADMIN, Call, Content, OPERATE, Once, RESTORE, VIEWER, WHOLE, call, fields, json};
use crate::{
    api::{
        self, Asked, Reasoned, audit, batches, jobs, notifications, points, repositories, state,
        status, tokens, users,
    },
    auth, metrics,
    openapi::document,
    users::UserView,
};

/// How a call ends that asks jobs for something, and they refuse.
const JOB: &[u16] = &[403, 404, 409, 422, 503, 507];

const NOTHING: Content = Content::Nothing;
const EVENTS: Content = Content::Text("text/event-stream");
const METRICS: Content = Content::Text("application/openmetrics-text");
const TEXT: Content = Content::Text("text/plain");
const DOCUMENT: Content = Content::Any;
const NOBODY: Option<super::Need> = None;

pub(crate) const CALLS: &[Call] = &[
    call("POST", "/api/v1/session", NOBODY, || post(auth::log_in), "log in with {token}, or {user, password, totp?}, for a cookie (the page's way)").takes(json::<auth::LogIn>()).answers(204, NOTHING).fails(&[401, 403, 503]),
    call("GET", "/api/v1/session", VIEWER, || get(auth::session_view), "who the caller is").answers(200, Content::Json(json::<auth::SessionView>())),
    call("DELETE", "/api/v1/session", VIEWER, || delete(auth::log_out), "log out").answers(204, NOTHING),
    call("GET", "/api/v1/repositories", VIEWER, || get(api::repositories), "configured repositories, and whether each can be read").answers(200, Content::Json(json::<repositories::Repositories>())),
    call("GET", "/api/v1/repositories/{name}/upkeep", VIEWER, || get(api::upkeep), "what prunes or checks the repository now, and how the last prune and check ended").answers(200, Content::Json(json::<UpkeepView>())),
    call("POST", "/api/v1/repositories/{name}/prune", ADMIN, || post(api::prune), "let old points go: {keep?, grace_hours?, drop?, spare?, dry_run?, reason?}; 202, the upkeep tells how it ends").takes(json::<Reasoned<PruneRequest>>()).answers(202, Content::Json(json::<UpkeepView>())).fails(JOB).once(Once::Kept),
    call("POST", "/api/v1/repositories/{name}/check", OPERATE, || post(api::check), "verify what is stored: {point?, depth: structure | data, max_mb_per_second?, from_start?, reason?}; 202").takes(json::<Reasoned<CheckRequest>>()).answers(202, Content::Json(json::<UpkeepView>())).fails(JOB).once(Once::Kept),
    call("POST", "/api/v1/repositories/{name}/upkeep/cancel", OPERATE, || post(api::stop_upkeep), "stop it: {reason?}, or no body; what it did stays done, and a check goes on from there the next time").may_take(json::<jobs::WhyBody>()).answers(202, Content::Json(json::<UpkeepView>())).fails(JOB),
    call("GET", "/api/v1/points", VIEWER, || get(api::points), "recovery points, newest first, in parts; ?repository= and ?vm= select, ?condemned=true those that a prune lets go, ?check=sound, damaged or unchecked").asks(fields::<points::Selection>()).answers(200, Content::Json(json::<points::Points>())).fails(&[404]),
    call("GET", "/api/v1/targets", VIEWER, || get(api::targets), "configured targets").answers(200, Content::Json(json::<status::Targets>())),
    call("POST", "/api/v1/recoveries", RESTORE, || post(api::recover), "start a recovery, of a `point` or of what a job has now (`from_job`), with a `reason`: 202, Location, and the job; honours Idempotency-Key; `passkey` opens a sealed repository").takes(json::<Asked<RecoveryRequest>>()).answers(202, Content::Json(json::<JobView>())).fails(JOB).located().once(Once::Job),
    call("POST", "/api/v1/recoveries/forecast", VIEWER, || post(api::forecast), "how long a recovery would take; starts none").takes(json::<RecoveryRequest>()).answers(200, Content::Json(json::<Forecast>())).fails(JOB),
    call("POST", "/api/v1/jobs/{id}/extend", RESTORE, || post(api::extend), "move a live mount's limit: {expires_in_seconds, reason?}").takes(json::<Reasoned<jobs::ExtendBody>>()).answers(202, Content::Json(json::<JobView>())).fails(JOB).matched(),
    call("POST", "/api/v1/jobs/{id}/undo", RESTORE, || post(api::undo), "serve a kept job again, with what its guest wrote: {reason?}, or no body").may_take(json::<jobs::WhyBody>()).answers(202, Content::Json(json::<JobView>())).fails(JOB).matched(),
    call("POST", "/api/v1/jobs/{id}/retry", RESTORE, || post(api::retry), "try at once what a stuck job cannot get past: {reason?}, or no body").may_take(json::<jobs::WhyBody>()).answers(202, Content::Json(json::<JobView>())).fails(JOB).matched(),
    call("POST", "/api/v1/jobs/{id}/keep", RESTORE, || post(api::keep), "make a recovery point of what a guest wrote: {tags?, reason?}; 202, the upkeep of the job's repository tells how it ends").takes(json::<Reasoned<KeepRequest>>()).answers(202, Content::Json(json::<UpkeepView>())).fails(JOB).once(Once::Kept),
    call("GET", "/api/v1/jobs/{id}/report", VIEWER, || get(api::report), "planned and measured; ?format=json, csv or html").asks(fields::<jobs::ReportQuery>()).answers(200, Content::JsonOr(json::<Report>(), &["text/csv", "text/html"])),
    call("GET", "/api/v1/jobs", VIEWER, || get(api::jobs), "jobs, newest first, in parts").asks(fields::<jobs::Paging>()).answers(200, Content::Json(json::<jobs::Jobs>())),
    call("POST", "/api/v1/batches", RESTORE, || post(api::start_batch).layer(DefaultBodyLimit::max(api::BATCH_BODY_MAX)), "start many recoveries in ordered groups: {name?, groups, on_error?, reason?, passkey?}").takes(json::<Asked<BatchRequest>>()).answers(202, Content::Json(json::<BatchView>())).fails(JOB).located().once(Once::Kept),
    call("GET", "/api/v1/batches", VIEWER, || get(api::batches), "batches, newest first, in parts").asks(fields::<jobs::Paging>()).answers(200, Content::Json(json::<batches::Batches>())),
    call("GET", "/api/v1/batches/{id}", VIEWER, || get(api::batch), "one batch: its groups, VMs and gates").answers(200, Content::Json(json::<BatchView>())).cached(),
    call("GET", "/api/v1/batches/{id}/events", VIEWER, || get(api::batch_events), "server-sent events: `batch` with the batch, then `end`").answers(200, EVENTS).fails(&[503]),
    call("POST", "/api/v1/batches/{id}/cancel", RESTORE, || post(api::cancel_batch), "begin no more of a batch's groups; its jobs go on: {reason?}, or no body").may_take(json::<jobs::WhyBody>()).answers(202, Content::Json(json::<BatchView>())).fails(JOB).matched(),
    call("POST", "/api/v1/batches/{id}/resume", RESTORE, || post(api::resume_batch), "let a batch that was halted go on: {failed?: retry | skip, reason?}, or no body, which retries").may_take(json::<batches::ResumeBody>()).answers(202, Content::Json(json::<BatchView>())).fails(JOB).matched(),
    call("GET", "/api/v1/jobs/{id}", VIEWER, || get(api::job), "one job: state, steps, progress, export, timeline").answers(200, Content::Json(json::<JobView>())).cached(),
    call("POST", "/api/v1/jobs/{id}/finish", RESTORE, || post(api::finish), "end a job: {action: migrate | discard | commit, to?, cut_over?, verify?, remove_original?, reason?}").takes(json::<Reasoned<jobs::FinishBody>>()).answers(202, Content::Json(json::<JobView>())).fails(JOB).matched(),
    call("POST", "/api/v1/jobs/{id}/cancel", RESTORE, || post(api::cancel), "take a job back: {reason?}, or no body").may_take(json::<jobs::WhyBody>()).answers(202, Content::Json(json::<JobView>())).fails(JOB).matched(),
    call("GET", "/api/v1/jobs/{id}/events", VIEWER, || get(api::events), "the job as server-sent events, until it ends").answers(200, EVENTS).fails(&[503]),
    call("GET", "/api/v1/exports", VIEWER, || get(api::exports), "exports, their clients and counters").answers(200, Content::Json(json::<status::Exports>())),
    call("GET", "/api/v1/cache", VIEWER, || get(api::cache), "the cache and the space for guests' writes").answers(200, Content::Json(json::<status::CacheView>())),
    call("GET", "/api/v1/users", ADMIN, || get(api::users), "users").answers(200, Content::Json(json::<users::UserList>())),
    call("POST", "/api/v1/users", ADMIN, || post(api::add_user), "make a user: {name, password, role, scope?}").takes(json::<users::NewUser>()).answers(201, Content::Json(json::<UserView>())).fails(&[409, 422, 507]).tagged().once(Once::Kept),
    call("GET", "/api/v1/users/{name}", VIEWER, || get(api::user), "one user, with its ETag; others than oneself need an admin").answers(200, Content::Json(json::<UserView>())).fails(&[403]).tagged().cached(),
    call("PUT", "/api/v1/users/{name}", ADMIN, || put(api::set_grant), "change what a user may do: {role, scope?}; honours If-Match").takes(json::<users::Grant>()).answers(200, Content::Json(json::<UserView>())).fails(&[422, 507]).tagged().matched(),
    call("DELETE", "/api/v1/users/{name}", ADMIN, || delete(api::remove_user), "remove a user, its sessions and its tokens; honours If-Match").answers(204, NOTHING).fails(&[422, 507]).matched(),
    call("POST", "/api/v1/users/{name}/password", VIEWER, || post(api::set_password), "set a password: {password, current?}; one's own needs `current`, that of others an admin").takes(json::<users::NewPassword>()).answers(204, NOTHING).fails(&[422, 507]),
    call("POST", "/api/v1/users/{name}/totp", VIEWER, || post(api::begin_totp), "begin a second factor of one's own: its secret, told once").answers(201, Content::Json(json::<users::TotpView>())).fails(&[422, 507]).once(Once::Kept),
    call("POST", "/api/v1/users/{name}/totp/confirm", VIEWER, || post(api::confirm_totp), "show a code of it: {code}; it counts from then on").takes(json::<users::Code>()).answers(204, NOTHING).fails(&[422, 507]),
    call("DELETE", "/api/v1/users/{name}/totp", VIEWER, || delete(api::remove_totp), "remove a second factor: one's own with a code, that of others as admin").answers(204, NOTHING).fails(&[422, 507]).with_code(),
    call("GET", "/api/v1/tokens", VIEWER, || get(api::tokens), "one's own API tokens; all of them for an admin").answers(200, Content::Json(json::<tokens::TokenList>())),
    call("POST", "/api/v1/tokens", VIEWER, || post(api::add_token), "make an API token: {name, expires_in_seconds, role?, scope?}; its text is told once").takes(json::<tokens::NewToken>()).answers(201, Content::Json(json::<tokens::MadeToken>())).fails(&[404, 422, 507]).once(Once::Kept),
    call("DELETE", "/api/v1/tokens/{id}", VIEWER, || delete(api::remove_token), "remove an API token").answers(204, NOTHING).fails(&[507]),
    call("GET", "/api/v1/audit", ADMIN, || get(api::audit), "the audit log in order, in parts; ?from= or ?cursor= say where to begin, without them the newest").asks(fields::<audit::Part>()).answers(200, Content::Json(json::<audit::AuditPart>())),
    call("GET", "/api/v1/notifications", WHOLE, || get(api::notifications), "webhooks, mail and syslog: what each is told, and what waits for it").answers(200, Content::Json(json::<notifications::Channels>())),
    call("POST", "/api/v1/notifications/test", ADMIN, || post(api::test_notifications), "send a test event to each of them: {results}, with what came back").answers(200, Content::Json(json::<notifications::Tested>())),
    call("GET", "/api/v1/settings", WHOLE, || get(api::settings), "the configuration in force: keys, values, and what is default").answers(200, Content::Json(json::<status::Settings>())),
    call("GET", "/api/v1/state/backups", ADMIN, || get(api::state_backups), "backups of the appliance's own state: where they are, and which there are").answers(200, Content::Json(json::<state::StateBackups>())),
    call("POST", "/api/v1/state/backups", ADMIN, || post(api::back_up_state), "make one now, into the configured directory").answers(201, Content::Json(json::<state::StateBackup>())).fails(&[409]).once(Once::Kept),
    call("GET", "/api/v1/openapi.json", VIEWER, || get(document), "this list as OpenAPI 3.1").answers(200, DOCUMENT),
    call("GET", "/metrics", WHOLE, || get(metrics::metrics), "Prometheus metrics").answers(200, METRICS),
    call("GET", "/readyz", VIEWER, || get(api::ready), "200 while recoveries are served, 503 otherwise").answers(200, TEXT).fails(&[503]),
];
