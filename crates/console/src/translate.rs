//! The only place where an error of the layers below becomes an HTTP answer. No `_` arm: a new
//! variant does not compile until someone decides what a caller should see.

use std::time::Duration;

use axum::http::StatusCode;
use rekindle_jobs::JobError;
use rekindle_repo::RepoError;
use rekindle_state::StateError;

use crate::{Problem, users::UserError};

/// When a caller should ask again after "not now".
const LATER: Duration = Duration::from_secs(5);

impl From<JobError> for Problem {
    fn from(error: JobError) -> Self {
        let problem = Self::new(job_status(&error), error.code(), error.to_string());
        match error {
            JobError::Busy { .. } | JobError::Unavailable { .. } => problem.retry_after(LATER),
            JobError::Denied { wait: Some(wait), .. } => problem.retry_after(wait),
            JobError::NotFound { .. }
            | JobError::Denied { wait: None, .. }
            | JobError::Refused { .. }
            | JobError::Conflict { .. }
            | JobError::Full { .. } => problem,
            JobError::Corrupt { .. } => {
                tracing::error!(detail = %problem.detail, "stored data is corrupt");
                problem
            }
        }
    }
}

fn job_status(error: &JobError) -> StatusCode {
    match error {
        JobError::NotFound { .. } => StatusCode::NOT_FOUND,
        JobError::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        JobError::Denied { code: "too_many_passkeys", .. } => StatusCode::TOO_MANY_REQUESTS,
        JobError::Denied { .. } => StatusCode::FORBIDDEN,
        JobError::Conflict { .. } => StatusCode::CONFLICT,
        JobError::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        JobError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
        JobError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        JobError::Corrupt { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<RepoError> for Problem {
    fn from(error: RepoError) -> Self {
        let (status, code) = match &error {
            RepoError::Unavailable { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "repository_unavailable")
            }
            RepoError::Cold { .. } => (StatusCode::CONFLICT, "point_cold"),
            RepoError::Corrupt { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "corrupt"),
            RepoError::Full => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            RepoError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            RepoError::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            RepoError::Locked { .. } => (StatusCode::FORBIDDEN, "repository_locked"),
            RepoError::Cancelled => (StatusCode::CONFLICT, "cancelled"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        let (status, code) = match &error {
            UserError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            UserError::Exists { .. } => (StatusCode::CONFLICT, "user_exists"),
            UserError::Changed { .. } => (StatusCode::PRECONDITION_FAILED, "changed"),
            UserError::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            UserError::State(state) => return state_problem(state),
        };
        Self::new(status, code, error.to_string())
    }
}

/// The state database failed: what it says goes to the log.
pub(crate) fn state_problem(error: &StateError) -> Problem {
    match error {
        StateError::Unavailable(_) | StateError::Corrupt(_) | StateError::Refused(_) => {
            Problem::internal(error)
        }
        StateError::Full => {
            let detail = "the file system of the state directory is full";
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", detail)
        }
    }
}
