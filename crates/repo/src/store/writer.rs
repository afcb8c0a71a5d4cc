use std::time::Duration;

use super::Store;
use super::local_writer::{LocalObject, LocalWriter};
use super::s3::{S3Object, S3Writer};
use crate::RepoError;
use crate::map::build::MapSink;

/// What was begun and not finished for so long belongs to a writer that died.
const ABANDONED_AFTER: Duration = Duration::from_secs(3 * 86_400);

/// The right to write to a repository.
pub(crate) enum Writer {
    Local(LocalWriter),
    S3(S3Writer),
}

impl Writer {
    /// Takes what it needs to write, and takes away what writers before it left unfinished.
    pub(crate) fn begin(store: &Store) -> Result<Self, RepoError> {
        Self::begin_after(store, None)
    }

    /// The same where a writer is known to need less than `abandoned`, or may need more, than three days.
    pub(crate) fn begin_after(
        store: &Store,
        abandoned: Option<Duration>,
    ) -> Result<Self, RepoError> {
        if store.is_read_only() {
            return Err(RepoError::refused("it is read where it lies, and never written to"));
        }
        Ok(match store {
            Store::Local(dir) => Self::Local(LocalWriter::lock(dir.root())?),
            Store::S3(bucket) => {
                Self::S3(S3Writer::begin(bucket, abandoned.unwrap_or(ABANDONED_AFTER))?)
            }
        })
    }

    /// For objects that are written beside whoever has the right to write the others.
    pub(crate) fn beside_others(store: &Store) -> Self {
        match store {
            Store::Local(dir) => Self::Local(LocalWriter::beside_others(dir.root())),
            Store::S3(bucket) => Self::S3(S3Writer::beside_others(bucket)),
        }
    }

    /// A new object, which nobody sees before it is published and which is gone when it is dropped before.
    pub(crate) fn create(&self, object: String) -> Result<NewObject, RepoError> {
        Ok(match self {
            Self::Local(writer) => NewObject::Local(writer.create(object)?),
            Self::S3(writer) => NewObject::S3(writer.create(object)),
        })
    }

    /// Writes a small object whole.
    pub(crate) fn put(&self, object: &str, bytes: &[u8]) -> Result<(), RepoError> {
        let mut new = self.create(object.to_owned())?;
        new.append(bytes)?;
        new.publish()
    }

    /// Takes back an object that nothing refers to yet.
    pub(crate) fn remove(&self, object: &str) -> Result<(), RepoError> {
        match self {
            Self::Local(writer) => writer.remove(object),
            Self::S3(writer) => writer.remove(object),
        }
    }

    /// Deletes objects, of which some may be gone already, durably.
    pub(crate) fn remove_all(&self, objects: &[String]) -> Result<(), RepoError> {
        match self {
            Self::Local(writer) => writer.remove_all(objects),
            Self::S3(writer) => objects.iter().try_for_each(|object| writer.remove(object)),
        }
    }
}

/// An object that is being written; it has no name yet.
pub(crate) enum NewObject {
    Local(LocalObject),
    S3(S3Object),
}

impl NewObject {
    /// Makes it durable and gives it its name, which must be new.
    pub(crate) fn publish(self) -> Result<(), RepoError> {
        match self {
            Self::Local(object) => object.publish(),
            Self::S3(object) => object.publish(),
        }
    }
}

impl MapSink for NewObject {
    fn append(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        match self {
            Self::Local(object) => object.append(bytes),
            Self::S3(object) => object.append(bytes),
        }
    }
}
