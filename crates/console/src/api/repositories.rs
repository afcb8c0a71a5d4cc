use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use rekindle_repo::{Attached, Attachment, Location, S3Stats};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{Console, auth::Caller};

#[derive(Serialize, JsonSchema)]
pub(crate) struct Repositories {
    repositories: Vec<RepositoryView>,
}

#[derive(Serialize, JsonSchema)]
struct RepositoryView {
    name: String,
    /// `local`, `s3` or `images`.
    kind: &'static str,
    path: String,
    #[serde(flatten)]
    attachment: Attachment,
    /// What follows is known once it is open.
    id: Option<String>,
    block_bytes: Option<u64>,
    sealed: Option<bool>,
    /// What its store was asked and answered, if it is on S3.
    store: Option<S3Stats>,
}

/// `GET /api/v1/repositories`
pub(crate) async fn repositories(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Json<Repositories> {
    let mine = console.repositories.iter().filter(|(name, _)| caller.scope.has_repository(name));
    let repositories = mine.map(|(name, attached)| view(name, attached)).collect();
    Json(Repositories { repositories })
}

fn view(name: &str, attached: &Attached) -> RepositoryView {
    let open = attached.get().ok();
    RepositoryView {
        name: name.to_owned(),
        kind: match (&open, attached.location()) {
            (Some(open), _) => open.kind(),
            (None, Location::Local(_)) => "local",
            (None, Location::S3(_)) => "s3",
        },
        path: attached.location().to_string(),
        attachment: attached.attachment(),
        id: open.as_ref().map(|open| open.id().to_owned()),
        block_bytes: open.as_ref().map(|open| open.block_size().bytes()),
        sealed: open.as_ref().map(|open| open.is_sealed()),
        store: open.as_ref().and_then(|open| open.s3_stats()),
    }
}
