use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rekindle_block::BlockHash;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RepoError;

/// A text that is no valid identifier.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no valid {kind}")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

/// Defines a checked text that is also a file name: it cannot be empty, hidden or lead anywhere.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if is_file_name(text, $max) {
                    Ok(Self(text.to_owned()))
                } else {
                    let text = text.chars().take(64).collect();
                    Err(ParseIdError { kind: $kind, text })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// Names a recovery point: `[a-z0-9._-]{1,64}`, unique in its repository, sorting by time.
    PointId, "recovery point id", 64
}
text_id! {
    /// Names a VM across its recovery points: `[a-z0-9._-]{1,100}`.
    VmId, "VM id", 100
}
text_id! {
    /// Names a disk map object: `[a-z0-9._-]{1,64}`.
    MapId, "map id", 64
}

fn is_file_name(text: &str, max: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    (1..=max).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed)
}

impl PointId {
    /// A new id for a point that was taken at `at`.
    pub(crate) fn new(at: Timestamp) -> Result<Self, RepoError> {
        let time = at.strftime("%Y%m%dt%H%M%Sz");
        Ok(Self(format!("{time}-{}", hex::encode(random::<4>()?))))
    }
}

impl PointId {
    /// The id of files that lie somewhere, changed last at `at`: the same for as long as they are what `content` says.
    pub(crate) fn of_files(at: Timestamp, content: &BlockHash) -> Self {
        let time = at.strftime("%Y%m%dt%H%M%Sz");
        Self(format!("{time}-{}", hex::encode(&content.as_bytes()[..8])))
    }
}

impl MapId {
    /// What stands for a map where there is none: an image has tables of its own.
    pub(crate) fn none() -> Self {
        Self("image".into())
    }
}

impl VmId {
    pub(crate) fn unnamed() -> Self {
        Self("unnamed".into())
    }
}

impl MapId {
    pub(crate) fn random() -> Result<Self, RepoError> {
        Ok(Self(hex::encode(random::<16>()?)))
    }
}

/// Names a pack. Random: the chance that 2^20 packs hold two alike is 2^-25, and creating the
/// second would fail, not overwrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackId(pub(crate) u64);

impl PackId {
    pub(crate) fn random() -> Result<Self, RepoError> {
        Ok(Self(u64::from_le_bytes(random::<8>()?)))
    }
}

impl FromStr for PackId {
    type Err = ParseIdError;
    /// Exactly as it is displayed, so that no other name is taken for it.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let id = u64::from_str_radix(text, 16).ok().map(Self);
        id.filter(|id| id.to_string() == text).ok_or_else(|| {
            let text = text.chars().take(64).collect();
            ParseIdError { kind: "pack id", text }
        })
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], RepoError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| RepoError::Unavailable {
        what: "draw random bytes".into(),
        source: anyhow::anyhow!("{error}"),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_lead_anywhere() {
        for bad in ["", ".", "..", "a/b", "A", ".hidden", "a b", "ü", &"x".repeat(101)] {
            assert!(bad.parse::<VmId>().is_err(), "{bad}");
        }
        for good in ["a", "vm-1.x_y", &"x".repeat(100)] {
            assert_eq!(good.parse::<VmId>().unwrap().as_str(), good);
        }
        let id = PointId::new("2025-01-02T03:04:05Z".parse().unwrap()).unwrap();
        assert!(id.as_str().starts_with("20250102t030405z-"), "{id}");
        assert_eq!(id.as_str().parse::<PointId>().unwrap(), id);
    }
}
