use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    caller::{Caller, Via},
    factor,
};
use crate::{
    Console, Problem,
    calls::{self, Need},
    listen::ClientAddress,
    users::Role,
};

/// The cookie that carries a session's secret.
pub(crate) const COOKIE: &str = "rekindle_session";
/// A page of another origin cannot send this header without a preflight, which nothing here answers.
const CUSTOM_HEADER: &str = "x-rekindle-console";
/// The header that carries a one-time code, where a call needs one.
const TOTP_HEADER: &str = "x-rekindle-totp";

/// Lets a request pass that its caller may make, and tells it who that is ([`Caller`]).
///
/// With a session (which the browser adds by itself) a request that changes
/// something must also prove that our own page sent it: see [`own_page`].
pub(crate) async fn guard(
    State(console): State<Arc<Console>>,
    ConnectInfo(client): ConnectInfo<ClientAddress>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let need = calls::need(request.method(), path.as_deref());
    let (method, headers) = (request.method().clone(), request.headers().clone());
    match admit(&console, need, (&method, &headers), client.0.ip()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(
    console: &Arc<Console>,
    need: Need,
    (method, headers): (&Method, &HeaderMap),
    from: IpAddr,
) -> Result<Caller, Problem> {
    let caller = caller(console, method, headers, from)?;
    match need {
        Need::Viewer => caller.has(Role::Viewer)?,
        Need::Whole => {
            caller.has(Role::Viewer)?;
            caller.has_all()?;
        }
        Need::Operate => caller.has(Role::Operator)?,
        Need::Restore => {
            caller.has(Role::Operator)?;
            if console.settings.restore_requires_totp {
                second_factor(console, &caller, headers).await?;
            }
        }
        Need::Admin => {
            caller.has(Role::Admin)?;
            caller.has_all()?;
        }
    }
    Ok(caller)
}

fn caller(
    console: &Console,
    method: &Method,
    headers: &HeaderMap,
    from: IpAddr,
) -> Result<Caller, Problem> {
    if let Some(token) = bearer(headers) {
        return Caller::by_token(console, token, from);
    }
    let session = session_cookie(headers)
        .ok_or_else(|| Problem::unauthorized("send a token as `Authorization: Bearer`"))?;
    let ended = || Problem::unauthorized("the session has ended, log in again");
    let user = console.sessions.touch(session, Instant::now()).ok_or_else(ended)?;
    let user = console.users.get(&user).ok_or_else(ended)?;
    if !method.is_safe() {
        own_page(headers)?;
    }
    Ok(Caller::of(&user, Via::Session, from))
}

/// Takes the one-time code of a call that needs one.
pub(crate) async fn second_factor(
    console: &Arc<Console>,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    if !console.users.found(&caller.user)?.has_totp() {
        let detail = "this needs a second factor: set one up with `rekindle user totp` first";
        return Err(Problem::new(StatusCode::FORBIDDEN, "totp_missing", detail));
    }
    let Some(code) = text(headers, TOTP_HEADER) else {
        let detail = format!("this needs a one-time code, in the header {TOTP_HEADER}");
        return Err(Problem::new(StatusCode::FORBIDDEN, "totp_required", detail));
    };
    factor::take_code(console, &caller.user, code, caller.from).await
}
/// Checks that a request was made by our own page: it has the custom header
/// and its origin is the host that it was sent to.
pub(crate) fn own_page(headers: &HeaderMap) -> Result<(), Problem> {
    let host = text(headers, header::HOST.as_str());
    let origin = text(headers, header::ORIGIN.as_str()).and_then(authority);
    let same_site = text(headers, "sec-fetch-site").is_none_or(|site| site == "same-origin");
    let custom = headers.contains_key(CUSTOM_HEADER);
    if custom && same_site && host.is_some() && host == origin {
        Ok(())
    } else {
        Err(Problem::forbidden("a session may change things only from the console's own page"))
    }
}

fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, header::AUTHORIZATION.as_str())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The session's secret from the request's cookies.
pub(crate) fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
