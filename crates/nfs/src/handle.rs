//! File handles: opaque to clients, good for ever, and not to be made up.
//!
//! # Layout
//!
//! ```text
//! byte  0       1 .. 8          8 .. 16      16 .. 32
//!      | 1 | export id (BE) | file id (BE) | first half of the keyed BLAKE3 of bytes 0..16 |
//! ```
//!
//! 32 bytes: ESXi takes no more than 56.

use subtle::ConstantTimeEq;

/// Length of a handle.
pub(crate) const LEN: usize = 32;
const VERSION: u8 = 1;

/// The authenticating half of a handle.
pub(crate) type Mac = [u8; 16];

/// What a handle names, before anyone looked whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) export: u64,
    pub(crate) file: u64,
    pub(crate) mac: Mac,
}

/// Makes and checks handles.
pub(crate) struct HandleKey([u8; 32]);

impl HandleKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The MAC for a file of an export.
    pub(crate) fn mac(&self, export: u64, file: u64) -> Mac {
        let hash = blake3::keyed_hash(&self.0, &names(export, file));
        let mut mac = Mac::default();
        mac.copy_from_slice(&hash.as_bytes()[..16]);
        mac
    }

    /// Whether the handle is one that this server gave out at some time.
    pub(crate) fn is_genuine(&self, named: &Named) -> bool {
        self.mac(named.export, named.file).ct_eq(&named.mac).into()
    }
}

fn names(export: u64, file: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&export.to_be_bytes());
    bytes[0] = VERSION;
    bytes[8..].copy_from_slice(&file.to_be_bytes());
    bytes
}

/// The handle of a file. An export id has 56 bits.
pub(crate) fn encode(export: u64, file: u64, mac: &Mac) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..16].copy_from_slice(&names(export, file));
    bytes[16..].copy_from_slice(mac);
    bytes
}

/// Takes a handle apart; `None` if it has not the form of ours.
pub(crate) fn decode(bytes: &[u8]) -> Option<Named> {
    let bytes: &[u8; LEN] = bytes.try_into().ok()?;
    if bytes[0] != VERSION {
        return None;
    }
    let word = |at: usize| -> u64 {
        bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let mut mac = Mac::default();
    mac.copy_from_slice(&bytes[16..]);
    Some(Named { export: word(0) & ((1 << 56) - 1), file: word(8), mac })
}

#[cfg(test)]
mod tests {
    use super::{HandleKey, decode, encode};

    #[test]
    fn a_handle_says_what_it_names_and_one_flipped_bit_is_seen() {
        let key = HandleKey::new([7; 32]);
        let handle = encode(0x1234, 0x5678_9abc, &key.mac(0x1234, 0x5678_9abc));
        let named = decode(&handle).unwrap();
        assert_eq!((named.export, named.file), (0x1234, 0x5678_9abc));
        assert!(key.is_genuine(&named));
        for bit in 0..handle.len() * 8 {
            let mut bad = handle;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_none_or(|named| !key.is_genuine(&named)), "bit {bit}");
        }
    }

    #[test]
    fn other_lengths_are_not_handles() {
        for len in [0, 1, 16, 31, 33, 56, 64] {
            assert_eq!(decode(&vec![1; len]), None, "{len}");
        }
    }
}
