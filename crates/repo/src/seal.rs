//! What keeps a repository's content from whoever reads its objects without a passkey.
//!
//! A *passkey* opens one of the objects in `keys/`, and finds there the *data key*: 32 random bytes that are the
//! same for the repository's life. Nothing is sealed under the data key itself. Each block, map, pack index,
//! manifest and folder has a key of its own: HKDF-SHA256-Expand of the data key, with what it is and how it is
//! named as info.
//!
//! ```text
//! sealed:  nonce 12 | AES-256-GCM ciphertext, as long as the plain bytes | tag 16
//! ```
//!
//! | what | key from | associated data |
//! | --- | --- | --- |
//! | block | the BLAKE3 hash of its plain bytes | codec 1, plain length 4 |
//! | map page, map root | the map's id | its offset in the map 8 |
//! | pack index | the pack's id | entries 8 |
//! | manifest | the object's name | nothing |
//! | condemned list, check report | the object's name | nothing |
//! | name of a VM's folder | the VM's id; the first 16 bytes are the name | |
//!
//! Nonces are random. How often one key meets two messages decides whether that is enough: a block's key meets
//! only the stored forms of one and the same plain bytes, which is one, or a few where several appliances write
//! the same block at once; a map's meets at most 2^25 pages (the largest disk in the smallest blocks), of which two
//! have one nonce with a chance of 2^-47; any other key meets one message. A
//! clone of a random generator's state (a snapshot of the appliance) repeats a nonce only for the same key, so for
//! the same plain block.
//!
//! A block's key follows from its content and not from its place, so that a block can be moved to another pack as
//! it is, and a block put where another belongs does not open. Maps bind a hash to a place, and are sealed.
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rekindle_block::BlockHash;

mod data_key;
mod kdf;
pub(crate) mod keyring;
mod passkey;

pub(crate) use data_key::DataKey;
pub use keyring::PasskeyInfo;
pub use passkey::Passkey;

use crate::id::PackId;
use crate::{MapId, RepoError, VmId};

/// Bytes that sealing adds: the nonce before, the tag behind.
pub(crate) const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;
pub(crate) const NONCE_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;

/// Whether a repository's objects are sealed, and with what.
#[derive(Clone)]
pub(crate) enum Seal {
    /// They lie there as they are.
    Open,
    /// Under keys that follow from this one.
    Sealed(Arc<DataKey>),
}

/// What is sealed: each has a key of its own.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// A block, by the hash of its plain bytes.
    Block(&'a BlockHash),
    /// The pages and the root of a map.
    Map(&'a MapId),
    /// The index of a pack.
    Index(PackId),
    /// An object that is sealed whole, by its name.
    Object(&'a str),
}

/// Sealed bytes that do not open: they were changed, or belong elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_sealed() { "Sealed" } else { "Open" })
    }
}

impl Seal {
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }

    /// Bytes that `plain` bytes take once stored.
    pub(crate) fn stored_len(&self, plain: usize) -> usize {
        if self.is_sealed() { plain + SEAL_BYTES } else { plain }
    }

    /// The stored form of `plain`.
    pub(crate) fn seal<'p>(
        &self,
        scope: Scope<'_>,
        bound: &[u8],
        plain: &'p [u8],
    ) -> Result<Cow<'p, [u8]>, RepoError> {
        let Self::Sealed(key) = self else { return Ok(plain.into()) };
        let mut sealed = vec![0; plain.len() + SEAL_BYTES];
        sealed[NONCE_BYTES..][..plain.len()].copy_from_slice(plain);
        key.seal(scope, bound, &mut sealed)?;
        Ok(sealed.into())
    }

    /// The plain bytes of a stored form.
    pub(crate) fn open(
        &self,
        scope: Scope<'_>,
        bound: &[u8],
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, Broken> {
        match self {
            Self::Open => Ok(stored),
            Self::Sealed(key) => key.open(scope, bound, stored),
        }
    }

    /// What the folder of a VM's points is called: its id or, sealed, what only the data key can tell from it.
    pub(crate) fn folder(&self, vm: &VmId) -> Result<VmId, RepoError> {
        match self {
            Self::Open => Ok(vm.clone()),
            Self::Sealed(key) => key.folder(vm),
        }
    }
}
