use rekindle_state::StateError;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Fix the configuration.
    #[error("{0}")]
    Refused(String),
    /// Try again later: the channel did not take it.
    #[error("{0}")]
    Undelivered(String),
    /// The state database failed.
    #[error("the outbox is not available: {0}")]
    State(#[from] StateError),
}

impl NotifyError {
    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// An error with its causes.
    pub(crate) fn undelivered(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let said = inner.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = inner.source();
        }
        Self::Undelivered(text)
    }
}
