//! Sizes, indices, ranges and checked bytes: the words that `repo`, `cache` and `disk` share. No I/O.
//!
//! # Layout
//!
//! ```text
//! disk bytes  0 ........ S ........ 2S ...... size     S = BlockSize, a power of two
//!             | block 0  | block 1  | block 2 |        the last block may be short
//! ```
//!
//! # Invariants
//!
//! 1. Rounding between bytes and blocks happens in [`BlockSize`] and nowhere else.
//! 2. A [`Block`]'s bytes hash to its name: there is no way to make one without that check. Where its name is that of a
//!    place ([`BlockHash::of_place`]), who read the bytes there vouches for them, and whoever keeps them checks by sums of its own.
//!
//! # Bounds
//!
//! A block is at most [`BlockSize::MAX`] bytes.

mod checked;
mod size;

pub use checked::{Block, BlockHash, Corrupt, ParseHashError};
pub use size::{BlockIdx, BlockSize, BlockSizeError};

/// Whether every byte is zero. Such blocks take no space in a repository.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole words at a time, which the compiler compares with vector instructions.
    let (words, tail) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_set_bit_anywhere_is_seen() {
        for len in [0, 1, 31, 32, 33, 64, 100] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len} zero bytes");
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "bit at {at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
