//! Every call of the API: where it is, who may make it, what it does. The router, the guard and the
//! documents go by this list.

use axum::http::Method;

use crate::users::Role;

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Everyone who is known, for what is in their scope.
    Viewer,
    /// Everyone who is known and whose scope is everything.
    Whole,
    /// Operators, for what is in their scope.
    Operate,
    /// The same; with a one-time code where that is configured.
    Restore,
    /// Admins whose scope is everything.
    Admin,
}

impl Need {
    /// Who that is, in a word.
    pub(crate) fn who(self) -> &'static str {
        match self {
            Self::Viewer | Self::Whole => Role::Viewer.as_str(),
            Self::Operate | Self::Restore => Role::Operator.as_str(),
            Self::Admin => Role::Admin.as_str(),
        }
    }
}

/// One call.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// `None`: open to everyone.
    pub(crate) need: Option<Need>,
    /// Whether it takes a body.
    pub(crate) body: bool,
    pub(crate) what: &'static str,
}

const fn call(
    method: &'static str,
    path: &'static str,
    need: Option<Need>,
    body: bool,
    what: &'static str,
) -> Call {
    Call { method, path, need, body, what }
}

const VIEWER: Option<Need> = Some(Need::Viewer);
const WHOLE: Option<Need> = Some(Need::Whole);
const OPERATE: Option<Need> = Some(Need::Operate);
const RESTORE: Option<Need> = Some(Need::Restore);
const ADMIN: Option<Need> = Some(Need::Admin);

pub(crate) const CALLS: &[Call] = &[
    call(
        "POST",
        "/api/v1/session",
        None,
        true,
        "log in with {token}, or {user, password, totp?}, for a cookie (the page's way)",
    ),
    call("GET", "/api/v1/session", VIEWER, false, "who the caller is"),
    call("DELETE", "/api/v1/session", VIEWER, false, "log out"),
    call(
        "GET",
        "/api/v1/repositories",
        VIEWER,
        false,
        "configured repositories, and whether each can be read",
    ),
    call(
        "GET",
        "/api/v1/repositories/{name}/upkeep",
        VIEWER,
        false,
        "what prunes or checks the repository now, and how the last prune and check ended",
    ),
    call(
        "POST",
        "/api/v1/repositories/{name}/prune",
        ADMIN,
        true,
        "let old points go: {keep?, grace_hours?, drop?, spare?, dry_run?, reason?}; 202, the upkeep tells how it ends",
    ),
    call(
        "POST",
        "/api/v1/repositories/{name}/check",
        OPERATE,
        true,
        "verify what is stored: {point?, depth: structure | data, max_mb_per_second?, from_start?, reason?}; 202",
    ),
    call(
        "DELETE",
        "/api/v1/repositories/{name}/upkeep",
        OPERATE,
        false,
        "stop it; what it did stays done, and a check goes on from there the next time",
    ),
    call(
        "GET",
        "/api/v1/points",
        VIEWER,
        false,
        "recovery points, newest first; ?repository= and ?vm= select, ?condemned=true those that a prune lets go, ?check=sound, damaged or unchecked",
    ),
    call("GET", "/api/v1/targets", VIEWER, false, "configured targets"),
    call(
        "POST",
        "/api/v1/recoveries",
        RESTORE,
        true,
        "start a recovery, of a `point` or of what a job has now (`from_job`), with a `reason`: 202, Location, and the job; honours Idempotency-Key; `passkey` opens a sealed repository",
    ),
    call(
        "POST",
        "/api/v1/recoveries/forecast",
        VIEWER,
        true,
        "how long a recovery would take; starts none",
    ),
    call(
        "POST",
        "/api/v1/jobs/{id}/extend",
        RESTORE,
        true,
        "move a live mount's limit: {expires_in_seconds, reason?}",
    ),
    call(
        "POST",
        "/api/v1/jobs/{id}/undo",
        RESTORE,
        true,
        "serve a kept job again, with what its guest wrote: {reason?}, or no body",
    ),
    call(
        "POST",
        "/api/v1/jobs/{id}/retry",
        RESTORE,
        true,
        "try at once what a stuck job cannot get past: {reason?}, or no body",
    ),
    call(
        "POST",
        "/api/v1/jobs/{id}/keep",
        RESTORE,
        true,
        "make a recovery point of what a guest wrote: {tags?, reason?}; 202, the upkeep of the job's repository tells how it ends",
    ),
    call(
        "GET",
        "/api/v1/jobs/{id}/report",
        VIEWER,
        false,
        "planned and measured; ?format=json, csv or html",
    ),
    call("GET", "/api/v1/jobs", VIEWER, false, "jobs, newest first"),
    call(
        "POST",
        "/api/v1/batches",
        RESTORE,
        true,
        "start many recoveries in ordered groups: {name?, groups, on_error?, reason?, passkey?}",
    ),
    call("GET", "/api/v1/batches", VIEWER, false, "batches, newest first"),
    call("GET", "/api/v1/batches/{id}", VIEWER, false, "one batch: its groups, VMs and gates"),
    call(
        "GET",
        "/api/v1/batches/{id}/events",
        VIEWER,
        false,
        "server-sent events: `batch` with the batch, then `end`",
    ),
    call(
        "POST",
        "/api/v1/batches/{id}/cancel",
        RESTORE,
        true,
        "begin no more of a batch's groups; its jobs go on: {reason?}, or no body",
    ),
    call(
        "GET",
        "/api/v1/jobs/{id}",
        VIEWER,
        false,
        "one job: state, steps, progress, export, timeline",
    ),
    call(
        "POST",
        "/api/v1/jobs/{id}/finish",
        RESTORE,
        true,
        "end a job: {action: migrate | discard | commit, to?, remove_original?, reason?}",
    ),
    call(
        "POST",
        "/api/v1/jobs/{id}/cancel",
        RESTORE,
        true,
        "take a job back: {reason?}, or no body",
    ),
    call(
        "GET",
        "/api/v1/jobs/{id}/events",
        VIEWER,
        false,
        "the job as server-sent events, until it ends",
    ),
    call("GET", "/api/v1/exports", VIEWER, false, "exports, their clients and counters"),
    call("GET", "/api/v1/cache", VIEWER, false, "the cache and the space for guests' writes"),
    call("GET", "/api/v1/users", ADMIN, false, "users"),
    call("POST", "/api/v1/users", ADMIN, true, "make a user: {name, password, role, scope?}"),
    call(
        "GET",
        "/api/v1/users/{name}",
        VIEWER,
        false,
        "one user, with its ETag; others than oneself need an admin",
    ),
    call(
        "PUT",
        "/api/v1/users/{name}",
        ADMIN,
        true,
        "change what a user may do: {role, scope?}; honours If-Match",
    ),
    call(
        "DELETE",
        "/api/v1/users/{name}",
        ADMIN,
        false,
        "remove a user, its sessions and its tokens; honours If-Match",
    ),
    call(
        "POST",
        "/api/v1/users/{name}/password",
        VIEWER,
        true,
        "set a password: {password, current?}; one's own needs `current`, that of others an admin",
    ),
    call(
        "POST",
        "/api/v1/users/{name}/totp",
        VIEWER,
        false,
        "begin a second factor of one's own: its secret, told once",
    ),
    call(
        "POST",
        "/api/v1/users/{name}/totp/confirm",
        VIEWER,
        true,
        "show a code of it: {code}; it counts from then on",
    ),
    call(
        "DELETE",
        "/api/v1/users/{name}/totp",
        VIEWER,
        false,
        "remove a second factor: one's own with a code, that of others as admin",
    ),
    call("GET", "/api/v1/tokens", VIEWER, false, "one's own API tokens; all of them for an admin"),
    call(
        "POST",
        "/api/v1/tokens",
        VIEWER,
        true,
        "make an API token: {name, expires_in_seconds, role?, scope?}; its text is told once",
    ),
    call("DELETE", "/api/v1/tokens/{id}", VIEWER, false, "remove an API token"),
    call(
        "GET",
        "/api/v1/audit",
        ADMIN,
        false,
        "the audit log in order; ?from= and ?limit= select, without from the newest",
    ),
    call(
        "GET",
        "/api/v1/notifications",
        WHOLE,
        false,
        "webhooks, mail and syslog: what each is told, and what waits for it",
    ),
    call(
        "POST",
        "/api/v1/notifications/test",
        ADMIN,
        false,
        "send a test event to each of them: {results}, with what came back",
    ),
    call(
        "GET",
        "/api/v1/settings",
        WHOLE,
        false,
        "the configuration in force: keys, values, and what is default",
    ),
    call("GET", "/api/v1/openapi.json", VIEWER, false, "this list as OpenAPI 3.1"),
    call("GET", "/metrics", WHOLE, false, "Prometheus metrics"),
    call("GET", "/readyz", VIEWER, false, "200 while recoveries are served, 503 otherwise"),
];

/// What a call needs. One that is not on the list is nobody's but an admin's.
pub(crate) fn need(method: &Method, path: Option<&str>) -> Need {
    let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
    let Some(path) = path else { return Need::Viewer };
    let known = CALLS.iter().find(|call| call.path == path && call.method == method.as_str());
    known.and_then(|call| call.need).unwrap_or(Need::Admin)
}

/// One line per call, for people.
pub fn describe() -> String {
    let line = |call: &Call| {
        let who = call.need.map_or("-", Need::who);
        format!("{:<7}{:<35}{who:<9}{}\n", call.method, call.path, call.what)
    };
    let lines: String = CALLS.iter().map(line).collect();
    format!(
        "{lines}GET    {:<35}-        200 while the process answers\n\n\
         The third column is the least role that may make the call, `-` for everyone. A call carries\n\
         `Authorization: Bearer TOKEN`: the admin token, or an API token. Errors are problem documents\n\
         (RFC 9457) whose `code` is stable.\n",
        "/healthz"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_the_list_is_for_admins() {
        assert_eq!(need(&Method::GET, Some("/api/v1/jobs")), Need::Viewer);
        assert_eq!(need(&Method::HEAD, Some("/metrics")), Need::Whole);
        assert_eq!(need(&Method::POST, Some("/api/v1/recoveries")), Need::Restore);
        assert_eq!(need(&Method::DELETE, Some("/api/v1/jobs")), Need::Admin);
        assert_eq!(need(&Method::GET, Some("/api/v1/other")), Need::Admin);
    }

    #[test]
    fn what_changes_something_is_never_for_the_unknown() {
        for call in CALLS.iter().filter(|call| call.method != "GET") {
            assert!(call.need.is_some() || call.path == "/api/v1/session", "{}", call.path);
        }
    }
}
