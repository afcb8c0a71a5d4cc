//! Versions of what is shown (`ETag`), and changes that are made only to what the caller has seen
//! (`If-Match`, RFC 9110 section 13.1.1).

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::sync::{Mutex, MutexGuard};

use crate::Problem;

/// Changes of different things that go on at once. Each waits for those with the same number.
const LANES: usize = 64;

/// What a caller has seen, if it says.
#[derive(Clone, Default)]
pub(crate) struct Seen(Option<String>);

impl Seen {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(header::IF_MATCH).iter();
        let all: Vec<_> = texts.map(|value| value.to_str().unwrap_or_default()).collect();
        Self((!all.is_empty()).then(|| all.join(",")))
    }

    /// Refuses what is no more as the caller has seen it.
    pub(crate) fn holds(&self, tag: &str) -> Result<(), Problem> {
        let Some(text) = &self.0 else { return Ok(()) };
        let mut tags = text.split(',').map(str::trim);
        if tags.any(|one| one == "*" || one == tag) {
            return Ok(());
        }
        let detail = "it was changed meanwhile: read it again, and decide again";
        Err(Problem::new(StatusCode::PRECONDITION_FAILED, "changed", detail))
    }
}

/// The version of what is shown as JSON: another whenever any of it is.
pub(crate) fn of(view: &impl Serialize) -> String {
    // Views are structs of texts and numbers, whose JSON cannot fail.
    let json = serde_json::to_vec(view).unwrap_or_default();
    format!("\"{}\"", &blake3::hash(&json).to_hex()[..32])
}

/// An answer with its version, or without content if that is what the caller has (`If-None-Match`).
pub(crate) fn shown(headers: &HeaderMap, view: &impl Serialize) -> Response {
    let tag = of(view);
    if is_known(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag)], Json(view)).into_response()
}

/// Whether that is what the caller has.
pub(crate) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known
        .is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag))
}

/// One change of a thing at a time, from the look at its version to its end.
pub(crate) struct Lanes(Vec<Mutex<()>>);

impl Default for Lanes {
    fn default() -> Self {
        Self((0..LANES).map(|_| Mutex::default()).collect())
    }
}

impl Lanes {
    /// Waits for the turn of a change.
    pub(crate) async fn turn(&self, of: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        self.0[(hasher.finish() % LANES as u64) as usize].lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[&'static str]) -> Seen {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, value.parse().unwrap());
        }
        Seen::of(&headers)
    }

    #[test]
    fn what_was_changed_since_it_was_seen_is_not_changed() {
        for good in [&[][..], &["*"], &["\"1\""], &["\"0\", \"1\""], &["\"0\"", "\"1\""]] {
            assert!(seen(good).holds("\"1\"").is_ok(), "{good:?}");
        }
        for bad in [&["\"2\""][..], &[""], &["1"], &["W/\"1\""], &["\"0\", \"2\""]] {
            assert_eq!(seen(bad).holds("\"1\"").unwrap_err().status, 412, "{bad:?}");
        }
    }

    #[test]
    fn another_view_has_another_version() {
        assert_eq!(of(&("a", 1)), of(&("a", 1)));
        assert_ne!(of(&("a", 1)), of(&("a", 2)));
    }
}
