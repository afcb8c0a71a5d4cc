use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{Console, Problem};

/// The cookie that carries a session's secret.
pub(crate) const COOKIE: &str = "rekindle_session";
/// A page of another origin cannot send this header without a preflight, which nothing here answers.
const CUSTOM_HEADER: &str = "x-rekindle-console";

/// Lets a request pass that carries the admin token or a live session.
///
/// With a session (which the browser adds by itself) a request that changes
/// something must also prove that our own page sent it: see [`own_page`].
pub(crate) async fn guard(
    State(console): State<Arc<Console>>,
    request: Request,
    next: Next,
) -> Response {
    match admit(&console, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn admit(console: &Console, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(token) = bearer(headers) {
        let right = console.token.matches(token);
        return if right { Ok(()) } else { Err(Problem::unauthorized("the token is wrong")) };
    }
    let session = session_cookie(headers)
        .ok_or_else(|| Problem::unauthorized("send the admin token as `Authorization: Bearer`"))?;
    if !console.sessions.touch(session, Instant::now()) {
        return Err(Problem::unauthorized("the session has ended, log in again"));
    }
    if method.is_safe() { Ok(()) } else { own_page(headers) }
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
