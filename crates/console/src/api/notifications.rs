use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use rekindle_notify::{ChannelView, TestView};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{Console, Problem, act::Act, auth::Caller};

#[derive(Serialize, JsonSchema)]
pub(crate) struct Channels {
    channels: Vec<ChannelView>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Tested {
    results: Vec<TestView>,
}

/// `GET /api/v1/notifications`
pub(crate) async fn notifications(State(console): State<Arc<Console>>) -> Json<Channels> {
    Json(Channels { channels: console.notifier.channels() })
}

/// `POST /api/v1/notifications/test`
pub(crate) async fn test_notifications(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Tested>, Problem> {
    let act = Act::new(&caller, "notifications.test", "all channels");
    let notifier = Arc::clone(&console.notifier);
    let results = console.act(act, async move { Ok(notifier.test().await) }).await?;
    Ok(Json(Tested { results }))
}
