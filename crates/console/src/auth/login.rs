use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    Extension, Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Caller, factor,
    guard::{COOKIE, own_page, session_cookie},
    session::SESSION_AGE,
};
use crate::{
    Console, Problem,
    audit::Note,
    given::Body,
    listen::ClientAddress,
    users::{ADMIN, NAME_MAX, Role, Scope},
};

/// Either the admin token or a user with its password, and the one-time code of whoever has a second
/// factor.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogIn {
    token: Option<String>,
    user: Option<String>,
    password: Option<String>,
    totp: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SessionView {
    user: String,
    role: Role,
    scope: Scope,
    /// Whether the user has a second factor.
    totp: bool,
    /// Whether restore actions need a one-time code.
    restore_requires_totp: bool,
    /// Whether they need a reason.
    restore_requires_reason: bool,
    version: &'static str,
}

/// `POST /api/v1/session`: who one is, for a cookie. The only call that is open to everyone, so it is
/// the one whose attempts are counted.
pub(crate) async fn log_in(
    State(console): State<Arc<Console>>,
    ConnectInfo(client): ConnectInfo<ClientAddress>,
    headers: HeaderMap,
    body: Result<Body<LogIn>, Problem>,
) -> Result<Response, Problem> {
    own_page(&headers)?;
    let Body(body) = body?;
    let (from, now) = (client.0.ip(), Instant::now());
    if let Some(wait) = console.attempts.wait(from, now) {
        return Err(Problem::too_many_attempts(wait));
    }
    let user = first_factor(&console, &body, from).await?;
    if console.users.found(&user)?.has_totp() {
        let Some(code) = &body.totp else {
            let detail = "this user has a second factor: send its one-time code too";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "totp_required", detail));
        };
        factor::take_code(&console, &user, code, from)
            .await
            .inspect_err(|_| console.attempts.failed(from, now))?;
    }
    console.lockouts.cleared(&user);
    let secret = console.sessions.open(&user, now).map_err(|e| Problem::internal(&e))?;
    console.record(Note::log_in(&user, from, "done")).await?;
    tracing::info!(user, client = %from, "console session opened");
    Ok(with_cookie(&console, &secret, SESSION_AGE.as_secs()))
}

/// The user whose token or password it is.
async fn first_factor(console: &Console, body: &LogIn, from: IpAddr) -> Result<String, Problem> {
    match (&body.token, &body.user, &body.password) {
        (Some(token), None, None) => {
            if console.token.matches(token) {
                return Ok(ADMIN.to_owned());
            }
            console.attempts.failed(from, Instant::now());
            console.record(Note::log_in(ADMIN, from, "unauthorized")).await?;
            tracing::warn!(client = %from, "log-in with a wrong token");
            Err(Problem::unauthorized("the token is wrong"))
        }
        (None, Some(user), Some(password)) if user.len() <= NAME_MAX => {
            if let Some(wait) = console.lockouts.wait(user, Instant::now()) {
                return Err(Problem::locked_out(wait));
            }
            // Counted before it is looked at, so that many at once do not slip through.
            console.lockouts.failed(user, Instant::now());
            if factor::password_matches(console, user, password.clone()).await? {
                return Ok(user.clone());
            }
            console.attempts.failed(from, Instant::now());
            // What is no user may be a password in the wrong field: it is not logged.
            let shown = if console.users.get(user).is_some() { user } else { "unknown" };
            console.record(Note::log_in(shown, from, "unauthorized")).await?;
            tracing::warn!(user = shown, client = %from, "log-in with a wrong password");
            Err(Problem::unauthorized("the user or the password is wrong"))
        }
        _ => Err(Problem::bad_request("log in with `token`, or with `user` and `password`")),
    }
}

/// `DELETE /api/v1/session`: ends the session of this browser.
pub(crate) async fn log_out(State(console): State<Arc<Console>>, headers: HeaderMap) -> Response {
    if let Some(secret) = session_cookie(&headers) {
        console.sessions.close(secret);
    }
    with_cookie(&console, "", 0)
}

/// `GET /api/v1/session`: tells the caller who it is.
pub(crate) async fn session_view(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<SessionView> {
    let totp = console.users.get(&caller.user).is_some_and(|user| user.has_totp());
    Json(SessionView {
        user: caller.user,
        role: caller.role,
        scope: caller.scope,
        totp,
        restore_requires_totp: console.settings.restore_requires_totp,
        restore_requires_reason: console.settings.restore_requires_reason,
        version: env!("CARGO_PKG_VERSION"),
    })
}

fn with_cookie(console: &Console, secret: &str, seconds: u64) -> Response {
    let secure = if console.tls.is_some() { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}
