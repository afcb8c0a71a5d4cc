use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::DiskError;

/// Longest name of a disk, in bytes.
pub const ID_MAX: usize = 100;

/// The name of a disk: 1 to 100 of `[a-z0-9._-]`, not starting with a dot. It is also the name of
/// the overlay's folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    /// `name` as a disk's name; `Refused` if it is none.
    pub fn new(name: impl Into<String>) -> Result<Self, DiskError> {
        let name = name.into();
        let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let fits = (1..=ID_MAX).contains(&name.len()) && !name.starts_with('.');
        if fits && name.bytes().all(good) {
            Ok(Self(name))
        } else {
            Err(DiskError::Refused(format!("{name:?} is no name for a disk")))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DiskId {
    type Err = DiskError;
    fn from_str(name: &str) -> Result<Self, DiskError> {
        Self::new(name)
    }
}

impl TryFrom<String> for DiskId {
    type Error = DiskError;
    fn try_from(name: String) -> Result<Self, DiskError> {
        Self::new(name)
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> String {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_folder() {
        for bad in ["", ".", "..", ".x", "a/b", "A", "a b", "\u{e4}", &"x".repeat(101)] {
            assert!(DiskId::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(DiskId::new("job-1_scsi0.0").unwrap().as_str(), "job-1_scsi0.0");
    }
}
