//! Problem documents (RFC 9457): what went wrong, as every failing call answers it.

use std::time::Duration;

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

/// The code of the problem that an answer is, for those that it passes.
#[derive(Clone, Copy)]
pub(crate) struct Code(pub(crate) &'static str);

/// An answer that is an error. `code` is stable and meant for programs,
/// `detail` is a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) retry_after: Option<Duration>,
}

/// What went wrong, as RFC 9457 has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ProblemDetails")]
pub(crate) struct Document<'a> {
    /// `urn:rekindle:problem:` and the code.
    r#type: String,
    /// What the status is called.
    title: &'a str,
    /// The status.
    status: u16,
    /// What it is, for programs: stable.
    code: &'a str,
    /// What it is and what to do, for people.
    detail: &'a str,
}

impl Problem {
    /// A problem with a stable `code` and a sentence that says what to do.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None }
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    pub(crate) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// The call is as the document says, and all the same not to be done.
    pub(crate) fn refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(crate) fn too_many_attempts(wait: Duration) -> Self {
        let detail = "too many wrong tokens from this address, wait and try again";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", detail).retry_after(wait)
    }

    pub(crate) fn locked_out(wait: Duration) -> Self {
        let detail = "too many failures for this user, wait and try again";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "locked_out", detail).retry_after(wait)
    }

    pub(crate) fn too_many_calls() -> Self {
        let detail = "this address makes too many calls, make fewer";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_calls", detail)
            .retry_after(Duration::from_secs(1))
    }

    pub(crate) fn too_many_streams() -> Self {
        let detail = "too many event streams are open, close one or poll the job instead";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail)
            .retry_after(Duration::from_secs(10))
    }

    pub(crate) fn too_large() -> Self {
        let detail = "the request's body is too large";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// Something that should not happen; the cause goes to the log, not to the client.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        let detail = "the appliance failed to answer, its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: format!("urn:rekindle:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
        };
        let mut response = (self.status, Json(document)).into_response();
        response.extensions_mut().insert(Code(self.code));
        let headers = response.headers_mut();
        let kind = header::HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer realm=\"rekindle\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                let detail = "send the body as `Content-Type: application/json`";
                Self::new(rejection.status(), "unsupported_media_type", detail)
            }
            _ => Self::bad_request(rejection.body_text()),
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}
