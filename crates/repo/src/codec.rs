use std::cell::RefCell;

use bytes::Bytes;
use rekindle_block::Block;
use zstd::bulk::{Compressor, Decompressor};

use crate::RepoError;
use crate::map::BlockRef;

/// How a block's bytes lie in their pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// Never 0: an entry of zeros is a zero block.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Raw => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Raw),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether `stored` bytes can be `plain` ones so encoded. Compressed is always shorter.
    pub(crate) fn allows(self, stored: u32, plain: u32) -> bool {
        match self {
            Self::Raw => stored == plain && stored > 0,
            Self::Zstd => stored < plain && stored > 0,
        }
    }
}

/// Compresses blocks one by one.
pub(crate) struct Encoder(Compressor<'static>);

impl Encoder {
    pub(crate) fn new(level: i32) -> Result<Self, RepoError> {
        Compressor::new(level).map(Self).map_err(|e| RepoError::io("start the compressor", e))
    }

    /// Appends the stored form of `plain` to `out`, of which `used` bytes are taken. `out` must have
    /// room for `plain` as it is.
    ///
    /// A block that does not shrink by a sixteenth is stored raw: reading it then costs no decoding.
    pub(crate) fn append(&mut self, plain: &[u8], out: &mut [u8], used: &mut usize) -> Codec {
        let room = &mut out[*used..*used + plain.len()];
        let enough = plain.len() - plain.len() / 16 - 1;
        match self.0.compress_to_buffer(plain, &mut room[..enough]) {
            Ok(len) => {
                *used += len;
                Codec::Zstd
            }
            // The only failure there is: it does not fit.
            Err(_) => {
                room.copy_from_slice(plain);
                *used += plain.len();
                Codec::Raw
            }
        }
    }
}

thread_local! {
    /// A decompression context is 160 KiB; one is kept per thread that ever decoded.
    static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The block that `stored` holds, decompressed into exactly its length and checked.
pub(crate) fn open_block(block: &BlockRef, stored: Vec<u8>) -> Result<Block, RepoError> {
    let corrupt = |detail: String| RepoError::corrupt(block_name(block), detail);
    let plain = match block.codec {
        Codec::Raw => stored,
        Codec::Zstd => decompress(&stored, block.plain_len as usize)
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
    use rekindle_block::BlockHash;

    fn round_trip(plain: &[u8]) -> (BlockRef, Vec<u8>) {
        let mut out = vec![0; plain.len()];
        let mut used = 0;
        let codec = Encoder::new(1).unwrap().append(plain, &mut out, &mut used);
        out.truncate(used);
        let block = BlockRef {
            hash: BlockHash::of(plain),
            pack: PackId(7),
            offset: 0,
            stored_len: used as u32,
            plain_len: plain.len() as u32,
            codec,
        };
        (block, out)
    }

    #[test]
    fn blocks_come_back_whether_they_shrink_or_not() {
        let noise: Vec<u8> =
            (0..8192u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let noise: Vec<u8> =
            noise.chunks(32).flat_map(|chunk| *BlockHash::of(chunk).as_bytes()).collect();
        for (plain, codec) in
            [(vec![7; 4096], Codec::Zstd), (noise, Codec::Raw), (vec![1], Codec::Raw)]
        {
            let (block, stored) = round_trip(&plain);
            assert_eq!(block.codec, codec);
            assert!(codec.allows(block.stored_len, block.plain_len));
            assert_eq!(open_block(&block, stored).unwrap().bytes(), &plain);
        }
    }

    #[test]
    fn a_frame_that_grows_beyond_its_block_is_refused() {
        let (mut block, stored) = round_trip(&vec![7; 1 << 20]);
        block.plain_len = 4096;
        assert!(matches!(open_block(&block, stored), Err(RepoError::Corrupt { .. })));
    }
}
