use std::fmt;
use std::marker::PhantomData;

use rocksdb::{Direction, IteratorMode, PrefixRange, ReadOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Database, KEY_MAX, SCAN_MAX, StateError, VALUE_MAX};

/// A key and its value.
pub type Entry<V> = (Vec<u8>, V);

/// Keys to raw bytes. A cheap handle.
#[derive(Clone)]
pub struct BytesKeyspace {
    db: Database,
    name: &'static str,
}

/// Keys to values `V`, stored as JSON. A cheap handle.
pub struct Keyspace<V> {
    raw: BytesKeyspace,
    values: PhantomData<fn() -> V>,
}

impl BytesKeyspace {
    pub(crate) fn new(db: Database, name: &'static str) -> Self {
        Self { db, name }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn db(&self) -> &Database {
        &self.db
    }

    /// The value at `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        check_key(key)?;
        Ok(self.db.rocks().get_cf(&self.db.family(self.name)?, key)?)
    }

    /// Sets `key` to `value`; durable when it returns.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let mut batch = self.db.batch();
        batch.put_bytes(self, key, value)?;
        batch.commit()
    }

    /// Removes `key`, which need not exist; durable when it returns.
    pub fn delete(&self, key: &[u8]) -> Result<(), StateError> {
        let mut batch = self.db.batch();
        batch.delete_bytes(self, key)?;
        batch.commit()
    }

    /// All keys that start with `prefix` and their values, in key order. At most [`SCAN_MAX`]
    /// bytes, else `Refused`.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<Entry<Vec<u8>>>, StateError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        self.visit(prefix, |key, value| {
            bytes += key.len() + value.len();
            check_scan(self.name, bytes)?;
            found.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `each` with every key that starts with `prefix` and its value, in key order, as they
    /// were when the call began. The first error ends it and is returned.
    pub fn visit(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(PrefixRange(prefix));
        let from = IteratorMode::From(prefix, Direction::Forward);
        let family = self.db.family(self.name)?;
        for entry in self.db.rocks().iterator_cf_opt(&family, options, from) {
            let (key, value) = entry?;
            each(&key, &value)?;
        }
        Ok(())
    }
}

impl<V: Serialize + DeserializeOwned> Keyspace<V> {
    pub(crate) fn new(raw: BytesKeyspace) -> Self {
        Self { raw, values: PhantomData }
    }

    /// The value at `key`; `Corrupt` if what is stored is no `V`.
    pub fn get(&self, key: &[u8]) -> Result<Option<V>, StateError> {
        self.raw.get(key)?.map(|json| self.decode(key, &json)).transpose()
    }

    /// Sets `key` to `value`; durable when it returns.
    pub fn put(&self, key: &[u8], value: &V) -> Result<(), StateError> {
        self.raw.put(key, &self.encode(value)?)
    }

    /// Removes `key`, which need not exist; durable when it returns.
    pub fn delete(&self, key: &[u8]) -> Result<(), StateError> {
        self.raw.delete(key)
    }

    /// All keys that start with `prefix` and their values, in key order. At most [`SCAN_MAX`]
    /// stored bytes, else `Refused`.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<Entry<V>>, StateError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        self.raw.visit(prefix, |key, json| {
            bytes += key.len() + json.len();
            check_scan(self.raw.name, bytes)?;
            found.push((key.to_vec(), self.decode(key, json)?));
            Ok(())
        })?;
        Ok(found)
    }

    pub(crate) fn raw(&self) -> &BytesKeyspace {
        &self.raw
    }

    pub(crate) fn encode(&self, value: &V) -> Result<Vec<u8>, StateError> {
        let refused = |e| StateError::Refused(format!("value for {}: {e}", self.raw.name));
        serde_json::to_vec(value).map_err(refused)
    }

    fn decode(&self, key: &[u8], json: &[u8]) -> Result<V, StateError> {
        serde_json::from_slice(json).map_err(|e| {
            StateError::Corrupt(format!("{} at {}: {e}", self.raw.name, key.escape_ascii()))
        })
    }
}

impl<V> Clone for Keyspace<V> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), values: PhantomData }
    }
}

impl<V> fmt::Debug for Keyspace<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl fmt::Debug for BytesKeyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyspace").field(&self.name).finish()
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), StateError> {
    if key.is_empty() || key.len() > KEY_MAX {
        let text = format!("a key of {} bytes, not 1 to {KEY_MAX}", key.len());
        return Err(StateError::Refused(text));
    }
    Ok(())
}

pub(crate) fn check_value(value: &[u8]) -> Result<(), StateError> {
    if value.len() > VALUE_MAX {
        let text = format!("a value of {} bytes, more than {VALUE_MAX}", value.len());
        return Err(StateError::Refused(text));
    }
    Ok(())
}

fn check_scan(name: &str, bytes: usize) -> Result<(), StateError> {
    if bytes > SCAN_MAX {
        let text = format!("a scan of {name} over more than {SCAN_MAX} bytes");
        return Err(StateError::Refused(text));
    }
    Ok(())
}
