use std::ops::Range;
use std::sync::Arc;

use super::Store;
use super::s3::{Running, S3Bucket};
use crate::RepoError;

/// Bytes of an object beyond the network that were asked for and may not be here yet.
pub(crate) struct Coming {
    bucket: Arc<S3Bucket>,
    state: State,
}

enum State {
    Asked(Running<Vec<u8>>),
    Here(Vec<u8>),
    /// They were waited for and did not come.
    Lost,
}

impl Store {
    /// Asks for bytes `range` of an object and does not wait. `None` where the object is at hand.
    pub(crate) fn begin_range(&self, object: &str, range: Range<u64>) -> Option<Coming> {
        match self {
            Self::Local(_) => None,
            Self::S3(bucket) => {
                let asked = bucket.read_range(object, range, Ok);
                Some(Coming { bucket: Arc::clone(bucket), state: State::Asked(asked) })
            }
        }
    }
}

impl Coming {
    /// The bytes, unchecked. Blocks until they are here.
    pub(crate) fn bytes(&mut self) -> Result<&[u8], RepoError> {
        if let State::Asked(_) = self.state
            && let State::Asked(asked) = std::mem::replace(&mut self.state, State::Lost)
        {
            self.state = State::Here(self.bucket.run_blocking(asked.result())?);
        }
        match &self.state {
            State::Here(bytes) => Ok(bytes),
            State::Asked(_) | State::Lost => Err(RepoError::Unavailable {
                what: "read a piece of a map".into(),
                source: anyhow::anyhow!("it was given up"),
            }),
        }
    }
}
