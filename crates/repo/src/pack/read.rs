use rekindle_block::{BlockHash, BlockSize};

use super::{HEAD_BYTES, HEAD_MAGIC, INDEX_ENTRY_BYTES, MAX_INDEX_ENTRIES, TAIL_BYTES, TAIL_MAGIC};
use crate::RepoError;
use crate::codec::Codec;
use crate::id::PackId;
use crate::map::{BlockRef, hash_at, u32_at, u64_at};
use crate::seal::{Scope, Seal};
use crate::store::{Store, pack_object};

/// What is read of a pack at once: the index of 1,300 blocks, so that one read is enough for most.
const END_BYTES: u64 = 64 << 10;

/// The blocks of a pack as its own index names them, in the order they lie in.
pub(crate) fn read_index(
    store: &Store,
    seal: &Seal,
    id: PackId,
) -> Result<Vec<BlockRef>, RepoError> {
    let object = pack_object(id);
    let corrupt = |detail: &str| RepoError::corrupt(&object, detail);
    let (end, len) = store.read_end_blocking(&object, END_BYTES)?;
    let tail_at = end.len().checked_sub(TAIL_BYTES).ok_or_else(|| corrupt("it is too short"))?;
    let (before, tail) = end.split_at(tail_at);
    let count = u64_at(tail, 16);
    if tail[..8] != *TAIL_MAGIC || u64_at(tail, 8) != id.0 || count > MAX_INDEX_ENTRIES {
        return Err(corrupt("its end is none of this pack's"));
    }
    let index_bytes = seal.stored_len(count as usize * INDEX_ENTRY_BYTES);
    let index_end = len - TAIL_BYTES as u64;
    let index_at = index_end.checked_sub(index_bytes as u64).filter(|at| *at >= HEAD_BYTES as u64);
    let index_at = index_at.ok_or_else(|| corrupt("its index is longer than it"))?;
    let (expected, name) = (hash_at(tail, 32), object.clone());
    let check = move |index: Vec<u8>| match BlockHash::of(&index) == expected {
        true => Ok(index),
        false => Err(RepoError::corrupt(&name, "its index does not match its checksum")),
    };
    let index = match before.len().checked_sub(index_bytes) {
        Some(at) => check(before[at..].to_vec())?,
        None => store.read_range_blocking(&object, index_at..index_end, check)?,
    };
    let index = seal.open(Scope::Index(id), &count.to_le_bytes(), index);
    let index = index.map_err(|_| corrupt("its index is not what was sealed"))?;
    let entries =
        index.chunks_exact(INDEX_ENTRY_BYTES).map(|entry| decode_index(id, entry, index_at));
    entries.collect::<Option<_>>().ok_or_else(|| corrupt("an index entry that cannot be"))
}

/// Whether a pack begins as it must. Nothing else reads its first bytes.
pub(crate) fn check_head(store: &Store, id: PackId) -> Result<(), RepoError> {
    let object = pack_object(id);
    let name = object.clone();
    store.read_range_blocking(&object, 0..HEAD_BYTES as u64, move |head| {
        match head[..8] == *HEAD_MAGIC && u64_at(&head, 8) == id.0 {
            true => Ok(()),
            false => Err(RepoError::corrupt(&name, "its start is none of this pack's")),
        }
    })
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
