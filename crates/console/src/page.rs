//! The page: three files without a build step, the same for everyone. They
//! hold no data, so they are served before log-in.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

const INDEX: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPTS: [(&str, &str); 6] = [
    ("app.js", include_str!("page/app.js")),
    ("api.js", include_str!("page/api.js")),
    ("dialogs.js", include_str!("page/dialogs.js")),
    ("dom.js", include_str!("page/dom.js")),
    ("jobs.js", include_str!("page/jobs.js")),
    ("views.js", include_str!("page/views.js")),
];

/// What a browser may do with anything served here: our own files only, no
/// inline script, no frame around it, no guessing of types.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub(crate) async fn index() -> Response {
    file("text/html; charset=utf-8", INDEX)
}

pub(crate) async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

/// One of the page's scripts, `None` for any other name.
pub(crate) fn script(name: &str) -> Option<Response> {
    let (_, text) = SCRIPTS.iter().find(|(known, _)| *known == name)?;
    Some(file("text/javascript; charset=utf-8", text))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

/// Adds the security headers to every answer; answers of the API are never stored.
pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
