use rocksdb::WriteBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keyspace::{check_key, check_value};
use crate::{BATCH_MAX, BytesKeyspace, Database, Keyspace, StateError};

/// Changes that take effect together. Dropped without [`Batch::commit`] it changes nothing.
#[must_use = "a batch changes nothing until it is committed"]
pub struct Batch {
    db: Database,
    changes: WriteBatch,
}

impl Batch {
    pub(crate) fn new(db: Database) -> Self {
        Self { db, changes: WriteBatch::default() }
    }

    /// Sets `key` of `keyspace` to `value`.
    pub fn put<V>(
        &mut self,
        keyspace: &Keyspace<V>,
        key: &[u8],
        value: &V,
    ) -> Result<(), StateError>
    where
        V: Serialize + DeserializeOwned,
    {
        self.put_bytes(keyspace.raw(), key, &keyspace.encode(value)?)
    }

    /// Sets `key` of `keyspace` to `value`.
    pub fn put_bytes(
        &mut self,
        keyspace: &BytesKeyspace,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StateError> {
        check_value(value)?;
        self.check(keyspace, key, value.len())?;
        self.changes.put_cf(&self.db.family(keyspace.name())?, key, value);
        Ok(())
    }

    /// Removes `key` of `keyspace`, which need not exist.
    pub fn delete<V>(&mut self, keyspace: &Keyspace<V>, key: &[u8]) -> Result<(), StateError>
    where
        V: Serialize + DeserializeOwned,
    {
        self.delete_bytes(keyspace.raw(), key)
    }

    /// Removes `key` of `keyspace`, which need not exist.
    pub fn delete_bytes(&mut self, keyspace: &BytesKeyspace, key: &[u8]) -> Result<(), StateError> {
        self.check(keyspace, key, 0)?;
        self.changes.delete_cf(&self.db.family(keyspace.name())?, key);
        Ok(())
    }

    /// Removes every key of `keyspace` that starts with `prefix`, which may not be empty.
    pub fn delete_prefix(
        &mut self,
        keyspace: &BytesKeyspace,
        prefix: &[u8],
    ) -> Result<(), StateError> {
        self.check(keyspace, prefix, 0)?;
        let Some(end) = after_prefix(prefix) else {
            return Err(StateError::Refused("a prefix of 0xff bytes only".into()));
        };
        let family = self.db.family(keyspace.name())?;
        self.changes.delete_range_cf(&family, prefix, end.as_slice());
        Ok(())
    }

    /// Whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Makes all changes, or none; durable when it returns `Ok`.
    pub fn commit(self) -> Result<(), StateError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        self.db.write(self.changes)
    }

    fn check(&self, keyspace: &BytesKeyspace, key: &[u8], more: usize) -> Result<(), StateError> {
        check_key(key)?;
        if !self.db.is(keyspace.db()) {
            return Err(StateError::Refused("a keyspace of another database".into()));
        }
        if self.changes.size_in_bytes() + key.len() + more > BATCH_MAX {
            return Err(StateError::Refused(format!("a batch of more than {BATCH_MAX} bytes")));
        }
        Ok(())
    }
}

/// The first key after all that start with `prefix`, if there is one.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
