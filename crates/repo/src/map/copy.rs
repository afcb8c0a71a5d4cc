//! A map's pages on this machine, for maps that lie beyond the network: a cold read of a guest then is one request, that
//! for its block.
//!
//! A small map is read whole when it is opened. A larger one is read in the background, in large pieces, into a file that
//! has no name and goes with the disk. What is read of a copy is checked as if it came from the store; what is not in it
//! yet, or does not match, is read from there.
//!
//! # Bounds
//!
//! 1 MiB of memory, or a file of at most 1 GiB: that are 5 TiB of 256 KiB blocks. Pages behind it cost one more request.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::RepoError;
use crate::id::random;
use crate::store::{Store, blocking};

/// The largest map that is kept in memory, and what is read of any other when it is opened.
pub(super) const SMALL: u64 = 1 << 20;
const FILE_MAX: u64 = 1 << 30;
/// Bytes of a map that are read at once.
const PIECE: u64 = 4 << 20;
/// How long the store is left alone when it did not answer.
const PAUSE: Duration = Duration::from_secs(5);

/// Where a map is found before the store is asked.
pub(super) enum MapCopy {
    /// Nowhere.
    None,
    /// All of it.
    Memory(Vec<u8>),
    /// As much of it as was copied.
    File(FileCopy),
}

pub(super) struct FileCopy {
    copied: Arc<Copied>,
    task: AbortHandle,
}

struct Copied {
    file: File,
    /// So many bytes from the start are there.
    until: AtomicU64,
}

impl MapCopy {
    /// Begins to copy the first `bytes` of a map into a file in `dir`.
    pub(super) fn begin(store: &Store, object: &str, bytes: u64, dir: &Path) -> Self {
        match FileCopy::begin(store, object, bytes, dir) {
            Ok(copy) => Self::File(copy),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), "a disk's map is not kept at hand: {error}");
                Self::None
            }
        }
    }

    /// Bytes `range` of the map, unchecked, if they are in the copy.
    pub(super) async fn read(&self, range: Range<u64>) -> Option<Vec<u8>> {
        match self {
            Self::None => None,
            Self::Memory(map) => {
                map.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec)
            }
            Self::File(FileCopy { copied, .. }) => {
                if range.end > copied.until.load(Ordering::Acquire) {
                    return None;
                }
                let copied = copied.clone();
                let read = blocking(move || {
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    let read = copied.file.read_exact_at(&mut bytes, range.start);
                    read.map(|()| bytes).map_err(|e| RepoError::io("read a map's copy", e))
                });
                read.await.ok()
            }
        }
    }
}

impl FileCopy {
    fn begin(store: &Store, object: &str, bytes: u64, dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let name = random::<8>().map_err(io::Error::other)?;
        let path = dir.join(format!("{}.map", hex::encode(name)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        let copied = Arc::new(Copied { file, until: AtomicU64::new(0) });
        let copy = copied.clone().fill(store.clone(), object.to_owned(), bytes.min(FILE_MAX));
        Ok(Self { copied, task: tokio::spawn(copy).abort_handle() })
    }
}

impl Drop for FileCopy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Copied {
    async fn fill(self: Arc<Self>, store: Store, object: String, bytes: u64) {
        let _shown = store.show_copying();
        let mut at = 0;
        while at < bytes {
            let range = at..(at + PIECE).min(bytes);
            match store.read_range(&object, range.clone(), Ok).await {
                Ok(piece) => {
                    let copied = self.clone();
                    let written = blocking(move || {
                        let written = copied.file.write_all_at(&piece, range.start);
                        written.map_err(|e| RepoError::io("write a map's copy", e))
                    });
                    if let Err(error) = written.await {
                        tracing::warn!("a disk's map is at hand in part only: {error}");
                        return;
                    }
                    at = (at + PIECE).min(bytes);
                    self.until.store(at, Ordering::Release);
                }
                Err(RepoError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
                // The guest's own read will meet it and say so.
                Err(error) => {
                    tracing::debug!("a map is not copied to its end: {error}");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;

    #[test]
    fn a_copy_has_what_the_map_has_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (maps, copies) = (dir.path().join("maps"), dir.path().join("copies"));
        std::fs::create_dir(&maps).unwrap();
        let map: Vec<u8> = (0..2 * PIECE as u32 / 4 + 9).flat_map(u32::to_le_bytes).collect();
        std::fs::write(maps.join("a.map"), &map).unwrap();
        let store = Store::open(&Location::from(dir.path())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let copy = MapCopy::begin(&store, "maps/a.map", map.len() as u64, &copies);
            assert_eq!(copy.read(0..48).await, None, "nothing is there yet");
            let end = map.len() as u64;
            let places = [0..48, PIECE - 5..PIECE + 5, end - 48..end];
            for place in places {
                let found = loop {
                    if let Some(found) = copy.read(place.clone()).await {
                        break found;
                    }
                    tokio::task::yield_now().await;
                };
                assert_eq!(found, map[place.start as usize..place.end as usize]);
            }
            assert_eq!(copy.read(end..end + 1).await, None);
        });
        assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 0);
    }
}
