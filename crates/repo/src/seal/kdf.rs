use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Passkey;
use super::data_key::KEY_BYTES;
use crate::RepoError;
use crate::id::random;

/// How a key is made of a passkey: Argon2id, version 0x13 (RFC 9106).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kdf {
    name: KdfName,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// 16 bytes in hexadecimal.
    salt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum KdfName {
    #[serde(rename = "argon2id")]
    Argon2id,
}

/// The second recommended choice of RFC 9106: a guess takes 64 MiB and about a tenth of a second.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;

impl Kdf {
    /// As this build makes keys, with a new salt.
    pub(super) fn new() -> Result<Self, RepoError> {
        let salt = hex::encode(random::<16>()?);
        let name = KdfName::Argon2id;
        Ok(Self { name, memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt })
    }

    /// Whether it costs what this build wants a guess to cost.
    pub(super) fn is_current(&self) -> bool {
        (self.memory_kib, self.passes, self.lanes) == (MEMORY_KIB, PASSES, LANES)
    }

    /// Checks what was read before it costs memory or time: at most 256 MiB and 16 passes in all, which is 16 times
    /// what this build asks for. Below 8 MiB, a guess would cost too little.
    pub(super) fn validate(&self) -> Result<(), String> {
        let bounded = (8 << 10..=256 << 10).contains(&self.memory_kib)
            && (1..=16).contains(&self.passes)
            && (1..=16).contains(&self.lanes);
        match bounded && self.salt_bytes().is_some() {
            true => Ok(()),
            false => Err("its key derivation is outside of its bounds".into()),
        }
    }

    /// The key that wraps the data key.
    pub(super) fn derive(&self, passkey: &Passkey) -> Result<LessSafeKey, RepoError> {
        let refused = |detail: &str| RepoError::refused(format!("derive a key: {detail}"));
        let salt = self.salt_bytes().ok_or_else(|| refused("no salt"))?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES));
        let params = params.map_err(|e| refused(&e.to_string()))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passkey.as_bytes(), &salt, &mut key[..])
            .map_err(|e| refused(&e.to_string()))?;
        let key = UnboundKey::new(&AES_256_GCM, &key[..]).map_err(|_| refused("no key"))?;
        Ok(LessSafeKey::new(key))
    }

    fn salt_bytes(&self) -> Option<[u8; 16]> {
        let mut salt = [0; 16];
        hex::decode_to_slice(&self.salt, &mut salt).ok().map(|()| salt)
    }
}
