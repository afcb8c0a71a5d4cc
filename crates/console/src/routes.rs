//! Which call is answered where.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request},
    http::{Method, StatusCode},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use crate::{Console, Problem, api, auth, metrics, page};

/// The largest body of a request: a recovery with 256 clients and 64 networks is below 32 KiB.
const BODY_MAX: usize = 64 << 10;
/// The longest a call may take. Event streams are answered at once and then go on.
const DEADLINE: Duration = Duration::from_secs(30);

/// Every call of the API: method, path, whether it takes a body, what it does.
const CALLS: [(&str, &str, bool, &str); 22] = [
    ("POST", "/api/v1/session", true, "log in with {token}, for a cookie (the page's way)"),
    ("GET", "/api/v1/session", false, "who is logged in"),
    ("DELETE", "/api/v1/session", false, "log out"),
    ("GET", "/api/v1/repositories", false, "configured repositories"),
    ("GET", "/api/v1/points", false, "recovery points, newest first; ?repository= and ?vm= select"),
    ("GET", "/api/v1/targets", false, "configured targets"),
    (
        "POST",
        "/api/v1/recoveries",
        true,
        "start a recovery: 202, Location, and the job; honours Idempotency-Key; `passkey` opens a sealed repository",
    ),
    ("POST", "/api/v1/recoveries/forecast", true, "how long a recovery would take; starts none"),
    ("GET", "/api/v1/jobs", false, "jobs, newest first"),
    ("GET", "/api/v1/jobs/{id}", false, "one job: state, steps, progress, export, timeline"),
    ("POST", "/api/v1/jobs/{id}/finish", true, "end a job: {action: migrate | discard, to?}"),
    ("POST", "/api/v1/jobs/{id}/extend", true, "move a live mount's limit: {expires_in_seconds}"),
    ("POST", "/api/v1/jobs/{id}/undo", false, "serve a kept job again, with what its guest wrote"),
    ("POST", "/api/v1/jobs/{id}/retry", false, "try at once what a stuck job cannot get past"),
    ("GET", "/api/v1/jobs/{id}/report", false, "planned and measured; ?format=json, csv or html"),
    ("POST", "/api/v1/jobs/{id}/cancel", false, "take a job back"),
    ("GET", "/api/v1/jobs/{id}/events", false, "the job as server-sent events, until it ends"),
    ("GET", "/api/v1/exports", false, "exports, their clients and counters"),
    ("GET", "/api/v1/cache", false, "the cache and the space for guests' writes"),
    ("GET", "/api/v1/openapi.json", false, "this list as OpenAPI 3.1"),
    ("GET", "/metrics", false, "Prometheus metrics"),
    ("GET", "/readyz", false, "200 while recoveries are served, 503 otherwise"),
];

/// One line per call, for people.
pub fn describe() -> String {
    let lines = CALLS.map(|(method, path, _, what)| format!("{method:<7}{path:<28}{what}\n"));
    format!(
        "{}GET    {:<28}200 while the process answers; needs no token\n\n\
         Every call but /healthz needs `Authorization: Bearer TOKEN`. Errors are problem documents\n\
         (RFC 9457) whose `code` is stable.\n",
        lines.concat(),
        "/healthz"
    )
}

/// The calls as an OpenAPI 3.1 document.
pub fn openapi() -> Value {
    let mut paths = serde_json::Map::new();
    for (method, path, body, what) in CALLS {
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[method.to_lowercase()] = operation(path, body, what);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Rekindle", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "token": [] }],
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Problem": {
                "type": "object",
                "required": ["type", "title", "status", "code", "detail"],
                "properties": {
                    "type": { "type": "string" }, "title": { "type": "string" },
                    "status": { "type": "integer" }, "code": { "type": "string" },
                    "detail": { "type": "string" },
                },
            } },
        },
        "paths": paths,
    })
}

fn operation(path: &str, body: bool, what: &str) -> Value {
    let problem = json!({ "application/problem+json": {
        "schema": { "$ref": "#/components/schemas/Problem" } } });
    let mut operation = json!({
        "summary": what,
        "responses": {
            "2XX": { "description": "done" },
            "default": { "description": "why not", "content": problem },
        },
    });
    if path.contains("{id}") {
        operation["parameters"] = json!([{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }]);
    }
    if body {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": {} } });
    }
    operation
}

pub(crate) fn router(console: Arc<Console>) -> Router {
    let guarded = Router::new()
        .route("/api/v1/session", get(auth::session_view).delete(auth::log_out))
        .route("/api/v1/repositories", get(api::repositories))
        .route("/api/v1/points", get(api::points))
        .route("/api/v1/targets", get(api::targets))
        .route("/api/v1/recoveries", post(api::recover))
        .route("/api/v1/recoveries/forecast", post(api::forecast))
        .route("/api/v1/jobs", get(api::jobs))
        .route("/api/v1/jobs/{id}", get(api::job))
        .route("/api/v1/jobs/{id}/finish", post(api::finish))
        .route("/api/v1/jobs/{id}/extend", post(api::extend))
        .route("/api/v1/jobs/{id}/undo", post(api::undo))
        .route("/api/v1/jobs/{id}/retry", post(api::retry))
        .route("/api/v1/jobs/{id}/report", get(api::report))
        .route("/api/v1/jobs/{id}/cancel", post(api::cancel))
        .route("/api/v1/jobs/{id}/events", get(api::events))
        .route("/api/v1/exports", get(api::exports))
        .route("/api/v1/cache", get(api::cache))
        .route("/api/v1/openapi.json", get(async || axum::Json(openapi())))
        .route("/metrics", get(metrics::metrics))
        .route("/readyz", get(api::ready))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&console), auth::guard));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/assets/style.css", get(page::style))
        .route("/assets/{script}", get(script))
        .route("/healthz", get(async || "ok\n"))
        .route("/api/v1/session", post(auth::log_in));
    open.merge(guarded)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(deadline))
        .layer(from_fn(page::secure))
        .with_state(console)
}

async fn script(Path(name): Path<String>) -> Response {
    page::script(&name).unwrap_or_else(|| Problem::not_found("no such file").into_response())
}

async fn unknown(request: Request) -> Problem {
    Problem::not_found(format!("there is nothing at {}", request.uri().path()))
}

async fn wrong_method(method: Method) -> Problem {
    let detail = format!("{method} is not something to do here");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = "the call took too long; what it began goes on, ask again later";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", detail).into_response()
        }
    }
}
