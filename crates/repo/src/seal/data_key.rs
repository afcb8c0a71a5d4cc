use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Broken, NONCE_BYTES, SEAL_BYTES, Scope, TAG_BYTES};
use crate::id::random;
use crate::{RepoError, VmId};

pub(super) const KEY_BYTES: usize = 32;

/// What all keys of a repository follow from. In memory only; stored, it is wrapped by each passkey.
pub(crate) struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

/// Bytes that a derived secret has.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

impl DataKey {
    pub(crate) fn random() -> Result<Self, RepoError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    pub(super) fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What `repository.json` knows this key by. It tells nothing about the key.
    pub(crate) fn commitment(&self) -> Result<[u8; 32], RepoError> {
        self.derive(b"commitment", b"")
    }

    pub(crate) fn is_committed_to(&self, commitment: &[u8; 32]) -> bool {
        self.commitment().is_ok_and(|own| own.ct_eq(commitment).into())
    }

    pub(super) fn folder(&self, vm: &VmId) -> Result<VmId, RepoError> {
        let name: [u8; 16] = self.derive(b"folder", vm.as_str().as_bytes())?;
        hex::encode(name)
            .parse()
            .map_err(|e: crate::ParseIdError| RepoError::refused(e.to_string()))
    }

    /// Seals what lies between the room for the nonce and that for the tag.
    pub(crate) fn seal(
        &self,
        scope: Scope<'_>,
        bound: &[u8],
        room: &mut [u8],
    ) -> Result<(), RepoError> {
        let nonce = random::<NONCE_BYTES>()?;
        let key = self.key(scope).ok_or_else(impossible)?;
        seal_under(&key, nonce, bound, room).ok_or_else(impossible)
    }

    pub(super) fn open(
        &self,
        scope: Scope<'_>,
        bound: &[u8],
        sealed: Vec<u8>,
    ) -> Result<Vec<u8>, Broken> {
        let key = self.key(scope).ok_or(Broken)?;
        open_under(&key, bound, sealed).ok_or(Broken)
    }

    fn key(&self, scope: Scope<'_>) -> Option<LessSafeKey> {
        let pack;
        let (what, name): (&[u8], &[u8]) = match scope {
            Scope::Block(hash) => (b"block", hash.as_bytes()),
            Scope::Map(map) => (b"map", map.as_str().as_bytes()),
            Scope::Index(id) => {
                pack = id.0.to_le_bytes();
                (b"index", &pack)
            }
            Scope::Object(name) => (b"object", name.as_bytes()),
        };
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.0[..]);
        let info = [PREFIX, what, b"\0", name];
        let key = prk.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }

    fn derive<const N: usize>(&self, what: &[u8], name: &[u8]) -> Result<[u8; N], RepoError> {
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.0[..]);
        let mut secret = [0; N];
        let info = [PREFIX, what, b"\0", name];
        let filled = prk.expand(&info, Bytes(N)).and_then(|okm| okm.fill(&mut secret));
        filled.map(|()| secret).map_err(|_| impossible())
    }
}

/// What every info begins with. What follows has no NUL in it up to the one that ends it.
const PREFIX: &[u8] = b"rekindle repository v1\0";

/// Lengths are bounded far below what the cipher can take, so this does not happen.
fn impossible() -> RepoError {
    RepoError::refused("the cipher refuses what is to be sealed")
}

/// Seals the middle of `room` and puts `nonce` before and the tag behind it.
pub(super) fn seal_under(
    key: &LessSafeKey,
    nonce: [u8; NONCE_BYTES],
    bound: &[u8],
    room: &mut [u8],
) -> Option<()> {
    let (head, rest) = room.split_first_chunk_mut::<NONCE_BYTES>()?;
    let (plain, tail) = rest.split_last_chunk_mut::<TAG_BYTES>()?;
    *head = nonce;
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(bound), plain).ok()?;
    tail.copy_from_slice(tag.as_ref());
    Some(())
}

pub(super) fn open_under(key: &LessSafeKey, bound: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let plain_len = sealed.len().checked_sub(SEAL_BYTES)?;
    let nonce = Nonce::assume_unique_for_key(*sealed.first_chunk()?);
    key.open_within(nonce, Aad::from(bound), &mut sealed, NONCE_BYTES..).ok()?;
    sealed.truncate(plain_len);
    Some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;
    use crate::seal::Seal;
    use rekindle_block::BlockHash;

    fn sealed_by(key: u8) -> Seal {
        Seal::Sealed(DataKey::from_bytes([key; 32]).into())
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_only() {
        let (seal, other) = (sealed_by(1), sealed_by(2));
        let (a, b) = (BlockHash::of(b"a"), BlockHash::of(b"b"));
        let map = "00".parse().unwrap();
        let scopes = [
            Scope::Block(&a),
            Scope::Block(&b),
            Scope::Map(&map),
            Scope::Index(PackId(1)),
            Scope::Index(PackId(2)),
            Scope::Object("points/a/b.json"),
        ];
        let plain = b"sixteen bytes and".to_vec();
        for (number, scope) in scopes.iter().enumerate() {
            let stored = seal.seal(*scope, b"here", &plain).unwrap().into_owned();
            assert_eq!(stored.len(), seal.stored_len(plain.len()));
            assert!(!stored.windows(8).any(|part| plain.windows(8).any(|p| p == part)));
            assert_eq!(seal.open(*scope, b"here", stored.clone()).unwrap(), plain);
            assert!(seal.open(*scope, b"there", stored.clone()).is_err());
            assert!(other.open(*scope, b"here", stored.clone()).is_err());
            for (wrong, scope) in scopes.iter().enumerate() {
                assert_eq!(seal.open(*scope, b"here", stored.clone()).is_ok(), wrong == number);
            }
            for bit in 0..stored.len() * 8 {
                let mut bad = stored.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(seal.open(*scope, b"here", bad).is_err(), "bit {bit}");
            }
            for cut in 0..stored.len() {
                assert!(seal.open(*scope, b"here", stored[..cut].to_vec()).is_err());
            }
            let again = seal.seal(*scope, b"here", &plain).unwrap();
            assert_ne!(stored[..NONCE_BYTES], again[..NONCE_BYTES], "a nonce is used twice");
        }
    }

    #[test]
    fn folders_tell_vms_apart_and_not_what_they_are_called() {
        let (seal, other) = (sealed_by(1), sealed_by(2));
        let vm = |name: &str| name.parse::<VmId>().unwrap();
        let folder = seal.folder(&vm("web")).unwrap();
        assert_eq!(folder, seal.folder(&vm("web")).unwrap());
        assert_ne!(folder, seal.folder(&vm("db")).unwrap());
        assert_ne!(folder, other.folder(&vm("web")).unwrap());
        assert_eq!((folder.as_str().len(), folder.as_str().contains("web")), (32, false));
        assert_eq!(Seal::Open.folder(&vm("web")).unwrap(), vm("web"));
    }
}
