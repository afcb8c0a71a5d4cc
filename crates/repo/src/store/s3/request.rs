//! One request to the store, as often as it takes.

use std::error::Error;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3Bucket;
use crate::RepoError;
use crate::id::random;

pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// One attempt at a request whose body is small.
pub(super) const ATTEMPT_WITHIN: Duration = Duration::from_secs(15);
/// All attempts at one request.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is added to both for each MiB that travels: 256 KiB/s is as slow as a store may be.
const PER_MIB: Duration = Duration::from_secs(4);
/// Full jitter: a pause is anything up to this, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// A store that asks to be spared is spared for longer.
const PAUSE_SLOW_DOWN: Duration = Duration::from_millis(250);
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// How often bytes that fail their check are fetched again before they count as stored so.
const CORRUPT_TRIES: u32 = 3;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Worth another attempt.
    Again { slow_down: bool, why: anyhow::Error },
    /// There is no such object.
    Missing,
    /// The object ends before the range.
    Short,
    /// The object is in an archive and must be thawed.
    Cold,
    /// A condition of the request does not hold: the object exists.
    Exists,
    /// The same is being done already.
    UnderWay,
    /// No attempt will do better.
    Refused(String),
}

impl Failure {
    pub(super) fn again(why: impl Into<anyhow::Error>) -> Self {
        Self::Again { slow_down: false, why: why.into() }
    }

    /// As the crate says it, of `object`, which something refers to.
    pub(super) fn of_object(self, object: &str) -> RepoError {
        match self {
            Self::Again { why, .. } => {
                RepoError::Unavailable { what: format!("read {object}"), source: why }
            }
            Self::Missing => RepoError::corrupt(object, "it is referred to but missing"),
            Self::Short => RepoError::corrupt(object, "it ends too early"),
            Self::Cold => RepoError::Cold { what: object.to_owned() },
            Self::Exists => RepoError::refused(format!("{object} exists already")),
            Self::UnderWay => RepoError::refused(format!("{object} is being thawed already")),
            Self::Refused(why) => RepoError::refused(format!("the store refuses {object}: {why}")),
        }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let status = error.raw_response().map(|response| response.status().as_u16());
        if let (None, Some(why)) = (status, hopeless(&error)) {
            return Self::Refused(why);
        }
        let code = error.code().unwrap_or_default().to_owned();
        let said = || match error.message() {
            Some(message) if !code.is_empty() => format!("{code}: {message}"),
            _ => innermost(&error),
        };
        let slow_down = matches!(code.as_str(), "SlowDown" | "Throttling" | "TooManyRequests")
            || matches!(status, Some(429 | 503));
        let again = || Self::Again { slow_down, why: anyhow::anyhow!("{}", said()) };
        match (status, code.as_str()) {
            (_, "InvalidObjectState") => Self::Cold,
            (_, "RestoreAlreadyInProgress") => Self::UnderWay,
            (_, "NoSuchBucket") => Self::Refused("there is no such bucket".into()),
            (_, "RequestTimeout" | "ConditionalRequestConflict" | "OperationAborted") => again(),
            (Some(404), _) => Self::Missing,
            (Some(416), _) => Self::Short,
            (Some(412), _) => Self::Exists,
            (Some(408 | 409 | 429 | 500..), _) | (None, _) => again(),
            // An answer that was cut off or garbled on its way.
            (Some(..400), _) => again(),
            (Some(_), _) => Self::Refused(said()),
        }
    }
}

/// Why no request was sent, if none ever will be: somebody must mend it.
fn hopeless(error: &dyn Error) -> Option<String> {
    let mut at = Some(error);
    while let Some(error) = at {
        let said = error.to_string();
        if said == "the credential provider was not enabled" {
            let why = "there are no credentials: no file is named, and nothing is in the environment, the shared configuration, the container or the machine";
            return Some(why.into());
        }
        // Both are the words of the engines below, which have no type for it that reaches us.
        if said.starts_with("invalid peer certificate")
            || said == "the credentials provider was not properly configured"
        {
            return Some(innermost(error));
        }
        at = error.source();
    }
    None
}

/// The cause at the bottom of an error, which for the SDK's is the one that tells.
fn innermost(error: &dyn Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// What is tried, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) attempt: Duration,
    deadline: Duration,
}

impl Patience {
    /// For a request that moves so many bytes.
    pub(super) fn for_bytes(len: u64) -> Self {
        let more = PER_MIB * u32::try_from(len >> 20).unwrap_or(u32::MAX).min(1 << 14);
        Self { attempt: ATTEMPT_WITHIN + more, deadline: DEADLINE + more }
    }
}

impl S3Bucket {
    /// Makes attempts until one succeeds, none will, or the time is over.
    pub(super) async fn persist<T, F>(
        &self,
        patience: Patience,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let begun = Instant::now();
        let mut tries = 0_u32;
        loop {
            self.breaker.admit(Instant::now()).map_err(Failure::again)?;
            let result = match tokio::time::timeout(patience.attempt, attempt()).await {
                Ok(result) => result,
                Err(_) => {
                    Err(Failure::again(anyhow::anyhow!("no answer in {:?}", patience.attempt)))
                }
            };
            let Err(Failure::Again { slow_down, why }) = result else {
                self.breaker.answered();
                return result;
            };
            self.breaker.failed(Instant::now(), &why);
            self.counts.failed.add(1);
            let pause = pause(tries, slow_down);
            tries += 1;
            if begun.elapsed() + pause > patience.deadline {
                let why = why.context(format!("gave up after {tries} attempts"));
                return Err(Failure::Again { slow_down, why });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Fetches with `fetch` and hands the bytes to `check`; what that calls corrupt is fetched again a few times.
    pub(super) async fn checked<T, F>(
        &self,
        mut fetch: impl FnMut() -> F,
        check: impl Fn(Vec<u8>) -> Result<T, RepoError>,
    ) -> Result<T, RepoError>
    where
        F: Future<Output = Result<Vec<u8>, RepoError>>,
    {
        let mut tries = 0;
        loop {
            let result = check(fetch().await?);
            tries += 1;
            match &result {
                Err(RepoError::Corrupt { .. }) if tries < CORRUPT_TRIES => {
                    self.counts.damaged.add(1);
                }
                _ => return result,
            }
        }
    }
}

fn pause(tries: u32, slow_down: bool) -> Duration {
    let base = if slow_down { PAUSE_SLOW_DOWN } else { PAUSE };
    let most = base.saturating_mul(1 << tries.min(10)).min(PAUSE_AT_MOST);
    let part = random::<4>().map_or(u32::MAX, u32::from_le_bytes);
    most.mul_f64(f64::from(part) / f64::from(u32::MAX))
}
