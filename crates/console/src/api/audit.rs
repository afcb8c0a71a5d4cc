use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use tokio::task::spawn_blocking;

use crate::{AuditPage, Console, Problem};

/// The most records in one answer: at about 500 bytes each, 500 KiB.
const LIMIT_MAX: u64 = 1000;

/// Which part of the log is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// The first record's number; the newest records when absent.
    from: Option<u64>,
    #[serde(default = "most")]
    limit: u64,
}

fn most() -> u64 {
    LIMIT_MAX
}

/// `GET /api/v1/audit`
pub(crate) async fn audit(
    State(console): State<Arc<Console>>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<AuditPage>, Problem> {
    let Query(part) = part?;
    if !(1..=LIMIT_MAX).contains(&part.limit) {
        return Err(Problem::bad_request(format!("limit must be from 1 to {LIMIT_MAX}")));
    }
    let log = Arc::clone(&console.audit);
    let read = move || {
        let from = part.from.unwrap_or_else(|| log.next_number().saturating_sub(part.limit));
        log.page(from, part.limit)
    };
    let page = spawn_blocking(read).await.map_err(|e| Problem::internal(&e))?;
    Ok(Json(page.map_err(|e| Problem::internal(&e))?))
}
