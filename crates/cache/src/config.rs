use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::RingKey;

/// Largest `min_free_percent`: above it the ring would never have room.
const MIN_FREE_MAX: u8 = 90;

/// Where the cache lives and how much it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// The directory of the ring's segments. It should hold nothing else.
    pub root_dir: PathBuf,
    /// Bytes of blocks kept in RAM.
    pub ram_bytes: u64,
    /// Most bytes of the ring; without it, what `min_free_percent` leaves.
    pub max_bytes: Option<u64>,
    /// Percent of the file system of `root_dir` that the ring leaves free, 0 to 90.
    pub min_free_percent: u8,
    /// What the ring is encrypted with, if it is.
    #[serde(skip)]
    pub key: Option<RingKey>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            root_dir: PathBuf::from("/var/lib/rekindle/cache"),
            ram_bytes: 512 << 20,
            max_bytes: None,
            min_free_percent: 5,
            key: None,
        }
    }
}

impl CacheConfig {
    /// Whether the numbers are within their bounds.
    pub fn check(&self) -> Result<(), CacheError> {
        if self.min_free_percent > MIN_FREE_MAX {
            let text = format!("min_free_percent {} is above 90", self.min_free_percent);
            return Err(CacheError::Refused(text));
        }
        Ok(())
    }
}

/// Why a cache cannot be opened, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Try again later: the directory cannot be used, or another process holds it.
    #[error("cache is unavailable: {0}")]
    Unavailable(String),
    /// Fix the configuration.
    #[error("cache configuration is refused: {0}")]
    Refused(String),
}
