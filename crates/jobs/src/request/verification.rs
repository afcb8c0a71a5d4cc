//! How much of a copy is compared.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, RecoveryRequest};
use crate::JobError;

/// The largest seed: what a JSON number holds exactly in every language.
const SEED_MAX: u64 = (1 << 53) - 1;

/// How much of a copy is read back and compared before it counts. Nothing is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// Every byte.
    #[default]
    Full,
    /// The first and the last MiB of each disk, its partition tables, all that the guest wrote, and a part of the rest.
    Sampled(Sampling),
}

/// Which part of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// How many percent, from 1 to 99.
    #[schemars(range(min = 1, max = 99))]
    pub percent: u8,
    /// What they are chosen by, below 2^53; drawn at random when absent. The job's report names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = SEED_MAX))]
    pub seed: Option<u64>,
}

impl Verification {
    pub(crate) fn validate(&self) -> Result<(), JobError> {
        let refused = |message: String| Err(JobError::refused("bad_verify", message));
        match self {
            Self::Full => Ok(()),
            Self::Sampled(Sampling { percent, .. }) if !(1..=99).contains(percent) => {
                refused("a sample has 1 to 99 percent: for all of it, `full`".into())
            }
            Self::Sampled(Sampling { seed: Some(seed), .. }) if *seed > SEED_MAX => {
                refused(format!("a seed is at most {SEED_MAX}"))
            }
            Self::Sampled(_) => Ok(()),
        }
    }

    /// The same with a seed, if it wants one.
    pub(crate) fn seeded(self) -> Result<Self, JobError> {
        let Self::Sampled(sampling @ Sampling { seed: None, .. }) = self else { return Ok(self) };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| {
            JobError::unavailable("internal", "draw a seed", anyhow::anyhow!("{e}"))
        })?;
        let seed = Some(u64::from_le_bytes(random) & SEED_MAX);
        Ok(Self::Sampled(Sampling { seed, ..sampling }))
    }

    /// The part that is compared and its seed; `None` for all of it.
    pub(crate) fn sampling(&self) -> Option<(Sampling, u64)> {
        match self {
            Self::Full => None,
            Self::Sampled(sampling) => Some((*sampling, sampling.seed.unwrap_or_default())),
        }
    }
}

/// What was compared of a copy, and found to be as it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Compared {
    /// How, with the seed that a sample was chosen by.
    pub how: Verification,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Bytes that there are.
    pub of_bytes: u64,
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.how.sampling() {
            None => write!(f, "all {} bytes of the copy were compared", self.of_bytes),
            Some((sampling, seed)) => write!(
                f,
                "{} of {} bytes of the copy were compared: a sample of {} % by the seed {seed}",
                self.bytes, self.of_bytes, sampling.percent
            ),
        }
    }
}

impl RecoveryRequest {
    pub(crate) fn validate_verify(&self) -> Result<(), JobError> {
        let Some(verify) = &self.verify else { return Ok(()) };
        if self.mode == Mode::LiveMount || self.attach_to.is_some() {
            let message = "nothing is copied, and so nothing compared: verify is for what migrates";
            return Err(JobError::refused("bad_verify", message));
        }
        verify.validate()
    }

    pub(crate) fn verification(&self) -> Verification {
        self.verify.unwrap_or_default()
    }
}
