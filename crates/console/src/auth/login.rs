use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{ConnectInfo, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    guard::{COOKIE, own_page, session_cookie},
    session::SESSION_AGE,
};
use crate::{Console, Problem, listen::ClientAddress};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogIn {
    token: String,
}

#[derive(Serialize)]
pub(crate) struct SessionView {
    user: &'static str,
    version: &'static str,
}

/// `POST /api/v1/session`: the token, for a cookie. The only call that is
/// open to everyone, so it is the one whose attempts are counted.
pub(crate) async fn log_in(
    State(console): State<Arc<Console>>,
    ConnectInfo(client): ConnectInfo<ClientAddress>,
    headers: HeaderMap,
    body: Result<Json<LogIn>, JsonRejection>,
) -> Result<Response, Problem> {
    own_page(&headers)?;
    let Json(body) = body?;
    let now = Instant::now();
    if let Some(wait) = console.attempts.wait(client.0.ip(), now) {
        return Err(Problem::too_many_attempts(wait));
    }
    if !console.token.matches(&body.token) {
        console.attempts.failed(client.0.ip(), now);
        tracing::warn!(client = %client.0, "log-in with a wrong token");
        return Err(Problem::unauthorized("the token is wrong"));
    }
    let secret = console.sessions.open(now).map_err(|e| Problem::internal(&e))?;
    tracing::info!(client = %client.0, "console session opened");
    Ok(with_cookie(&console, &secret, SESSION_AGE.as_secs()))
}

/// `DELETE /api/v1/session`: ends the session of this browser.
pub(crate) async fn log_out(State(console): State<Arc<Console>>, headers: HeaderMap) -> Response {
    if let Some(secret) = session_cookie(&headers) {
        console.sessions.close(secret);
    }
    with_cookie(&console, "", 0)
}

/// `GET /api/v1/session`: answers whoever is logged in.
pub(crate) async fn session_view() -> Json<SessionView> {
    Json(SessionView { user: "admin", version: env!("CARGO_PKG_VERSION") })
}

fn with_cookie(console: &Console, secret: &str, seconds: u64) -> Response {
    let secure = if console.tls.is_some() { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}
