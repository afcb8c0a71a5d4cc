use std::borrow::Cow;

use rekindle_block::BlockHash;

use super::PageRef;
use crate::seal::{Scope, Seal};
use crate::store::map_object;
use crate::{MapId, RepoError};

/// How the pages of one map are stored.
#[derive(Clone)]
pub(crate) struct MapSeal {
    seal: Seal,
    map: MapId,
}

impl MapSeal {
    pub(crate) fn new(seal: Seal, map: MapId) -> Self {
        Self { seal, map }
    }

    /// Bytes that a page of `plain` bytes takes in the map.
    pub(super) fn stored_len(&self, plain: usize) -> usize {
        self.seal.stored_len(plain)
    }

    /// The stored form of the page, or the root, that will lie at `offset`.
    pub(super) fn seal<'p>(&self, offset: u64, page: &'p [u8]) -> Result<Cow<'p, [u8]>, RepoError> {
        self.seal.seal(Scope::Map(&self.map), &offset.to_le_bytes(), page)
    }

    /// What lies at `offset`, if it is what `hash` says.
    pub(super) fn open(
        &self,
        offset: u64,
        hash: &BlockHash,
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, RepoError> {
        let corrupt = |detail| RepoError::corrupt(map_object(&self.map), detail);
        let page = self.seal.open(Scope::Map(&self.map), &offset.to_le_bytes(), stored);
        let page =
            page.map_err(|_| corrupt(format!("the page at {offset} is not what was sealed")))?;
        match BlockHash::of(&page) == *hash {
            true => Ok(page),
            false => Err(corrupt(format!("the page at {offset} does not match its checksum"))),
        }
    }

    /// The same for a page that is yet to be read.
    pub(super) fn check(
        &self,
        page: &PageRef,
    ) -> impl Fn(Vec<u8>) -> Result<Vec<u8>, RepoError> + Send + Sync + use<> {
        let (seal, page) = (self.clone(), *page);
        move |stored| seal.open(page.offset, &page.hash, stored)
    }

    /// Where a page lies, in bytes of the map.
    pub(super) fn range(&self, page: &PageRef) -> std::ops::Range<u64> {
        page.offset..page.offset.saturating_add(self.stored_len(page.len as usize) as u64)
    }
}
