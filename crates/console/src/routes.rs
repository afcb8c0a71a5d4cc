//! Which call is answered where.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Request},
    http::{Method, StatusCode},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{Console, Problem, auth, calls::CALLS, contract, once, page, rate};

/// The largest body of a request: a recovery with 256 clients and 64 networks is below 32 KiB.
const BODY_MAX: usize = 64 << 10;
/// The longest a call may take. Event streams are answered at once and then go on.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn router(console: Arc<Console>) -> Router {
    let mut guarded = Router::new();
    let mut open = Router::new()
        .route("/", get(page::index))
        .route("/assets/style.css", get(page::style))
        .route("/assets/icon.svg", get(page::icon))
        .route("/assets/{script}", get(script))
        .route("/healthz", get(async || "ok\n"));
    for call in CALLS {
        let to = if call.need.is_some() { &mut guarded } else { &mut open };
        *to = std::mem::take(to).route(call.path, (call.route)());
    }
    let guarded = guarded
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&console), once::once))
        .layer(from_fn_with_state(Arc::clone(&console), auth::guard));
    // Tests fail on errors in the log; an appliance that runs has better things to do.
    let held = |router: Router<Arc<Console>>| match cfg!(debug_assertions) {
        true => router.layer(from_fn(contract::hold)),
        false => router,
    };
    let router = open
        .merge(guarded)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(deadline))
        .layer(from_fn_with_state(Arc::clone(&console), rate::limit))
        .layer(from_fn(page::secure));
    held(router).with_state(console)
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
