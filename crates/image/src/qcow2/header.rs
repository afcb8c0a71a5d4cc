use super::bitmap::Directory;
use crate::ImageError;
use crate::endian::{be32, be64};
use crate::file::SourceFile;
use crate::format::QCOW_MAGIC;
use crate::image::MAX_IMAGE_BYTES;

/// 32 MiB of L1 table, QEMU's own limit.
const MAX_L1_ENTRIES: u64 = 4 << 20;
const MAX_NAME_BYTES: u32 = 1023;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const BITMAPS: u32 = 0x2385_2875;
/// Of the features that software which does not know them clears.
const BITMAPS_ARE_RIGHT: u64 = 1;
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;

/// What an image says about itself, checked. Numbers are big-endian:
///
/// ```text
/// 0 magic 4 | 4 version 4 | 8 backing name offset 8 | 16 its length 4 | 20 cluster bits 4 | 24 size 8
/// 32 encryption 4 | 36 L1 entries 4 | 40 L1 offset 8 | 48 refcounts 8+4 | 60 snapshots 4+8
/// version 3: 72 incompatible 8 | 80 compatible 8 | 88 autoclear 8 | 96 refcount order 4
///            100 header length 4 | 104 compression 1 ...; then extensions: type 4 | length 4 | data
/// ```
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// Entries that the disk needs; the file may have more.
    pub(super) l1_entries: usize,
    pub(super) compression: Compression,
    pub(super) backing: Option<Backing>,
    /// Of dirty bitmaps, if there are some that were kept up to date.
    pub(super) bitmaps: Option<Directory>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

#[derive(Debug)]
pub(super) struct Backing {
    pub(super) name: String,
    pub(super) format: Option<String>,
}

impl Header {
    pub(super) fn read(file: &SourceFile) -> Result<Self, ImageError> {
        let head = file.read_vec(0, file.len().min(512) as usize)?;
        let corrupt = |detail: &str| file.corrupt(detail.to_owned());
        if head.len() < 104 || !head.starts_with(QCOW_MAGIC) {
            return Err(corrupt("it ends within its header"));
        }
        let version = be32(&head, 4);
        if !(2..=3).contains(&version) {
            let what = format!("it is a qcow image of version {version}");
            return Err(ImageError::unsupported(file.name(), what));
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt("an impossible cluster size"));
        }
        if be32(&head, 32) != 0 {
            return Err(ImageError::unsupported(file.name(), "it is encrypted"));
        }
        let compression = if version == 2 { Compression::Deflate } else { features(file, &head)? };
        let first = file.read_vec(0, file.len().min(1 << cluster_bits) as usize)?;
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(&head, 24),
            l1_offset: be64(&head, 40),
            l1_entries: 0,
            compression,
            backing: backing(&first, version).map_err(corrupt)?,
            bitmaps: bitmaps(&first, version).map_err(corrupt)?,
        };
        header.l1_entries = header.needed_l1(file, be32(&head, 36))?;
        Ok(header)
    }

    pub(super) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one L2 table maps.
    pub(super) fn l2_reach(&self) -> u64 {
        1 << (2 * self.cluster_bits - 3)
    }

    fn needed_l1(&self, file: &SourceFile, there: u32) -> Result<usize, ImageError> {
        if self.size > MAX_IMAGE_BYTES {
            return Err(ImageError::unsupported(
                file.name(),
                format!("a disk of {} bytes", self.size),
            ));
        }
        let needed = self.size.div_ceil(self.l2_reach());
        if needed > u64::from(there) || needed > MAX_L1_ENTRIES {
            return Err(file.corrupt(format!("its L1 table has {there} entries and not {needed}")));
        }
        if !self.l1_offset.is_multiple_of(self.cluster_bytes()) {
            return Err(file.corrupt(format!("an L1 table at {}", self.l1_offset)));
        }
        Ok(needed as usize)
    }
}

fn features(file: &SourceFile, head: &[u8]) -> Result<Compression, ImageError> {
    let unsupported = |what: &str| Err(ImageError::unsupported(file.name(), what));
    let features = be64(head, 72);
    if features & CORRUPT != 0 {
        return Err(file.corrupt("it is marked corrupt; see `qemu-img check`".into()));
    }
    if features & EXTERNAL_DATA != 0 {
        return unsupported("its data is in another file");
    }
    if features & SUBCLUSTERS != 0 {
        return unsupported("it has subclusters (extended_l2); convert it with `qemu-img convert`");
    }
    if features & !(DIRTY | COMPRESSION_TYPE) != 0 {
        return unsupported("it has features that are not known");
    }
    let kind = if be32(head, 100) > 104 { head.get(104).copied().unwrap_or(0) } else { 0 };
    match (features & COMPRESSION_TYPE != 0, kind) {
        (false, 0) => Ok(Compression::Deflate),
        (true, 1) => Ok(Compression::Zstd),
        _ => unsupported("it is compressed in an unknown way"),
    }
}

/// The image below, named in the first cluster `first`.
fn backing(first: &[u8], version: u32) -> Result<Option<Backing>, &'static str> {
    let (offset, len) = (be64(first, 8), be32(first, 16));
    let format = extension(first, version, BACKING_FORMAT)?;
    if offset == 0 {
        return Ok(None);
    }
    if len == 0 || len > MAX_NAME_BYTES {
        return Err("a backing image with an impossible name");
    }
    let start = usize::try_from(offset).map_err(|_| "a backing image's name behind its end")?;
    let bytes = first.get(start..).and_then(|rest| rest.get(..len as usize));
    let bytes = bytes.ok_or("a backing image's name behind its first cluster")?;
    let text =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "a name that is no UTF-8");
    Ok(Some(Backing { name: text(bytes)?, format: format.map(text).transpose()? }))
}

fn bitmaps(first: &[u8], version: u32) -> Result<Option<Directory>, &'static str> {
    if version == 2 || be64(first, 88) & BITMAPS_ARE_RIGHT == 0 {
        return Ok(None);
    }
    Ok(extension(first, version, BITMAPS)?.map(Directory::parse))
}

/// The data of the first header extension of type `wanted`.
fn extension(first: &[u8], version: u32, wanted: u32) -> Result<Option<&[u8]>, &'static str> {
    let mut at = if version == 2 { 72 } else { be32(first, 100) as usize };
    if !at.is_multiple_of(8) || (version > 2 && at < 104) {
        return Err("an impossible header length");
    }
    // Version 2 marks no end where it has no extensions, so whatever follows may stop the walk.
    let stop = |problem| if version == 2 { Ok(None) } else { Err(problem) };
    loop {
        let Some(head) = first.get(at..at.saturating_add(8)) else {
            return stop("its header extensions have no end");
        };
        let (kind, len) = (be32(head, 0), be32(head, 4) as usize);
        if kind == 0 {
            return Ok(None);
        }
        let Some(data) = first.get(at + 8..).and_then(|rest| rest.get(..len)) else {
            return stop("a header extension behind its first cluster");
        };
        if kind == wanted {
            return Ok(Some(data));
        }
        at += 8 + len.next_multiple_of(8);
    }
}
