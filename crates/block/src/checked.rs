use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The BLAKE3 hash of a block's plain bytes: its name in every repository and cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockHash([u8; 32]);

/// A text that is no [`BlockHash`].
#[derive(Debug, thiserror::Error)]
#[error("a block hash is 64 hexadecimal digits")]
pub struct ParseHashError;

impl BlockHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A hash read from where it was stored. It vouches for nothing until [`Block::verify`].
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

impl FromStr for BlockHash {
    type Err = ParseHashError;
    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseHashError)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for BlockHash {
    type Error = ParseHashError;
    fn try_from(text: String) -> Result<Self, ParseHashError> {
        text.parse()
    }
}

impl From<BlockHash> for String {
    fn from(hash: BlockHash) -> String {
        hash.to_string()
    }
}

/// Bytes that do not hash to the name they were asked for by.
#[derive(Clone, Debug, thiserror::Error)]
#[error("block {expected} is corrupt: its {len} bytes hash to {found}")]
pub struct Corrupt {
    /// The name that was asked for.
    pub expected: BlockHash,
    /// What the bytes hash to.
    pub found: BlockHash,
    /// How many bytes there were.
    pub len: usize,
}

/// A block's plain bytes, known to hash to its name.
///
/// The bytes stay private: [`Block::verify`] and [`Block::seal`] are the only ways to make one, and
/// both hash. There is no switch that turns the check off.
#[derive(Clone, Debug)]
pub struct Block {
    hash: BlockHash,
    bytes: Bytes,
}

impl Block {
    /// Names new bytes by hashing them.
    pub fn seal(bytes: Bytes) -> Self {
        Self { hash: BlockHash::of(&bytes), bytes }
    }

    /// Checks bytes that were stored under `expected`.
    pub fn verify(expected: BlockHash, bytes: Bytes) -> Result<Self, Corrupt> {
        let found = BlockHash::of(&bytes);
        if found == expected {
            Ok(Self { hash: expected, bytes })
        } else {
            Err(Corrupt { expected, found, len: bytes.len() })
        }
    }

    /// The block's name.
    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The checked bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_not_a_block() {
        let good = Block::seal(Bytes::from_static(b"recovery point"));
        let mut bad = good.bytes().to_vec();
        bad[3] ^= 1;
        let error = Block::verify(good.hash(), bad.into()).unwrap_err();
        assert_eq!(error.expected, good.hash());
        assert!(Block::verify(good.hash(), good.bytes().clone()).is_ok());
    }

    #[test]
    fn a_hash_reads_back_from_its_text() {
        let hash = BlockHash::of(b"x");
        assert_eq!(hash.to_string().parse::<BlockHash>().unwrap(), hash);
        assert!("abc".parse::<BlockHash>().is_err());
    }
}
