use std::fmt;
use std::path::{Path, PathBuf};

use super::S3Location;

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Local(PathBuf),
    /// A bucket and a prefix in it.
    S3(S3Location),
}

/// What a repository beyond the network keeps on this machine.
#[derive(Clone, Debug, Default)]
pub struct Near {
    /// The directory for copies of maps, while their disks are open.
    pub maps: Option<PathBuf>,
    /// The directory of the hot copy, which reads prefer.
    pub hot: Option<PathBuf>,
}

impl Location {
    /// The directory, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Local(dir) => Some(dir),
            Self::S3(_) => None,
        }
    }
}

impl From<&Path> for Location {
    fn from(dir: &Path) -> Self {
        Self::Local(dir.to_owned())
    }
}

impl From<&PathBuf> for Location {
    fn from(dir: &PathBuf) -> Self {
        Self::Local(dir.clone())
    }
}

impl From<S3Location> for Location {
    fn from(place: S3Location) -> Self {
        Self::S3(place)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(dir) => write!(f, "{}", dir.display()),
            Self::S3(place) => write!(f, "{place}"),
        }
    }
}
