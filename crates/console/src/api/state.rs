use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use rekindle_state::{BackupError, BackupFile};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{Console, Problem, act::Act, auth::Caller};

/// Backups of the appliance's own state.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StateBackups {
    /// The directory on the appliance; none if no backups are configured.
    dir: Option<String>,
    /// So many are kept.
    keep: Option<usize>,
    /// Those that there are, the newest first.
    backups: Vec<StateBackup>,
}

/// One of them.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StateBackup {
    /// The file on the appliance.
    file: String,
    /// Its size.
    bytes: u64,
    /// When it was made.
    made_at: Timestamp,
}

impl From<BackupFile> for StateBackup {
    fn from(made: BackupFile) -> Self {
        let BackupFile { path, bytes, made_at } = made;
        Self { file: path.display().to_string(), bytes, made_at }
    }
}

/// `GET /api/v1/state/backups`
pub(crate) async fn state_backups(State(console): State<Arc<Console>>) -> Json<StateBackups> {
    let config = console.backups.as_ref().map(|backups| backups.config());
    let known = console.backups.as_ref().map(|backups| backups.known()).unwrap_or_default();
    Json(StateBackups {
        dir: config.map(|config| config.dir.display().to_string()),
        keep: config.map(|config| config.keep),
        backups: known.into_iter().map(StateBackup::from).collect(),
    })
}

/// `POST /api/v1/state/backups`
pub(crate) async fn back_up_state(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<StateBackup>), Problem> {
    let Some(backups) = console.backups.clone() else {
        let detail = "no backups of the state are configured: set `dir` of [state_backup]";
        return Err(Problem::new(StatusCode::CONFLICT, "no_state_backups", detail));
    };
    let dir = backups.config().dir.display().to_string();
    let act = Act::new(&caller, "state.backup", dir);
    let made = console.act(act, async move {
        let made = spawn_blocking(move || backups.make()).await;
        made.map_err(|e| Problem::internal(&e))?.map_err(|e| problem(&e))
    });
    Ok((StatusCode::CREATED, Json(made.await?.into())))
}

/// It is about a directory that an admin chose, and says what is wrong with it.
fn problem(error: &BackupError) -> Problem {
    match error {
        BackupError::Busy => {
            Problem::new(StatusCode::CONFLICT, "state_backup_busy", error.to_string())
        }
        BackupError::Failed { .. } => {
            tracing::warn!(%error, "no backup of the state");
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Problem::new(status, "state_backup_failed", error.to_string())
        }
    }
}
