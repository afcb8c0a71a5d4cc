use rekindle_block::BlockHash;

use super::{HEAD_BYTES, HEAD_MAGIC, INDEX_ENTRY_BYTES, PACK_BYTES, TAIL_MAGIC};
use crate::RepoError;
use crate::codec::Codec;
use crate::id::PackId;
use crate::map::BlockRef;
use crate::map::build::MapSink;
use crate::seal::{Scope, Seal};
use crate::store::{NewObject, Writer, pack_object};

/// A pack that is being filled.
pub(crate) struct OpenPack {
    id: PackId,
    object: NewObject,
    offset: u64,
    index: Vec<u8>,
}

impl OpenPack {
    pub(crate) fn create(writer: &Writer) -> Result<Self, RepoError> {
        let id = PackId::random()?;
        let mut object = writer.create(pack_object(id))?;
        object.append(HEAD_MAGIC)?;
        object.append(&id.0.to_le_bytes())?;
        Ok(Self { id, object, offset: HEAD_BYTES as u64, index: Vec::new() })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.offset >= PACK_BYTES
    }

    /// Names the place of the next block. Its bytes must be appended next, in the same order.
    pub(crate) fn place(
        &mut self,
        hash: BlockHash,
        codec: Codec,
        stored: u32,
        plain: u32,
    ) -> BlockRef {
        let block = BlockRef {
            hash,
            pack: self.id,
            offset: self.offset as u32,
            stored_len: stored,
            plain_len: plain,
            codec,
        };
        self.offset += u64::from(stored);
        self.index.extend(encode_index(&block));
        block
    }

    pub(crate) fn append(&mut self, stored: &[u8]) -> Result<(), RepoError> {
        self.object.append(stored)
    }

    /// Writes the index, syncs and publishes.
    pub(crate) fn publish(mut self, seal: &Seal) -> Result<PackId, RepoError> {
        let count = (self.index.len() / INDEX_ENTRY_BYTES) as u64;
        let index = seal.seal(Scope::Index(self.id), &count.to_le_bytes(), &self.index)?;
        let hash = BlockHash::of(&index);
        self.object.append(&index)?;
        let mut tail = Vec::with_capacity(64);
        tail.extend(TAIL_MAGIC);
        tail.extend(self.id.0.to_le_bytes());
        tail.extend(count.to_le_bytes());
        tail.extend([0; 8]);
        tail.extend(hash.as_bytes());
        self.object.append(&tail)?;
        self.object.publish()?;
        Ok(self.id)
    }
}

fn encode_index(block: &BlockRef) -> [u8; INDEX_ENTRY_BYTES] {
    let mut entry = [0; INDEX_ENTRY_BYTES];
    entry[..32].copy_from_slice(block.hash.as_bytes());
    entry[32..36].copy_from_slice(&block.offset.to_le_bytes());
    let word = u32::from(block.codec.number()) << 24 | block.stored_len;
    entry[36..40].copy_from_slice(&word.to_le_bytes());
    entry[40..44].copy_from_slice(&block.plain_len.to_le_bytes());
    entry
}
