//! Holds every answer against the API's document, in builds for tests: what differs is an error in the
//! log, on which every test of the daemon fails.

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use serde_json::Value;

use crate::{calls, calls::Call, openapi::openapi, shape};

/// Lets answers pass, and says which of them are not as the document says.
pub(crate) async fn hold(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    match path.and_then(|path| calls::known(&method, &path)) {
        Some(call) => held(call, &method, response).await,
        None => response,
    }
}

async fn held(call: &Call, method: &Method, response: Response) -> Response {
    let (head, body) = response.into_parts();
    if kind(&head.headers) == "text/event-stream" {
        return Response::from_parts(head, body);
    }
    let Ok(bytes) = to_bytes(body, usize::MAX).await else { return Response::new(Body::empty()) };
    let shown = (method != Method::HEAD).then_some(&bytes);
    if let Err(wrong) = check(call, head.status, &head.headers, shown) {
        let (method, path, status) = (call.method, call.path, head.status.as_u16());
        tracing::error!(method, path, status, wrong, "an answer is not as the API's document says");
    }
    Response::from_parts(head, Body::from(bytes))
}

fn check(
    call: &Call,
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<&Bytes>,
) -> Result<(), String> {
    let operation = &openapi()["paths"][call.path][call.method.to_lowercase()];
    let told = &operation["responses"][status.as_str()];
    if told.is_null() {
        return Err("the document does not have this status".into());
    }
    for name in told["headers"].as_object().into_iter().flat_map(|all| all.keys()) {
        if !headers.contains_key(name.as_str()) {
            return Err(format!("the header {name} is missing"));
        }
    }
    let Some(body) = body else { return Ok(()) };
    let kind = kind(headers);
    let content = &told["content"];
    if content.is_null() {
        return if body.is_empty() { Ok(()) } else { Err("it has a body".into()) };
    }
    let schema = content.get(kind).ok_or_else(|| format!("the document does not have {kind:?}"))?;
    if !kind.ends_with("json") {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    shape::fits(openapi(), &schema["schema"], &value)
}

/// The media type, without its parameters.
fn kind(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.split(';').next()).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(path: &str, status: u16, kind: &'static str, body: &str) -> Result<(), String> {
        let call = calls::known(&Method::GET, path).unwrap();
        let headers = [(header::CONTENT_TYPE, kind.parse().unwrap())].into_iter().collect();
        let body = Bytes::copy_from_slice(body.as_bytes());
        check(call, StatusCode::from_u16(status).unwrap(), &headers, Some(&body))
    }

    #[test]
    fn an_answer_that_is_not_in_the_document_is_seen() {
        let json = "application/json";
        let targets = "/api/v1/targets";
        assert_eq!(checked(targets, 200, json, r#"{"targets": []}"#), Ok(()));
        assert!(checked(targets, 200, json, r#"{"targets": [{"name": "x"}]}"#).is_err());
        assert!(checked(targets, 200, json, r#"{}"#).is_err());
        assert!(checked(targets, 202, json, r#"{"targets": []}"#).is_err());
        assert!(checked(targets, 200, "text/plain", "x").is_err());
        assert!(
            checked(targets, 401, json, "{}").is_err(),
            "a problem has a media type of its own"
        );
        let tagless = checked("/api/v1/users/{name}", 200, json, "{}").unwrap_err();
        assert_eq!(tagless, "the header ETag is missing");
    }
}
