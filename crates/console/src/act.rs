//! What a caller changes, from its beginning to its end, on record.

use std::{future::Future, sync::Arc};

use axum::http::StatusCode;
use tokio::task::spawn_blocking;

use crate::{Console, Problem, audit::Note, auth::Caller};

/// The longest reason, in characters.
pub(crate) const REASON_MAX: usize = 500;

/// Who does what to what, and why.
#[derive(Clone)]
pub(crate) struct Act {
    caller: Caller,
    action: &'static str,
    object: String,
    reason: Option<String>,
}

impl Act {
    pub(crate) fn new(caller: &Caller, action: &'static str, object: impl Into<String>) -> Self {
        Self { caller: caller.clone(), action, object: object.into(), reason: None }
    }

    /// With the reason that was given, which must be there where it is configured to be.
    pub(crate) fn because(
        self,
        console: &Console,
        reason: Option<String>,
    ) -> Result<Self, Problem> {
        let reason = reason.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if reason.is_none() && console.settings.restore_requires_reason {
            let detail = "say why: this appliance wants a `reason`";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "reason_required", detail));
        }
        self.noting(reason)
    }

    /// With the reason that was given, if one was.
    pub(crate) fn noting(mut self, reason: Option<String>) -> Result<Self, Problem> {
        if reason.as_ref().is_some_and(|text| text.chars().count() > REASON_MAX) {
            let detail = format!("a reason has at most {REASON_MAX} characters");
            return Err(Problem::bad_request(detail));
        }
        self.reason = reason;
        Ok(self)
    }

    /// How something ended that was begun long ago, with what came of it.
    pub(crate) fn note_of(&self, outcome: &str, what: &str) -> Note {
        let object = match what {
            "" => self.object.clone(),
            what => format!("{}: {what}", self.object),
        };
        Note { object, ..self.note(outcome, None) }
    }

    fn note(&self, outcome: &str, begun: Option<u64>) -> Note {
        Note {
            user: self.caller.user.clone(),
            via: self.caller.via.text(),
            from: self.caller.from.to_string(),
            action: self.action,
            object: self.object.clone(),
            reason: self.reason.clone(),
            outcome: outcome.to_owned(),
            begun,
        }
    }
}

impl Console {
    /// Does what was begun to its end, also when the client goes away meanwhile.
    ///
    /// 1. `begun` is durable           crash here: it is on record, and was not done
    /// 2. it is done                   crash here: on record as begun, and done or not
    /// 3. its outcome is durable       crash here: on record as it is
    /// 4. the caller learns it
    pub(crate) async fn act<T: Send + 'static>(
        self: &Arc<Self>,
        act: Act,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let console = Arc::clone(self);
        let done = tokio::spawn(async move {
            let begun = console.record(act.note("begun", None)).await?;
            let result = work.await;
            let outcome = result.as_ref().err().map_or("done", |problem| problem.code);
            console.record(act.note(outcome, Some(begun))).await?;
            result
        });
        done.await.map_err(|e| Problem::internal(&e))?
    }

    /// Puts something on record. What cannot be recorded is not done, or not said to be done.
    pub(crate) async fn record(&self, note: Note) -> Result<u64, Problem> {
        let audit = Arc::clone(&self.audit);
        let written = spawn_blocking(move || audit.append(note)).await;
        written.map_err(|e| Problem::internal(&e))?.map_err(|error| {
            tracing::error!(%error, "cannot write the audit log, so nothing is done");
            let detail = "the audit log cannot be written, so nothing is done";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail)
        })
    }
}
