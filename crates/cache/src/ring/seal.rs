//! Encryption of a segment's bytes where they lie: XChaCha20 by their place, under a nonce of the segment's own. Who has the
//! ring's disk learns how much is cached, and nothing of what. It does not keep anybody from changing it: what is read is
//! checked as ever, which finds damage and no forger.

use std::fmt;
use std::fs::File;
use std::io;

use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use rustix::fs::XattrFlags;

/// Where a segment's nonce is, and behind it what its key is known by: they go with the file, and its bytes stay what they are.
const NONCE: &str = "user.rekindle.nonce";
const NONCE_BYTES: usize = 24;
const CHECK_BYTES: usize = 8;
const KEPT_BYTES: usize = NONCE_BYTES + CHECK_BYTES;
/// What a nonce is good for is 256 GiB; no segment of ours comes near it. What lies behind is not of a place in the file.
pub(super) const BYTES_MAX: u64 = 128 << 30;

/// What the ring is encrypted with. It is kept somewhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct RingKey([u8; 32]);

impl RingKey {
    /// Of bytes that nobody can guess.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingKey(..)")
    }
}

/// The key and the nonce of one segment.
pub(super) struct Seal {
    key: RingKey,
    nonce: [u8; NONCE_BYTES],
}

impl Seal {
    /// Of a new and empty file: no nonce is ever used again, so that no two bytes have the same key stream.
    pub(super) fn make(key: &RingKey, file: &File) -> io::Result<Self> {
        let seal = Self::new(key)?;
        let kept = [&seal.nonce[..], &seal.check()].concat();
        rustix::fs::fsetxattr(file, NONCE, &kept, XattrFlags::CREATE)?;
        Ok(seal)
    }

    pub(super) fn new(key: &RingKey) -> io::Result<Self> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        Ok(Self { key: key.clone(), nonce })
    }

    /// Of a file that an earlier process left. An error if that had another key.
    pub(super) fn of(key: &RingKey, file: &File) -> io::Result<Self> {
        let mut kept = [0; KEPT_BYTES];
        let len = rustix::fs::fgetxattr(file, NONCE, &mut kept)?;
        let (nonce, check) = kept.split_at(NONCE_BYTES);
        let nonce = nonce.try_into().map_err(io::Error::other)?;
        let seal = Self { key: key.clone(), nonce };
        if len != KEPT_BYTES || check != seal.check() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(seal)
    }

    /// What only this key makes of this nonce.
    fn check(&self) -> [u8; CHECK_BYTES] {
        let mut check = [0; CHECK_BYTES];
        self.apply(BYTES_MAX, &mut check);
        check
    }

    /// Encrypts or decrypts the bytes at `at` of the file.
    pub(super) fn apply(&self, at: u64, bytes: &mut [u8]) {
        let mut cipher = XChaCha20::new(&self.key.0.into(), &self.nonce.into());
        cipher.seek(at);
        cipher.apply_keystream(bytes);
    }
}

/// Whether a file was made with a key.
pub(super) fn is_sealed(file: &File) -> bool {
    rustix::fs::fgetxattr(file, NONCE, &mut [0; KEPT_BYTES]).is_ok()
}

/// Whether the file system of `file` can hold what a sealed segment needs.
pub(super) fn check(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, NONCE, &[0; KEPT_BYTES], XattrFlags::empty())?)
}
