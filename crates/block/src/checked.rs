use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::BlockIdx;

/// What the names of blocks end with that are called by their place. No hash ends so but by a chance of 2^-64, and
/// then it is only checked less.
const PLACE_MARK: [u8; 8] = *b"by place";

/// The BLAKE3 hash of a block's plain bytes: its name in every repository and cache. Or, where a disk is read as it
/// lies and nobody has hashed it, a name for the place of the block: see [`BlockHash::of_place`].
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

    /// The name of block `idx` of the disk that `disk` stands for, which must be another whenever the disk's bytes are.
    pub fn of_place(disk: &[u8; 32], idx: BlockIdx) -> Self {
        let mut name = *blake3::keyed_hash(disk, &idx.0.to_le_bytes()).as_bytes();
        name[24..].copy_from_slice(&PLACE_MARK);
        Self(name)
    }

    /// Whether it is the name of a place, and tells nothing about the bytes there.
    pub fn is_place(&self) -> bool {
        self.0.ends_with(&PLACE_MARK)
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

/// A block's plain bytes, known to hash to its name; or to come from the place that its name is of.
///
/// The bytes stay private: [`Block::verify`] and [`Block::seal`] are the only ways to make one that is called by its
/// content, and both hash. There is no switch that turns the check off.
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

    /// Bytes that were read at the place `name`, by whoever made sure that they are of there. `None` for a name that
    /// is a hash: such bytes are verified.
    pub fn of_place(name: BlockHash, bytes: Bytes) -> Option<Self> {
        name.is_place().then_some(Self { hash: name, bytes })
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
    fn only_a_place_goes_without_a_hash() {
        let place = BlockHash::of_place(&[7; 32], BlockIdx(3));
        assert!(place.is_place() && !BlockHash::of(b"x").is_place());
        let others = [([7; 32], 4), ([8; 32], 3), ([7; 32], 3 << 32)];
        assert!(
            others.iter().all(|(disk, idx)| BlockHash::of_place(disk, BlockIdx(*idx)) != place)
        );
        let bytes = Bytes::from_static(b"recovery point");
        assert_eq!(Block::of_place(place, bytes.clone()).unwrap().hash(), place);
        assert!(Block::of_place(BlockHash::of(&bytes), bytes.clone()).is_none());
        assert!(Block::verify(place, bytes).is_err());
    }

    #[test]
    fn a_hash_reads_back_from_its_text() {
        let hash = BlockHash::of(b"x");
        assert_eq!(hash.to_string().parse::<BlockHash>().unwrap(), hash);
        assert!("abc".parse::<BlockHash>().is_err());
    }
}
