//! Which call is answered where.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request},
    http::{Method, StatusCode},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use crate::{Console, Problem, api, auth, calls::CALLS, metrics, page, rate};

/// The largest body of a request: a recovery with 256 clients and 64 networks is below 32 KiB.
const BODY_MAX: usize = 64 << 10;
/// The longest a call may take. Event streams are answered at once and then go on.
const DEADLINE: Duration = Duration::from_secs(30);

/// The calls as an OpenAPI 3.1 document.
pub fn openapi() -> Value {
    let mut paths = serde_json::Map::new();
    for call in CALLS {
        let entry = paths.entry(call.path).or_insert_with(|| json!({}));
        entry[call.method.to_lowercase()] = operation(call.path, call.body, call.what);
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
    if let Some(name) = path.split(['{', '}']).nth(1) {
        operation["parameters"] = json!([{ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }]);
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
        .route("/api/v1/repositories/{name}/prune", post(api::prune))
        .route("/api/v1/repositories/{name}/check", post(api::check))
        .route("/api/v1/repositories/{name}/upkeep", get(api::upkeep).delete(api::stop_upkeep))
        .route("/api/v1/points", get(api::points))
        .route("/api/v1/targets", get(api::targets))
        .route("/api/v1/recoveries", post(api::recover))
        .route("/api/v1/recoveries/forecast", post(api::forecast))
        .route(
            "/api/v1/batches",
            get(api::batches)
                .post(api::start_batch)
                .layer(DefaultBodyLimit::max(api::BATCH_BODY_MAX)),
        )
        .route("/api/v1/batches/{id}", get(api::batch))
        .route("/api/v1/batches/{id}/cancel", post(api::cancel_batch))
        .route("/api/v1/batches/{id}/events", get(api::batch_events))
        .route("/api/v1/jobs", get(api::jobs))
        .route("/api/v1/jobs/{id}", get(api::job))
        .route("/api/v1/jobs/{id}/finish", post(api::finish))
        .route("/api/v1/jobs/{id}/extend", post(api::extend))
        .route("/api/v1/jobs/{id}/undo", post(api::undo))
        .route("/api/v1/jobs/{id}/keep", post(api::keep))
        .route("/api/v1/jobs/{id}/retry", post(api::retry))
        .route("/api/v1/jobs/{id}/report", get(api::report))
        .route("/api/v1/jobs/{id}/cancel", post(api::cancel))
        .route("/api/v1/jobs/{id}/events", get(api::events))
        .route("/api/v1/exports", get(api::exports))
        .route("/api/v1/cache", get(api::cache))
        .route("/api/v1/users", get(api::users).post(api::add_user))
        .route("/api/v1/users/{name}", get(api::user).put(api::set_grant).delete(api::remove_user))
        .route("/api/v1/users/{name}/password", post(api::set_password))
        .route("/api/v1/users/{name}/totp", post(api::begin_totp).delete(api::remove_totp))
        .route("/api/v1/users/{name}/totp/confirm", post(api::confirm_totp))
        .route("/api/v1/tokens", get(api::tokens).post(api::add_token))
        .route("/api/v1/tokens/{id}", delete(api::remove_token))
        .route("/api/v1/audit", get(api::audit))
        .route("/api/v1/notifications", get(api::notifications))
        .route("/api/v1/notifications/test", post(api::test_notifications))
        .route("/api/v1/settings", get(api::settings))
        .route("/api/v1/openapi.json", get(async || axum::Json(openapi())))
        .route("/metrics", get(metrics::metrics))
        .route("/readyz", get(api::ready))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&console), auth::guard));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/assets/style.css", get(page::style))
        .route("/assets/icon.svg", get(page::icon))
        .route("/assets/{script}", get(script))
        .route("/healthz", get(async || "ok\n"))
        .route("/api/v1/session", post(auth::log_in));
    open.merge(guarded)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(deadline))
        .layer(from_fn_with_state(Arc::clone(&console), rate::limit))
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
