//! Calls that are made once, however often they are sent: `Idempotency-Key`. The first that is sent under a
//! key is made, and its answer kept for a day; the same call again is given that answer, also after a
//! restart. A call that is refused leaves nothing, so that it may be put right under the same key.
//!
//! Recoveries are not among them: their keys are in the journal of jobs, in one write with the job.

mod answers;

use std::sync::Arc;

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    Console, Problem,
    api::BATCH_BODY_MAX,
    auth::Caller,
    calls::{self, Once},
    problem::Code,
    translate::state_problem,
};

pub use answers::{ANSWERS_KEYSPACE, Answers};

use answers::{Begun, Claim};

/// The longest `Idempotency-Key`, in characters.
pub(crate) const KEY_MAX: usize = 200;
/// The shortest where the answer is kept: it is sealed with the key, and some have a secret in them. 16 hexadecimal
/// digits are 64 bits.
pub(crate) const KEPT_KEY_MIN: usize = 16;
/// The largest answer that is kept: a batch of 500 VMs is below 512 KiB.
const ANSWER_MAX: usize = 1 << 20;
/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// An answer, to be given again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Lets the first call under a key pass, and answers the same again.
pub(crate) async fn once(
    State(console): State<Arc<Console>>,
    request: Request,
    next: Next,
) -> Response {
    match claim(&request) {
        Ok(Some(claim)) => {
            made(console, claim, request, next).await.unwrap_or_else(Problem::into_response)
        }
        Ok(None) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Who calls what under which key, if the call is one whose answers are kept.
fn claim(request: &Request) -> Result<Option<(Caller, String, String)>, Problem> {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let call = path.and_then(|path| calls::known(request.method(), path));
    if call.and_then(|call| call.headers.once) != Some(Once::Kept) {
        return Ok(None);
    }
    let caller = request.extensions().get::<Caller>().cloned();
    let key = key(request.headers(), KEPT_KEY_MIN)?;
    let what = format!("{} {}", request.method(), request.uri().path());
    Ok(caller.zip(key).map(|(caller, key)| (caller, key, what)))
}

async fn made(
    console: Arc<Console>,
    (caller, key, what): (Caller, String, String),
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let bytes = to_bytes(body, BATCH_BODY_MAX).await.map_err(|_| Problem::too_large())?;
    let claim = Arc::new(Claim::new(&caller.user, &key, what, &bytes));
    let (answers, wanted) = (Arc::clone(&console.answers), Arc::clone(&claim));
    let begun = spawn_blocking(move || answers.begin(&wanted)).await;
    match begun.map_err(|e| Problem::internal(&e))?.map_err(|e| state_problem(&e))? {
        Begun::New => {}
        Begun::Before(kept) => return replayed(kept),
        Begun::Other => {
            return Err(conflict(
                "idempotency_key_reused",
                "another call was made under this key: take a new one",
            ));
        }
        Begun::Now => {
            let detail = "this call is being made under the same key: ask again";
            return Err(conflict("idempotency_key_busy", detail)
                .retry_after(std::time::Duration::from_secs(1)));
        }
        Begun::Unknown => {
            let detail = "this call was begun under the same key, and its answer is not known: look whether it was done";
            return Err(conflict("idempotency_outcome_unknown", detail));
        }
    }
    // To its end, also when its caller goes away or has waited for too long: then it is asked again.
    let answers = Arc::clone(&console.answers);
    let made = tokio::spawn(async move {
        let unfinished = answers.unfinished(&claim);
        let response = next.run(Request::from_parts(head, Body::from(bytes))).await;
        let (response, kept) = read(response).await;
        let ended = spawn_blocking(move || answers.end(&claim, kept)).await;
        ended.map_err(|e| Problem::internal(&e))?.map_err(|e| state_problem(&e))?;
        drop(unfinished);
        Ok(response)
    });
    made.await.map_err(|e| Problem::internal(&e))?
}

/// The answer, and what is kept of it: `None` for one that is not done.
async fn read(response: Response) -> (Response, Option<Option<Kept>>) {
    if !response.status().is_success() {
        // After these something may have been done all the same.
        let code = response.extensions().get::<Code>().map(|Code(code)| *code);
        let unknown = matches!(code, Some("internal" | "audit_unavailable"));
        return (response, unknown.then_some(None));
    }
    let (head, body) = response.into_parts();
    // Our own answers are in memory: there is nothing that could fail.
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let names = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];
    let told = |name: &HeaderName| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    let headers = names.iter().filter_map(told).collect();
    let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| text.len() <= ANSWER_MAX);
    let kept = text.map(|body| Kept { status: head.status.as_u16(), headers, body });
    (Response::from_parts(head, Body::from(bytes)), Some(kept))
}

fn replayed(kept: Kept) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(kept.status).map_err(|e| Problem::internal(&e))?;
    let mut response = (status, Bytes::from(kept.body)).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    for (name, value) in kept.headers {
        let name: HeaderName = name.parse().map_err(|e| Problem::internal(&e))?;
        headers.insert(name, value.parse().map_err(|e| Problem::internal(&e))?);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn conflict(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, detail)
}

/// The key of a call, if it has one.
pub(crate) fn key(headers: &HeaderMap, least: usize) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key)
            if (least..=KEY_MAX).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(Some(key.to_owned()))
        }
        _ => Err(Problem::bad_request(format!(
            "Idempotency-Key must be {least} to {KEY_MAX} ASCII characters that print, without spaces: take a UUID"
        ))),
    }
}
