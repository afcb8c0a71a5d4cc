//! qcow2, version 2 and 3 (QEMU, docs/interop/qcow2.txt).

mod bitmap;
mod header;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::file::{SourceFile, Visit};
use crate::folder::Folder;
use crate::{Format, Image, ImageError, inflate};
use header::{Compression, Header};

/// Images below one image. A circle of them ends here too.
const MAX_CHAIN: u32 = 8;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Entries of an L2 table looked at at once.
const ENTRIES_AT_ONCE: usize = 512;

/// Header and L1 table are in memory; L2 tables are read as they are needed, a few entries at a time from
/// the page cache.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    file: SourceFile,
    header: Header,
    l1: Vec<u64>,
    backing: Option<Image>,
}

/// Where a run of bytes is.
enum Place {
    Zero,
    /// In the image below.
    Backing,
    /// At this offset of the file.
    Stored(u64),
    /// In the compressed cluster of this L2 entry.
    Compressed(u64),
}

impl Qcow2 {
    pub(crate) fn open(folder: &Folder, name: &Path, file: SourceFile) -> Result<Self, ImageError> {
        Self::open_at_depth(folder, name, file, 0)
    }

    fn open_at_depth(
        folder: &Folder,
        name: &Path,
        file: SourceFile,
        depth: u32,
    ) -> Result<Self, ImageError> {
        let header = Header::read(&file)?;
        let bytes = file.read_vec(header.l1_offset, header.l1_entries * 8)?;
        let l1 = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).collect();
        let backing = match &header.backing {
            Some(below) => Some(open_backing(folder, name, &file, below, depth + 1)?),
            None => None,
        };
        Ok(Self { file, header, l1, backing })
    }

    pub(crate) fn size(&self) -> u64 {
        self.header.size
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (place, len) = self.run_at(at, (buf.len() - done) as u64)?;
            let part = &mut buf[done..done + len as usize];
            match place {
                Place::Zero => part.fill(0),
                Place::Backing => self.read_backing(at, part)?,
                Place::Stored(offset) => self.file.read_exact_at(offset, part)?,
                Place::Compressed(entry) => self.read_compressed(at, entry, part)?,
            }
            done += len as usize;
        }
        Ok(())
    }

    /// The first range at or behind `from`, and starting before `until`, that this image or one below it
    /// has clusters for.
    pub(crate) fn next_data(
        &self,
        from: u64,
        until: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        let until = until.min(self.size());
        let mut at = from;
        while at < until {
            let (place, len) = self.run_at(at, until - at)?;
            match (place, &self.backing) {
                (Place::Compressed(_), _) => return Ok(Some(at..at + len)),
                (Place::Stored(offset), _) => {
                    if let Some(found) = self.file.stored_part(offset, len)? {
                        return Ok(Some(at + found.start..at + found.end));
                    }
                }
                (Place::Backing, Some(below)) => {
                    if let Some(found) = below.next_data_until(at, at + len)? {
                        return Ok(Some(found));
                    }
                }
                _ => {}
            }
            at += len;
        }
        Ok(None)
    }

    /// What the dirty bitmap `name` marks.
    pub(crate) fn dirty_ranges(&self, name: &str) -> Result<Vec<Range<u64>>, ImageError> {
        match &self.header.bitmaps {
            Some(directory) => directory.ranges(&self.file, &self.header, name),
            None => {
                let file = format!("a bitmap, kept up to date, in {}", self.file.name());
                Err(ImageError::NotFound { file })
            }
        }
    }

    pub(crate) fn each_file(&self, visit: Visit<'_>) -> Result<(), ImageError> {
        visit(&self.file)?;
        self.backing.as_ref().map_or(Ok(()), |backing| backing.each_file(visit))
    }

    /// How the bytes at `at` are stored, and how many of the next `max` (at least 1) are stored so.
    fn run_at(&self, at: u64, max: u64) -> Result<(Place, u64), ImageError> {
        let cluster = self.header.cluster_bytes();
        let l2_reach = self.header.l2_reach();
        let skip = at % cluster;
        // The header's reader made sure that the table covers the disk.
        let l2_at = self.l1[(at / l2_reach) as usize] & OFFSET_MASK;
        if l2_at == 0 {
            return Ok((Place::Backing, (l2_reach - at % l2_reach).min(max)));
        }
        if !l2_at.is_multiple_of(cluster) {
            return Err(self.file.corrupt(format!("an L2 table at {l2_at}")));
        }
        let mut buf = [0; ENTRIES_AT_ONCE * 8];
        let first = at % l2_reach / cluster;
        let left = l2_reach / cluster - first;
        let wanted = (skip + max).div_ceil(cluster);
        let count = left.min(wanted).min(ENTRIES_AT_ONCE as u64) as usize;
        let bytes = &mut buf[..count * 8];
        self.file.read_exact_at(l2_at + first * 8, bytes)?;
        let entries = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e));
        let (place, clusters) = self.same_run(entries)?;
        let place = match place {
            Place::Stored(offset) => Place::Stored(offset + skip),
            other => other,
        };
        Ok((place, (clusters * cluster - skip).min(max)))
    }

    /// What the first entry says, and how many clusters go on like it.
    fn same_run(&self, mut entries: impl Iterator<Item = u64>) -> Result<(Place, u64), ImageError> {
        let cluster = self.header.cluster_bytes();
        let first = self.place(entries.next().unwrap_or(0))?;
        let mut next = match first {
            Place::Stored(offset) => offset,
            _ => 0,
        };
        let follows = |entry: &u64| {
            next += cluster;
            match (&first, self.place(*entry)) {
                (Place::Zero, Ok(Place::Zero)) | (Place::Backing, Ok(Place::Backing)) => true,
                (Place::Stored(_), Ok(Place::Stored(offset))) => offset == next,
                _ => false,
            }
        };
        let clusters = 1 + entries.take_while(follows).count() as u64;
        Ok((first, clusters))
    }

    fn place(&self, entry: u64) -> Result<Place, ImageError> {
        if entry & COMPRESSED != 0 {
            return Ok(Place::Compressed(entry));
        }
        if entry & ZERO != 0 && self.header.version >= 3 {
            return Ok(Place::Zero);
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(Place::Backing);
        }
        match offset.is_multiple_of(self.header.cluster_bytes()) {
            true => Ok(Place::Stored(offset)),
            false => Err(self.file.corrupt(format!("a cluster at {offset}"))),
        }
    }

    /// What the image below has; zeros where it ends, or where there is none.
    fn read_backing(&self, at: u64, part: &mut [u8]) -> Result<(), ImageError> {
        let Some(below) = &self.backing else {
            part.fill(0);
            return Ok(());
        };
        let there = below.size().saturating_sub(at).min(part.len() as u64) as usize;
        let (head, tail) = part.split_at_mut(there);
        tail.fill(0);
        if head.is_empty() { Ok(()) } else { below.read_at(at, head) }
    }

    fn read_compressed(&self, at: u64, entry: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let bits = self.header.cluster_bits;
        let split = 62 - (bits - 8);
        let offset = entry & ((1 << split) - 1);
        let sectors = (entry >> split & ((1 << (bits - 8)) - 1)) + 1;
        let longest = sectors * 512 - offset % 512;
        // The last cluster's sector need not be filled up.
        let len = longest.min(self.file.len().saturating_sub(offset));
        let input = self.file.read_vec(offset, len as usize)?;
        let unpack = |out: &mut [u8]| match self.header.compression {
            Compression::Deflate => inflate::deflate(&input, out),
            Compression::Zstd => inflate::zstd(&input, out),
        };
        let corrupt = || self.file.corrupt(format!("the cluster at {offset} does not decompress"));
        let cluster = self.header.cluster_bytes();
        if out.len() as u64 == cluster {
            return unpack(out).ok_or_else(corrupt);
        }
        let mut scratch = vec![0; cluster as usize];
        unpack(&mut scratch).ok_or_else(corrupt)?;
        let skip = (at % cluster) as usize;
        out.copy_from_slice(&scratch[skip..skip + out.len()]);
        Ok(())
    }
}

/// Opens the image below. Its format must be recorded: told by content, a guest that owns a raw disk could
/// write a header into it that makes it another's.
fn open_backing(
    folder: &Folder,
    name: &Path,
    file: &SourceFile,
    below: &header::Backing,
    depth: u32,
) -> Result<Image, ImageError> {
    let unsupported = |what: String| ImageError::unsupported(file.name(), what);
    if depth > MAX_CHAIN {
        return Err(unsupported(format!("more than {MAX_CHAIN} images below it, or a circle")));
    }
    if below.name.starts_with("json:") || below.name.contains("://") {
        return Err(unsupported(format!("its backing image is {:?}", below.name)));
    }
    let path = Path::new(&below.name);
    // An absolute name is handed on as it is, for the folder to refuse.
    let path: PathBuf = name.parent().unwrap_or(Path::new("")).join(path);
    match below.format.as_deref() {
        Some("raw") => Image::open_raw(folder, &path),
        Some("qcow2") => {
            let file = folder.open_file(&path)?;
            let qcow2 = Qcow2::open_at_depth(folder, &path, file, depth)?;
            Image::from_qcow2(qcow2, &path)
        }
        Some("vmdk") => Image::open(folder, &path).and_then(|image| match image.format() {
            Format::Raw | Format::Qcow2 => Err(unsupported(format!("{:?} is no VMDK", below.name))),
            _ => Ok(image),
        }),
        Some(other) => Err(unsupported(format!("its backing image has the format {other:?}"))),
        None => Err(unsupported(
            "the format of its backing image is not recorded; `qemu-img rebase -u -F` does it"
                .into(),
        )),
    }
}
