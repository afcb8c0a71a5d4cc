use std::cell::RefCell;

use bytes::Bytes;
use rekindle_block::{Block, BlockHash};
use zstd::bulk::{Compressor, Decompressor};

use crate::RepoError;
use crate::map::BlockRef;
use crate::seal::{NONCE_BYTES, SEAL_BYTES, Scope, Seal, TAG_BYTES};

/// How a block's bytes lie in their pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
    /// Sealed as they are.
    SealedRaw,
    /// One zstd frame, sealed.
    SealedZstd,
}

impl Codec {
    /// Never 0: an entry of zeros is a zero block.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Raw => 1,
            Self::Zstd => 2,
            Self::SealedRaw => 3,
            Self::SealedZstd => 4,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Raw),
            2 => Some(Self::Zstd),
            3 => Some(Self::SealedRaw),
            4 => Some(Self::SealedZstd),
            _ => None,
        }
    }

    /// Whether `stored` bytes can be `plain` ones so encoded. Compressed is always shorter.
    pub(crate) fn allows(self, stored: u32, plain: u32) -> bool {
        let sealed = SEAL_BYTES as u32;
        match self {
            Self::Raw => stored == plain && stored > 0,
            Self::Zstd => stored < plain && stored > 0,
            Self::SealedRaw => plain > 0 && plain.checked_add(sealed) == Some(stored),
            Self::SealedZstd => stored > sealed && stored - sealed < plain,
        }
    }

    fn is_sealed(self) -> bool {
        matches!(self, Self::SealedRaw | Self::SealedZstd)
    }

    fn sealed(self) -> Self {
        match self {
            Self::Raw | Self::SealedRaw => Self::SealedRaw,
            Self::Zstd | Self::SealedZstd => Self::SealedZstd,
        }
    }

    /// What a sealed block's bytes are bound to beside their hash.
    fn bound(self, plain_len: u32) -> [u8; 5] {
        let [a, b, c, d] = plain_len.to_le_bytes();
        [self.number(), a, b, c, d]
    }
}

/// Compresses and seals blocks one by one.
pub(crate) struct Encoder {
    compressor: Compressor<'static>,
    seal: Seal,
}

impl Encoder {
    pub(crate) fn new(level: i32, seal: Seal) -> Result<Self, RepoError> {
        let compressor = Compressor::new(level);
        let compressor = compressor.map_err(|e| RepoError::io("start the compressor", e))?;
        Ok(Self { compressor, seal })
    }

    /// Appends the stored form of `plain` to `out`, of which `used` bytes are taken. `out` must have
    /// room for `plain` as it is, and [`SEAL_BYTES`] more if it is sealed.
    pub(crate) fn append(
        &mut self,
        hash: &BlockHash,
        plain: &[u8],
        out: &mut [u8],
        used: &mut usize,
    ) -> Result<Codec, RepoError> {
        let Seal::Sealed(key) = &self.seal else {
            let (codec, len) = encode(&mut self.compressor, plain, &mut out[*used..]);
            *used += len;
            return Ok(codec);
        };
        let (codec, len) = encode(&mut self.compressor, plain, &mut out[*used + NONCE_BYTES..]);
        let codec = codec.sealed();
        let room = &mut out[*used..*used + NONCE_BYTES + len + TAG_BYTES];
        key.seal(Scope::Block(hash), &codec.bound(plain.len() as u32), room)?;
        *used += room.len();
        Ok(codec)
    }
}

/// Puts `plain` at the start of `room`. A block that does not shrink by a sixteenth is stored raw: reading it then
/// costs no decoding.
fn encode(compressor: &mut Compressor<'_>, plain: &[u8], room: &mut [u8]) -> (Codec, usize) {
    let enough = plain.len() - plain.len() / 16 - 1;
    match compressor.compress_to_buffer(plain, &mut room[..enough]) {
        Ok(len) => (Codec::Zstd, len),
        // The only failure there is: it does not fit.
        Err(_) => {
            room[..plain.len()].copy_from_slice(plain);
            (Codec::Raw, plain.len())
        }
    }
}

thread_local! {
    /// A decompression context is 160 KiB; one is kept per thread that ever decoded.
    static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The block that `stored` holds, opened, decompressed into exactly its length and checked.
pub(crate) fn open_block(
    seal: &Seal,
    block: &BlockRef,
    stored: Vec<u8>,
) -> Result<Block, RepoError> {
    let corrupt = |detail: String| RepoError::corrupt(block_name(block), detail);
    if block.codec.is_sealed() != seal.is_sealed() {
        return Err(corrupt("it is not sealed as this repository is".into()));
    }
    let bound = block.codec.bound(block.plain_len);
    let opened = seal.open(Scope::Block(&block.hash), &bound, stored);
    let opened = opened.map_err(|_| corrupt("it is not what was sealed".into()))?;
    let plain = match block.codec {
        Codec::Raw | Codec::SealedRaw => opened,
        Codec::Zstd | Codec::SealedZstd => decompress(&opened, block.plain_len as usize)
            .map_err(|e| corrupt(format!("it does not decompress: {e}")))?,
    };
    if plain.len() != block.plain_len as usize {
        return Err(corrupt(format!("{} bytes and not {}", plain.len(), block.plain_len)));
    }
    Block::verify(block.hash, Bytes::from(plain)).map_err(|e| corrupt(e.to_string()))
}

fn block_name(block: &BlockRef) -> String {
    format!("block {:?} at {} of pack {}", block.hash, block.offset, block.pack)
}

fn decompress(stored: &[u8], plain_len: usize) -> std::io::Result<Vec<u8>> {
    DECODER.with_borrow_mut(|decoder| {
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => decoder.insert(Decompressor::new()?),
        };
        decoder.decompress(stored, plain_len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;
    use crate::seal::DataKey;

    fn seals() -> [Seal; 2] {
        [Seal::Open, Seal::Sealed(DataKey::random().unwrap().into())]
    }

    fn round_trip(seal: &Seal, plain: &[u8]) -> (BlockRef, Vec<u8>) {
        let mut out = vec![0; plain.len() + SEAL_BYTES];
        let mut used = 0;
        let hash = BlockHash::of(plain);
        let mut encoder = Encoder::new(1, seal.clone()).unwrap();
        let codec = encoder.append(&hash, plain, &mut out, &mut used).unwrap();
        out.truncate(used);
        let (stored_len, plain_len) = (used as u32, plain.len() as u32);
        let block = BlockRef { hash, pack: PackId(7), offset: 0, stored_len, plain_len, codec };
        (block, out)
    }

    #[test]
    fn blocks_come_back_whether_they_shrink_or_not() {
        let noise: Vec<u8> =
            (0..8192u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let noise: Vec<u8> =
            noise.chunks(32).flat_map(|chunk| *BlockHash::of(chunk).as_bytes()).collect();
        for seal in seals() {
            for (plain, codec) in
                [(vec![7; 4096], Codec::Zstd), (noise.clone(), Codec::Raw), (vec![1], Codec::Raw)]
            {
                let codec = if seal.is_sealed() { codec.sealed() } else { codec };
                let (block, stored) = round_trip(&seal, &plain);
                assert_eq!(block.codec, codec);
                assert_eq!(Codec::from_number(codec.number()), Some(codec));
                assert!(codec.allows(block.stored_len, block.plain_len));
                assert_eq!(open_block(&seal, &block, stored).unwrap().bytes(), &plain);
            }
        }
    }

    #[test]
    fn a_sealed_block_opens_as_nothing_else() {
        let [open, sealed] = seals();
        let (block, stored) = round_trip(&sealed, &[7; 4096]);
        let refused = |seal: &Seal, block: BlockRef, stored: &[u8]| {
            matches!(open_block(seal, &block, stored.to_vec()), Err(RepoError::Corrupt { .. }))
        };
        assert!(!refused(&sealed, block, &stored));
        for other in [open.clone(), seals()[1].clone()] {
            assert!(refused(&other, block, &stored), "{other:?}");
        }
        assert!(refused(&sealed, BlockRef { codec: Codec::SealedRaw, ..block }, &stored));
        assert!(refused(&sealed, BlockRef { hash: BlockHash::of(b"x"), ..block }, &stored));
        assert!(refused(&sealed, BlockRef { plain_len: 8192, ..block }, &stored));
        // Another's plain block in a sealed repository is no block of it.
        let (plain, stored) = round_trip(&open, &[7; 4096]);
        assert!(refused(&sealed, plain, &stored));
    }

    #[test]
    fn a_frame_that_grows_beyond_its_block_is_refused() {
        let (mut block, stored) = round_trip(&Seal::Open, &vec![7; 1 << 20]);
        block.plain_len = 4096;
        let opened = open_block(&Seal::Open, &block, stored);
        assert!(matches!(opened, Err(RepoError::Corrupt { .. })));
    }
}
