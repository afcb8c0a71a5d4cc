use jiff::Timestamp;
use ring::aead::LessSafeKey;
use serde::{Deserialize, Serialize};

use super::data_key::{KEY_BYTES, open_under, seal_under};
use super::kdf::Kdf;
use super::{DataKey, Passkey, SEAL_BYTES};
use crate::RepoError;
use crate::id::random;

/// Passkeys a repository may have. Those that were made by one build share a derivation, so that trying a wrong
/// one costs one derivation and not this many.
pub(crate) const MAX_PASSKEYS: usize = 16;
/// The largest object in `keys/`.
pub(crate) const MAX_KEY_BYTES: u64 = 4 << 10;
const MAX_LABEL_BYTES: usize = 64;
const VERSION: u32 = 1;

/// A passkey of a repository, as far as it can be told without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PasskeyInfo {
    /// What it is removed by: 16 hexadecimal digits.
    pub id: String,
    /// What its maker called it. Not sealed.
    pub label: String,
    /// When it was added.
    pub created_at: Timestamp,
}

/// What a repository's keys belong to: the parts of `repository.json` that cannot be changed without their
/// breaking.
#[derive(Clone, Copy)]
pub(crate) struct Home<'a> {
    pub(crate) repository: &'a str,
    pub(crate) block_bytes: u64,
    /// [`DataKey::commitment`].
    pub(crate) commitment: &'a [u8; 32],
}

/// An object in `keys/`: the data key, wrapped by one passkey.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrappedKey {
    version: u32,
    id: String,
    label: String,
    created_at: Timestamp,
    kdf: Kdf,
    /// `nonce 12 | data key 32, sealed | tag 16` in hexadecimal.
    wrapped: String,
}

impl WrappedKey {
    /// Wraps `key` for `passkey`. Shares the derivation of one of `others` that costs as much.
    pub(crate) fn new(
        home: Home<'_>,
        key: &DataKey,
        passkey: &Passkey,
        label: &str,
        others: &[Self],
    ) -> Result<Self, RepoError> {
        if label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control) {
            return Err(RepoError::refused(format!(
                "a label is one line of at most {MAX_LABEL_BYTES} bytes"
            )));
        }
        let shared = others.iter().map(|other| &other.kdf).find(|kdf| kdf.is_current());
        let kdf = shared.cloned().map_or_else(Kdf::new, Ok)?;
        let mut wrapped = Self {
            version: VERSION,
            id: hex::encode(random::<8>()?),
            label: label.to_owned(),
            created_at: Timestamp::now(),
            kdf,
            wrapped: String::new(),
        };
        let mut room = [0; KEY_BYTES + SEAL_BYTES];
        room[12..][..KEY_BYTES].copy_from_slice(key.as_bytes());
        let kek = wrapped.kdf.derive(passkey)?;
        seal_under(&kek, random()?, &wrapped.bound(home), &mut room)
            .ok_or_else(|| RepoError::refused("the cipher refuses the data key"))?;
        wrapped.wrapped = hex::encode(room);
        Ok(wrapped)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, RepoError> {
        serde_json::to_vec_pretty(self)
            .map_err(|e| RepoError::refused(format!("cannot encode a passkey: {e}")))
    }

    /// Reads the object `what`. Untrusted: everything is bounded before it costs anything.
    pub(crate) fn decode(what: &str, bytes: &[u8]) -> Result<Self, RepoError> {
        let corrupt = |detail: String| RepoError::corrupt(what, detail);
        let key: Self = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
        if key.version != VERSION {
            return Err(RepoError::refused(format!(
                "{what} has format version {}; this build reads version {VERSION}",
                key.version
            )));
        }
        key.kdf.validate().map_err(corrupt)?;
        let long = key.label.len() > MAX_LABEL_BYTES;
        if long || !is_key_id(&key.id) || !what.ends_with(&format!("/{}.json", key.id)) {
            return Err(corrupt("it is not what its name says".into()));
        }
        Ok(key)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn info(&self) -> PasskeyInfo {
        let Self { id, label, created_at, .. } = self.clone();
        PasskeyInfo { id, label, created_at }
    }

    fn unwrap(&self, home: Home<'_>, kek: &LessSafeKey) -> Option<DataKey> {
        let wrapped = hex::decode(&self.wrapped).ok()?;
        let plain = open_under(kek, &self.bound(home), wrapped)?;
        let key = DataKey::from_bytes(plain.try_into().ok()?);
        key.is_committed_to(home.commitment).then_some(key)
    }

    /// A key taken to another repository, another block size or under another label does not open.
    fn bound(&self, home: Home<'_>) -> Vec<u8> {
        let Self { id, label, created_at, .. } = self;
        let Home { repository, block_bytes, .. } = home;
        format!("rekindle passkey v1\0{repository}\0{block_bytes}\0{id}\0{label}\0{created_at}")
            .into()
    }
}

/// Which of `keys` a passkey opens, and what is in it. Takes a tenth of a second for each derivation among them.
pub(crate) fn unlock(
    home: Home<'_>,
    keys: &[WrappedKey],
    passkey: &Passkey,
) -> Result<(String, DataKey), RepoError> {
    let mut derived: Vec<(&Kdf, LessSafeKey)> = Vec::new();
    for key in keys.iter().take(MAX_PASSKEYS) {
        let at = match derived.iter().position(|(kdf, _)| **kdf == key.kdf) {
            Some(at) => at,
            None => {
                derived.push((&key.kdf, key.kdf.derive(passkey)?));
                derived.len() - 1
            }
        };
        if let Some(data) = key.unwrap(home, &derived[at].1) {
            return Ok((key.id.clone(), data));
        }
    }
    Err(RepoError::Locked { reason: "the passkey opens nothing in this repository".into() })
}

pub(crate) fn is_key_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key_object;
    use proptest::prelude::*;

    const REPOSITORY: &str = "00112233445566778899aabbccddeeff";

    fn passkey(text: &str) -> Passkey {
        Passkey::new(text).unwrap()
    }

    #[test]
    fn each_passkey_opens_the_same_key_and_no_other_does() {
        let data = DataKey::random().unwrap();
        let commitment = data.commitment().unwrap();
        let home = Home { repository: REPOSITORY, block_bytes: 65_536, commitment: &commitment };
        let mut keys = Vec::new();
        for text in ["first passkey", "second passkey"] {
            let key = WrappedKey::new(home, &data, &passkey(text), text, &keys).unwrap();
            keys.push(key);
        }
        assert_eq!(keys[0].kdf, keys[1].kdf, "one derivation for both");
        assert_ne!(keys[0].wrapped, keys[1].wrapped);
        for (number, text) in ["first passkey", "second passkey"].iter().enumerate() {
            let (id, key) = unlock(home, &keys, &passkey(text)).unwrap();
            assert_eq!((id.as_str(), key.as_bytes()), (keys[number].id(), data.as_bytes()));
        }
        let started = std::time::Instant::now();
        let wrong = unlock(home, &keys, &passkey("third passkey"));
        assert!(matches!(wrong, Err(RepoError::Locked { .. })));
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());

        let elsewhere = [
            Home { repository: "ff", ..home },
            Home { block_bytes: 4096, ..home },
            Home { commitment: &[0; 32], ..home },
        ];
        for home in elsewhere {
            assert!(unlock(home, &keys, &passkey("first passkey")).is_err());
        }
        let object = key_object(keys[0].id());
        let text = String::from_utf8(keys[0].encode().unwrap()).unwrap();
        assert_eq!(WrappedKey::decode(&object, text.as_bytes()).unwrap().info(), keys[0].info());
        let renamed = text.replace("\"first passkey\"", "\"other\"");
        let renamed = WrappedKey::decode(&object, renamed.as_bytes()).unwrap();
        assert!(unlock(home, &[renamed], &passkey("first passkey")).is_err());
        assert!(WrappedKey::decode("keys/0000000000000000.json", text.as_bytes()).is_err());
    }

    #[test]
    fn a_derivation_that_would_cost_too_much_or_too_little_is_refused_unread() {
        let data = DataKey::random().unwrap();
        let home = Home { repository: REPOSITORY, block_bytes: 65_536, commitment: &[0; 32] };
        let key = WrappedKey::new(home, &data, &passkey("first passkey"), "", &[]).unwrap();
        let (object, text) =
            (key_object(key.id()), String::from_utf8(key.encode().unwrap()).unwrap());
        for (from, to) in [
            ("\"memory_kib\": 65536", "\"memory_kib\": 4194304"),
            ("\"memory_kib\": 65536", "\"memory_kib\": 8"),
            ("\"passes\": 3", "\"passes\": 1000"),
            ("\"lanes\": 4", "\"lanes\": 0"),
            ("\"argon2id\"", "\"argon2d\""),
            ("\"version\": 1", "\"version\": 2"),
            ("\"salt\": \"", "\"salt\": \"00"),
        ] {
            let forged = text.replace(from, to);
            assert_ne!(forged, text, "{from}");
            assert!(WrappedKey::decode(&object, forged.as_bytes()).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(WrappedKey::decode("keys/0000000000000000.json", &bytes).is_err());
        }
    }
}
