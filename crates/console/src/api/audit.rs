use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{AuditPage, Console, Problem, paging};

/// The most records in one answer: at about 500 bytes each, 500 KiB.
const LIMIT_MAX: u64 = 1000;

/// Which part of the log is wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// The first record's number; the newest records when absent.
    from: Option<u64>,
    /// What `next` was in the answer before, instead of `from`.
    cursor: Option<String>,
    /// The most records that are wanted.
    #[serde(default = "most")]
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: u64,
}

fn most() -> u64 {
    LIMIT_MAX
}

/// A part of the log, and where the next one begins.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AuditPart {
    #[serde(flatten)]
    page: AuditPage,
    /// What to ask for as `cursor` for the records after these; none if these are the last.
    next: Option<String>,
}

impl From<AuditPage> for AuditPart {
    fn from(page: AuditPage) -> Self {
        let after = page.records.last().map(|last| last.number + 1);
        let next = after.filter(|after| *after < page.tip.number).map(|after| after.to_string());
        Self { page, next }
    }
}

/// `GET /api/v1/audit`
pub(crate) async fn audit(
    State(console): State<Arc<Console>>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<AuditPart>, Problem> {
    let Query(part) = part?;
    if !(1..=LIMIT_MAX).contains(&part.limit) {
        return Err(Problem::bad_request(format!("limit must be from 1 to {LIMIT_MAX}")));
    }
    let from = match &part.cursor {
        None => part.from,
        Some(_) if part.from.is_some() => {
            return Err(Problem::refused("`from` and `cursor` both say where to begin: give one"));
        }
        Some(text) => Some(text.parse().map_err(|_| paging::bad_cursor())?),
    };
    let log = Arc::clone(&console.audit);
    let read = move || {
        let from = from.unwrap_or_else(|| log.next_number().saturating_sub(part.limit));
        log.page(from, part.limit)
    };
    let page = spawn_blocking(read).await.map_err(|e| Problem::internal(&e))?;
    Ok(Json(page.map_err(|e| Problem::internal(&e))?.into()))
}
