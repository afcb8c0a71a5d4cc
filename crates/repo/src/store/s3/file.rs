//! An object that somebody else put into the bucket, read a part at a time as a file.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rekindle_block::BlockHash;
use rekindle_image::{ImageError, RemoteFile, Revision};

use super::{ListedFile, S3Bucket};
use crate::RepoError;

/// What is fetched for a small read, and kept: tables of images are read a few entries at a time.
const CHUNK: u64 = 256 << 10;
/// Chunks that are kept for all files of a place: 32 MiB.
const CHUNKS_HELD: usize = 128;
/// A read from this size on is a request of its own, and keeps nothing.
const LARGE: usize = 128 << 10;
/// The most that one request asks for.
const REQUEST_MAX: u64 = 8 << 20;

/// A file of one revision: once another takes its place every read is an error.
#[derive(Debug)]
pub(crate) struct S3File {
    bucket: Arc<S3Bucket>,
    object: String,
    len: u64,
    tag: Arc<str>,
    revision: Revision,
    /// Stands for name and revision among the chunks.
    key: BlockHash,
    chunks: Arc<Chunks>,
}

/// Parts of files that were read last, the longest unused first out. Who wants a chunk that another fetches waits for it.
#[derive(Debug, Default)]
pub(crate) struct Chunks(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    chunks: HashMap<(BlockHash, u64), (Chunk, u64)>,
    uses: u64,
}

/// `None` until it was fetched.
type Chunk = Arc<Mutex<Option<Arc<[u8]>>>>;

impl Chunks {
    fn chunk(&self, key: BlockHash, number: u64) -> Chunk {
        let mut held = self.0.lock();
        held.uses += 1;
        let now = held.uses;
        if let Some((chunk, used)) = held.chunks.get_mut(&(key, number)) {
            *used = now;
            return chunk.clone();
        }
        if held.chunks.len() >= CHUNKS_HELD {
            let oldest = held.chunks.iter().min_by_key(|(_, (_, used))| *used).map(|(at, _)| *at);
            oldest.map(|at| held.chunks.remove(&at));
        }
        let chunk = Chunk::default();
        held.chunks.insert((key, number), (chunk.clone(), now));
        chunk
    }
}

impl S3File {
    pub(crate) fn new(bucket: &Arc<S3Bucket>, file: ListedFile, chunks: &Arc<Chunks>) -> Self {
        let revision = Revision::tagged(file.len, &file.tag);
        let key = BlockHash::of(format!("{}\0{}", file.object, revision.as_str()).as_bytes());
        let ListedFile { object, len, tag, .. } = file;
        Self { bucket: bucket.clone(), object, len, tag, revision, key, chunks: chunks.clone() }
    }

    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>, ImageError> {
        let read = self.bucket.read_tagged_blocking(&self.object, range, &self.tag);
        read.map_err(|error| match error {
            RepoError::Corrupt { what, detail } => ImageError::Corrupt { file: what, detail },
            other => {
                let file = self.object.clone();
                ImageError::Unavailable { file, source: io::Error::other(other) }
            }
        })
    }

    fn chunk(&self, number: u64) -> Result<Arc<[u8]>, ImageError> {
        let chunk = self.chunks.chunk(self.key, number);
        let mut bytes = chunk.lock();
        if let Some(bytes) = &*bytes {
            return Ok(bytes.clone());
        }
        let start = number * CHUNK;
        let fetched: Arc<[u8]> = self.fetch(start..(start + CHUNK).min(self.len))?.into();
        *bytes = Some(fetched.clone());
        Ok(fetched)
    }
}

impl RemoteFile for S3File {
    fn size(&self) -> u64 {
        self.len
    }

    fn revision(&self) -> &Revision {
        &self.revision
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        if buf.len() >= LARGE {
            let mut at = offset;
            for part in buf.chunks_mut(REQUEST_MAX as usize) {
                let end = at + part.len() as u64;
                part.copy_from_slice(&self.fetch(at..end)?);
                at = end;
            }
            return Ok(());
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let chunk = self.chunk(at / CHUNK)?;
            let there = chunk.get((at % CHUNK) as usize..).unwrap_or_default();
            let len = there.len().min(buf.len() - done);
            if len == 0 {
                let detail = format!("it ends before byte {at}");
                return Err(ImageError::Corrupt { file: self.object.clone(), detail });
            }
            buf[done..done + len].copy_from_slice(&there[..len]);
            done += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let chunks = Chunks::default();
        let key = BlockHash::of(b"a file");
        *chunks.chunk(key, 0).lock() = Some(Arc::from([1, 2, 3]));
        for number in 1..5 * CHUNKS_HELD as u64 {
            *chunks.chunk(key, number).lock() = Some(Arc::from([4]));
            assert!(chunks.chunk(key, 0).lock().is_some(), "used each time, at {number}");
            assert!(chunks.0.lock().chunks.len() <= CHUNKS_HELD);
        }
        assert!(chunks.chunk(key, 1).lock().is_none(), "never used again");
        assert!(chunks.chunk(BlockHash::of(b"another"), 0).lock().is_none());
    }
}
