use std::sync::Arc;

use super::Record;
use crate::seal::keyring::{MAX_KEY_BYTES, MAX_PASSKEYS, WrappedKey, unlock};
use crate::seal::{DataKey, Passkey, Seal};
use crate::store::{Store, Writer, key_object};
use crate::{PasskeyInfo, RepoError, Repository};

/// What is read of `keys/`, so that a folder stuffed with files costs neither time nor memory.
const MAX_LISTED: usize = 4 * MAX_PASSKEYS;

/// # Crash
///
/// A passkey is there when its object is, and gone when its object is: each is one step. A passkey is changed by
/// adding the new one and then removing the old one; a crash in between leaves both.
impl Repository {
    /// Whether its content cannot be read without a passkey.
    pub fn is_sealed(&self) -> bool {
        self.seal().is_sealed()
    }

    /// Its passkeys, as far as they can be told without them; none if it is not sealed. Blocks on file I/O.
    pub fn passkeys(&self) -> Result<Vec<PasskeyInfo>, RepoError> {
        Ok(read_keys(self.store())?.iter().map(WrappedKey::info).collect())
    }

    /// Succeeds if `passkey` is one of this repository's now. Blocks on file I/O, and takes a tenth of a second of
    /// one core and 64 MiB, whether it is or not.
    pub fn check_passkey(&self, passkey: &Passkey) -> Result<(), RepoError> {
        unlock_with(self.record(), self.store(), passkey).map(|_| ())
    }

    /// Adds a passkey. Nothing else is written again.
    pub fn add_passkey(&self, passkey: &Passkey, label: &str) -> Result<PasskeyInfo, RepoError> {
        let Seal::Sealed(key) = self.seal() else { return Err(not_sealed()) };
        let writer = Writer::begin(self.store())?;
        let keys = read_keys(self.store())?;
        if keys.len() >= MAX_PASSKEYS {
            return Err(RepoError::refused(format!("there are {MAX_PASSKEYS} passkeys already")));
        }
        write_key(&writer, self.record(), key, (passkey, label), &keys)
    }

    /// Removes the passkey of that id or label, which must not be the last one. Who knew it may have kept the data
    /// key: that never changes.
    pub fn remove_passkey(&self, which: &str) -> Result<PasskeyInfo, RepoError> {
        if !self.is_sealed() {
            return Err(not_sealed());
        }
        // Whoever else removes one waits, so that two do not remove the last two.
        let writer = Writer::begin(self.store())?;
        let keys = read_keys(self.store())?;
        let found: Vec<_> = keys
            .iter()
            .map(WrappedKey::info)
            .filter(|key| key.id == which || key.label == which)
            .collect();
        let [key] = &found[..] else {
            let what = format!("one passkey {which:?} (there are {} of that name)", found.len());
            return Err(RepoError::NotFound { what });
        };
        if keys.len() == 1 {
            return Err(RepoError::refused(
                "it is the last passkey: without it nobody could read anything",
            ));
        }
        writer.remove(&key_object(&key.id))?;
        Ok(key.clone())
    }
}

/// Wraps `key` for a passkey and writes the object.
pub(super) fn write_key(
    writer: &Writer,
    record: &Record,
    key: &DataKey,
    (passkey, label): (&Passkey, &str),
    others: &[WrappedKey],
) -> Result<PasskeyInfo, RepoError> {
    let home = record.home().ok_or_else(not_sealed)?;
    let wrapped = WrappedKey::new(home, key, passkey, label, others)?;
    writer.put(&key_object(wrapped.id()), &wrapped.encode()?)?;
    Ok(wrapped.info())
}

/// How a repository is read, if `passkey` is what it takes to read it.
pub(super) fn open_seal(
    record: &Record,
    store: &Store,
    passkey: Option<&Passkey>,
) -> Result<Seal, RepoError> {
    match (record.home(), passkey) {
        (None, None) => Ok(Seal::Open),
        // Somebody may have put an open repository where a sealed one was, to have it written to.
        (None, Some(_)) => Err(not_sealed()),
        (Some(_), None) => {
            Err(RepoError::Locked { reason: "the repository is sealed: it needs a passkey".into() })
        }
        (Some(_), Some(passkey)) => {
            Ok(Seal::Sealed(Arc::new(unlock_with(record, store, passkey)?)))
        }
    }
}

fn unlock_with(record: &Record, store: &Store, passkey: &Passkey) -> Result<DataKey, RepoError> {
    let home = record.home().ok_or_else(not_sealed)?;
    Ok(unlock(home, &read_keys(store)?, passkey)?.1)
}

/// All passkeys that can be read. One that cannot hides no other.
fn read_keys(store: &Store) -> Result<Vec<WrappedKey>, RepoError> {
    let mut keys = Vec::new();
    for object in store.list_blocking("keys/")?.iter().take(MAX_LISTED) {
        let name = object.clone();
        let decode = move |bytes: Vec<u8>| WrappedKey::decode(&name, &bytes);
        match store.read_all_blocking(object, MAX_KEY_BYTES, decode) {
            Ok(key) => keys.push(key),
            // Removed since it was listed.
            Err(RepoError::NotFound { .. }) => {}
            Err(error @ RepoError::Unavailable { .. }) => return Err(error),
            Err(error) => tracing::warn!(object, "a passkey cannot be used: {error}"),
        }
    }
    Ok(keys)
}

fn not_sealed() -> RepoError {
    RepoError::refused("the repository is not sealed: it has no passkeys")
}
