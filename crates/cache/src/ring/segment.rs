use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rekindle_block::{Block, BlockHash};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::record::{PAGE, Span, encode_header};
use super::seal::{self, RingKey, Seal};

/// Ids are counted from 1: none this large is ours, and the next one can always be counted.
const IDS_END: u64 = 1 << 62;

/// One file of the ring. Written once from front to back, then only read, then retired.
pub(super) struct Segment {
    id: u64,
    path: PathBuf,
    file: File,
    seal: Option<Seal>,
    retired: AtomicBool,
}

/// How a read that may not wait went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    Done,
    /// The bytes are not in the page cache.
    Later,
    /// The file is too short or the disk failed.
    Bad,
}

/// The path of segment `id` in `dir`.
pub(super) fn path_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("ring-{id:016x}.seg"))
}

/// The id in a segment's file name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("ring-")?.strip_suffix(".seg")?;
    let id = (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok())??;
    if id >= IDS_END {
        return None;
    }
    (path_of(Path::new(""), id).as_os_str() == name).then_some(id)
}

impl Segment {
    /// A new file with `bytes` set aside, so that a full file system shows here and not at a write. Encrypted, if there is a
    /// key.
    pub(super) fn create(
        dir: &Path,
        id: u64,
        bytes: u64,
        key: Option<&RingKey>,
    ) -> io::Result<Self> {
        let path = path_of(dir, id);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let set_aside = || match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => key.map(|key| Seal::make(key, &file)).transpose(),
            Err(error) => Err(error.into()),
        };
        match set_aside() {
            Ok(seal) => Ok(Self::new(id, path, file, seal)),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// The file an earlier process left. What was set aside behind its end is given back. An error if it is encrypted and
    /// there is no key or another, or the other way around.
    pub(super) fn open(dir: &Path, id: u64, key: Option<&RingKey>) -> io::Result<Self> {
        let path = path_of(dir, id);
        let nofollow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = nofollow.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let seal = match key {
            Some(_) if metadata.len() > seal::BYTES_MAX => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Some(key) => Some(Seal::of(key, &file)?),
            None if seal::is_sealed(&file) => return Err(io::ErrorKind::InvalidData.into()),
            None => None,
        };
        file.set_len(metadata.len())?;
        Ok(Self::new(id, path, file, seal))
    }

    fn new(id: u64, path: PathBuf, file: File, seal: Option<Seal>) -> Self {
        Self { id, path, file, seal, retired: AtomicBool::new(false) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Fills `bytes` from `at` if the page cache has them all.
    #[inline]
    pub(super) fn read_now(&self, at: u64, bytes: &mut [u8]) -> Now {
        let wanted = bytes.len();
        let mut buffers = [io::IoSliceMut::new(bytes)];
        match rustix::io::preadv2(&self.file, &mut buffers, at, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == wanted => {
                self.unseal(at, bytes);
                Now::Done
            }
            // Short: the rest is not in the page cache, or the file ends. A read that may wait
            // will tell.
            Ok(read) if read > 0 => Now::Later,
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP) => Now::Later,
            Ok(_) | Err(_) => Now::Bad,
        }
    }

    /// Fills `bytes` from `at`.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)?;
        self.unseal(at, bytes);
        Ok(())
    }

    fn unseal(&self, at: u64, bytes: &mut [u8]) {
        if let Some(seal) = &self.seal {
            seal.apply(at, bytes);
        }
    }

    /// Writes bytes where none were written before: with a key no place has two of them.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(seal) = &self.seal else { return self.file.write_all_at(bytes, at) };
        let mut sealed = bytes.to_vec();
        seal.apply(at, &mut sealed);
        self.file.write_all_at(&sealed, at)
    }

    /// Writes the record of `block` at `page`. Readers learn of it only afterwards.
    pub(super) fn write_record(&self, page: u32, block: &Block) -> io::Result<Span> {
        let data = block.bytes();
        let len = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let span = Span::checked(page, len).ok_or(io::ErrorKind::InvalidInput)?;
        let header = encode_header(self.id, span, &block.hash(), data);
        self.write(u64::from(page) * PAGE as u64, &header)?;
        self.write(span.data_at(0), data)?;
        let padding = data.len().next_multiple_of(PAGE) - data.len();
        self.write(span.data_at(0) + data.len() as u64, &[0; PAGE][..padding])?;
        Ok(span)
    }

    /// Ends the file with its footer at `at`, and gives back what was set aside behind it.
    pub(super) fn seal(&self, at: u64, records: &[(BlockHash, Span)]) -> io::Result<u64> {
        let footer = super::footer::encode(self.id, records);
        self.write(at, &footer)?;
        let end = at + footer.len() as u64;
        self.file.set_len(end)?;
        Ok(end)
    }

    /// Deletes the file. Its space is free when this returns, though readers may hold it open: what
    /// they read from now on is short or does not match, and [`Segment::is_retired`] says why.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.set_len(0);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file that cannot become longer than `bytes`: what is written over its end is cut off there, and fails.
    pub(in crate::ring) fn short(bytes: u64, key: &RingKey) -> Segment {
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("segment", flags).unwrap());
        file.set_len(bytes).unwrap();
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::GROW).unwrap();
        Segment::new(1, PathBuf::new(), file, Some(Seal::new(key).unwrap()))
    }

    #[test]
    fn another_key_is_known_before_anything_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = [1, 2].map(|byte| RingKey::new([byte; 32]));
        drop(Segment::create(dir.path(), 1, 1 << 20, Some(&one)).unwrap());
        assert!(Segment::open(dir.path(), 1, Some(&one)).is_ok());
        for wrong in [Some(&other), None] {
            let refused = Segment::open(dir.path(), 1, wrong).err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        }
        drop(Segment::create(dir.path(), 2, 1 << 20, None).unwrap());
        assert!(Segment::open(dir.path(), 2, Some(&one)).is_err());
    }

    #[test]
    fn only_our_own_names_are_segments() {
        let name = "ring-00000000000000ff.seg";
        assert_eq!(id_of(name), Some(255));
        assert_eq!(path_of(Path::new("/c"), 255), Path::new("/c").join(name));
        for bad in [
            "ring-ff.seg",
            "ring-00000000000000FF.seg",
            "ring-+0000000000000ff.seg",
            "ring-ffffffffffffffff.seg",
            "lock",
        ] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }
}
