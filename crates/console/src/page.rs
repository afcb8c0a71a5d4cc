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
const ICON: &str = include_str!("page/icon.svg");
const SCRIPTS: [(&str, &str); 13] = [
    ("admin.js", include_str!("page/admin.js")),
    ("batches.js", include_str!("page/batches.js")),
    ("notifications.js", include_str!("page/notifications.js")),
    ("app.js", include_str!("page/app.js")),
    ("api.js", include_str!("page/api.js")),
    ("dialogs.js", include_str!("page/dialogs.js")),
    ("dom.js", include_str!("page/dom.js")),
    ("jobs.js", include_str!("page/jobs.js")),
    ("overview.js", include_str!("page/overview.js")),
    ("people.js", include_str!("page/people.js")),
    ("state.js", include_str!("page/state.js")),
    ("upkeep.js", include_str!("page/upkeep.js")),
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

pub(crate) async fn icon() -> Response {
    file("image/svg+xml", ICON)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each file that a script or the page names is served, and each that is served is named.
    #[test]
    fn the_page_and_its_scripts_name_each_other_and_nothing_else() {
        let mut named = vec!["style.css".to_owned()];
        let texts = SCRIPTS.iter().map(|(_, text)| *text).chain([INDEX]);
        for text in texts {
            let parts = text.split(['"', '\'']).filter(|part| part.ends_with(".js"));
            named.extend(parts.filter_map(|part| part.rsplit('/').next()).map(str::to_owned));
        }
        for (name, _) in SCRIPTS {
            assert!(named.iter().any(|one| one == name), "{name} is served and not used");
        }
        for name in named.iter().filter(|name| name.ends_with(".js")) {
            assert!(script(name).is_some(), "{name} is used and not served");
        }
        assert!(!INDEX.contains("style=") && !INDEX.contains("onclick"), "the policy forbids it");
    }
}
