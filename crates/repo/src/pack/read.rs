use rekindle_block::{BlockHash, BlockSize};

use super::{HEAD_BYTES, HEAD_MAGIC, INDEX_ENTRY_BYTES, MAX_INDEX_ENTRIES, TAIL_BYTES, TAIL_MAGIC};
use crate::RepoError;
use crate::codec::Codec;
use crate::id::PackId;
use crate::map::{BlockRef, hash_at, u32_at, u64_at};
use crate::store::{LocalDir, pack_object};

/// The blocks of a pack as its own index names them, in the order they lie in.
pub(crate) fn read_index(dir: &LocalDir, id: PackId) -> Result<Vec<BlockRef>, RepoError> {
    let object = pack_object(id);
    let corrupt = |detail: &str| RepoError::corrupt(&object, detail);
    let len = dir.len(&object)?;
    let tail_at = len.checked_sub(TAIL_BYTES as u64).ok_or_else(|| corrupt("it is too short"))?;
    let tail = dir.read_range(&object, tail_at..len)?;
    let count = u64_at(&tail, 16);
    if tail[..8] != *TAIL_MAGIC || u64_at(&tail, 8) != id.0 || count > MAX_INDEX_ENTRIES {
        return Err(corrupt("its end is none of this pack's"));
    }
    let index_bytes = count * INDEX_ENTRY_BYTES as u64;
    let index_at = tail_at.checked_sub(index_bytes).filter(|at| *at >= HEAD_BYTES as u64);
    let index_at = index_at.ok_or_else(|| corrupt("its index is longer than it"))?;
    let index = dir.read_range(&object, index_at..tail_at)?;
    if BlockHash::of(&index) != hash_at(&tail, 32) {
        return Err(corrupt("its index does not match its checksum"));
    }
    let head = dir.read_range(&object, 0..HEAD_BYTES as u64)?;
    if head[..8] != *HEAD_MAGIC || u64_at(&head, 8) != id.0 {
        return Err(corrupt("its start is none of this pack's"));
    }
    let entries =
        index.chunks_exact(INDEX_ENTRY_BYTES).map(|entry| decode_index(id, entry, index_at));
    entries.collect::<Option<_>>().ok_or_else(|| corrupt("an index entry that cannot be"))
}

fn decode_index(pack: PackId, entry: &[u8], index_at: u64) -> Option<BlockRef> {
    let word = u32_at(entry, 36);
    let block = BlockRef {
        hash: hash_at(entry, 0),
        pack,
        offset: u32_at(entry, 32),
        stored_len: word & 0xff_ffff,
        plain_len: u32_at(entry, 40),
        codec: Codec::from_number((word >> 24) as u8)?,
    };
    let end = u64::from(block.offset) + u64::from(block.stored_len);
    let fits = end <= index_at && u64::from(block.plain_len) <= BlockSize::MAX.bytes();
    (fits && block.codec.allows(block.stored_len, block.plain_len)).then_some(block)
}
