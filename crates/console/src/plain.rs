//! What plain HTTP is told where TLS is spoken.

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::Problem;

/// The longest `Host` and path that are sent on.
const LOCATION_MAX: usize = 2048;

pub(crate) fn router() -> Router {
    Router::new().fallback(go_to_https)
}

/// A person who left out the `https` is sent there. Anything that may carry a secret is refused: it
/// has crossed the network in the clear, and its sender should learn that.
async fn go_to_https(request: Request) -> Response {
    let headers = request.headers();
    let secret =
        headers.contains_key(header::AUTHORIZATION) || headers.contains_key(header::COOKIE);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let to = host.map(|host| format!("https://{host}{}", request.uri().path()));
    match to.filter(|to| request.method().is_safe() && !secret && to.len() <= LOCATION_MAX) {
        Some(to) => (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, to)]).into_response(),
        None => {
            let detail = "this port speaks TLS: use https://, and a new token if one was sent";
            Problem::new(StatusCode::BAD_REQUEST, "tls_required", detail).into_response()
        }
    }
}
