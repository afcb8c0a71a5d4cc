use super::cowd;
use super::extent::Place;
use crate::endian::{le16, le32, le64};
use crate::file::SourceFile;
use crate::image::MAX_IMAGE_BYTES;
use crate::{ImageError, inflate};

/// `KDMV`: a hosted sparse extent.
pub(crate) const SPARSE_MAGIC: &[u8; 4] = b"KDMV";
const SECTOR: u64 = 512;
const HEADER_BYTES: usize = 512;
/// A directory at the end of the file: the header there, the footer, says where.
const AT_END: u64 = u64::MAX;
const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
/// 2 MiB, 32 times what VMware uses. It bounds the scratch of a compressed read.
const MAX_GRAIN_SECTORS: u64 = 4096;
const TABLE_ENTRIES: u64 = 512;
/// 16 MiB of grain directory: 128 TiB of the usual grains.
const MAX_DIRECTORY_ENTRIES: u64 = 4 << 20;
/// Entries looked at at once.
const ENTRIES_AT_ONCE: usize = 512;
const MAX_DESCRIPTOR_SECTORS: u64 = 2048;

/// The header, "SparseExtentHeader" of the specification. Numbers are sectors and little-endian:
///
/// ```text
/// 0 magic 4 | 4 version 4 | 8 flags 4 | 12 capacity 8 | 20 grain size 8 | 28 descriptor offset 8
/// 36 descriptor size 8 | 44 entries a table 4 | 48 second directory 8 | 56 directory 8 | 64 overhead 8
/// 72 unclean 1 | 73 "\n \r\n" | 77 compression 2 | 79 zero 433
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: (u64, u64),
    table_entries: u64,
    directory: u64,
    compression: u16,
}

/// Whether a header's first 512 bytes are of a compressed extent.
pub(crate) fn is_stream_optimized(head: &[u8]) -> bool {
    head.len() >= 12 && le32(head, 8) & FLAG_COMPRESSED != 0
}

/// A sparse extent: header, grain directory in memory; grain tables are read as they are needed, a few
/// entries at a time from the page cache.
#[derive(Debug)]
pub(super) struct Sparse {
    file: SourceFile,
    header: Header,
    directory: Vec<u32>,
}

impl Sparse {
    pub(super) fn open(file: SourceFile) -> Result<Self, ImageError> {
        let mut header = Header::read(&file, 0)?;
        if header.directory == AT_END {
            header = read_footer(&file, &header)?;
        }
        Self::with_header(file, header)
    }

    /// An extent of ESXi, which has another header and the same tables.
    pub(super) fn open_cowd(file: SourceFile) -> Result<Self, ImageError> {
        let header = cowd::read_header(&file)?;
        Self::with_header(file, header)
    }

    fn with_header(file: SourceFile, header: Header) -> Result<Self, ImageError> {
        let tables = header.capacity.div_ceil(header.grain * header.table_entries);
        if tables > MAX_DIRECTORY_ENTRIES {
            let what = format!("its grain directory has {tables} entries");
            return Err(ImageError::unsupported(file.name(), what));
        }
        let offset = header.directory.checked_mul(SECTOR);
        let offset = offset.ok_or_else(|| file.corrupt("its directory lies nowhere".into()))?;
        let bytes = file.read_vec(offset, tables as usize * 4)?;
        let directory = bytes.as_chunks::<4>().0.iter().map(|e| u32::from_le_bytes(*e)).collect();
        Ok(Self { file, header, directory })
    }

    pub(super) fn file(&self) -> &SourceFile {
        &self.file
    }

    pub(super) fn size(&self) -> u64 {
        self.header.capacity * SECTOR
    }

    /// The text inside, if there is one: the extents of a split disk have none.
    pub(super) fn descriptor(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let (offset, sectors) = self.header.descriptor;
        if offset == 0 || sectors == 0 {
            return Ok(None);
        }
        let start = offset.checked_mul(SECTOR).filter(|_| sectors <= MAX_DESCRIPTOR_SECTORS);
        let start = start.ok_or_else(|| self.file.corrupt("its descriptor's place".into()))?;
        let text = self.file.read_vec(start, (sectors * SECTOR) as usize)?;
        // VirtualBox and others leave the space reserved and empty in extents of a split disk.
        Ok(text.first().is_some_and(|byte| *byte != 0).then_some(text))
    }

    fn grain_bytes(&self) -> u64 {
        self.header.grain * SECTOR
    }

    /// How the bytes at `at` are stored, and how many of the next `max` (at least 1) are stored so.
    pub(super) fn run_at(&self, at: u64, max: u64) -> Result<(Place, u64), ImageError> {
        let grain = at / self.grain_bytes();
        let skip = at % self.grain_bytes();
        let table = grain / self.header.table_entries;
        let table_at = self.directory.get(table as usize).copied().unwrap_or(0);
        if table_at == 0 {
            let end = (table + 1) * self.header.table_entries * self.grain_bytes();
            // Behind the directory there is nothing to read: sizes are checked against it.
            return Ok((Place::Absent, (end - at).min(max)));
        }
        let mut buf = [0; ENTRIES_AT_ONCE * 4];
        let first = grain % self.header.table_entries;
        let left = self.header.table_entries - first;
        let wanted = (skip + max).div_ceil(self.grain_bytes());
        let count = left.min(wanted).min(ENTRIES_AT_ONCE as u64) as usize;
        let bytes = &mut buf[..count * 4];
        self.file.read_exact_at(u64::from(table_at) * SECTOR + first * 4, bytes)?;
        let entries = bytes.as_chunks::<4>().0.iter().map(|e| u32::from_le_bytes(*e));
        let (place, grains) = self.same_run(entries)?;
        let place = match place {
            Place::Stored(offset) => Place::Stored(offset + skip),
            other => other,
        };
        Ok((place, (grains * self.grain_bytes() - skip).min(max)))
    }

    /// What the first entry says, and how many grains go on like it.
    fn same_run(&self, mut entries: impl Iterator<Item = u32>) -> Result<(Place, u64), ImageError> {
        let first = entries.next().unwrap_or(0);
        let like_first = |entry: &u32| *entry == first;
        if first == 0 || (first == 1 && self.header.zero_grains()) {
            let place = if first == 0 { Place::Absent } else { Place::Zero };
            return Ok((place, 1 + entries.take_while(like_first).count() as u64));
        }
        if first == 1 {
            return Err(self.file.corrupt("a grain lies in its header".into()));
        }
        if self.header.compressed() {
            return Ok((Place::Compressed(u64::from(first)), 1));
        }
        let mut next = u64::from(first);
        let follows = |entry: &u32| {
            next += self.header.grain;
            u64::from(*entry) == next
        };
        let grains = 1 + entries.take_while(follows).count() as u64;
        Ok((Place::Stored(u64::from(first) * SECTOR), grains))
    }

    /// Reads a part of one compressed grain: `lba 8 | length 4 | zlib stream`.
    pub(super) fn read_compressed(
        &self,
        at: u64,
        sector: u64,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let start = sector * SECTOR;
        let grain_start = at - at % self.grain_bytes();
        let mut marker = [0; 12];
        self.file.read_exact_at(start, &mut marker)?;
        let len = u64::from(le32(&marker, 8));
        if le64(&marker, 0) != grain_start / SECTOR || len == 0 || len > 2 * self.grain_bytes() {
            return Err(self.file.corrupt(format!("the grain at sector {sector} is another's")));
        }
        let input = self.file.read_vec(start + 12, len as usize)?;
        // The last grain may hold no more than the disk does.
        let least = self.grain_bytes().min(self.size() - grain_start);
        let check = |len: Option<usize>| match len {
            Some(len) if len as u64 >= least => Ok(()),
            _ => {
                Err(self.file.corrupt(format!("the grain at sector {sector} does not decompress")))
            }
        };
        if out.len() as u64 == self.grain_bytes() {
            return check(inflate::zlib(&input, out));
        }
        let mut scratch = vec![0; self.grain_bytes() as usize];
        check(inflate::zlib(&input, &mut scratch))?;
        let skip = (at - grain_start) as usize;
        out.copy_from_slice(&scratch[skip..skip + out.len()]);
        Ok(())
    }
}

impl Header {
    /// That of an extent without a descriptor, compression or grains of zeros.
    pub(super) fn plain(capacity: u64, grain: u64, table_entries: u64, directory: u64) -> Self {
        let (flags, compression) = (0, 0);
        Self { flags, capacity, grain, descriptor: (0, 0), table_entries, directory, compression }
    }

    fn read(file: &SourceFile, offset: u64) -> Result<Self, ImageError> {
        Self::parse(file.name(), &file.read_vec(offset, HEADER_BYTES)?, offset)
    }

    /// Reads the header in `bytes`, a sector that the file `name` has at `offset`.
    pub(super) fn parse(name: &str, bytes: &[u8], offset: u64) -> Result<Self, ImageError> {
        if !bytes.starts_with(SPARSE_MAGIC) || bytes.len() < HEADER_BYTES {
            return Err(ImageError::corrupt(name, format!("no header at {offset}")));
        }
        let version = le32(bytes, 4);
        if !(1..=3).contains(&version) {
            let what = format!("it is a VMDK of version {version}");
            return Err(ImageError::unsupported(name, what));
        }
        let header = Self {
            flags: le32(bytes, 8),
            capacity: le64(bytes, 12),
            grain: le64(bytes, 20),
            descriptor: (le64(bytes, 28), le64(bytes, 36)),
            table_entries: u64::from(le32(bytes, 44)),
            directory: le64(bytes, 56),
            compression: le16(bytes, 77),
        };
        header.check(name, bytes[73..77] == *b"\n \r\n")?;
        Ok(header)
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.capacity * SECTOR
    }

    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain * SECTOR
    }

    fn check(&self, name: &str, line_ends: bool) -> Result<(), ImageError> {
        if self.flags & 1 != 0 && !line_ends {
            let detail = "it was transferred as text, which destroys it";
            return Err(ImageError::corrupt(name, detail));
        }
        if self.capacity > MAX_IMAGE_BYTES / SECTOR {
            let what = format!("a disk of {} sectors", self.capacity);
            return Err(ImageError::unsupported(name, what));
        }
        let grain = 8..=MAX_GRAIN_SECTORS;
        let tables = 1..=TABLE_ENTRIES;
        if self.capacity == 0
            || !grain.contains(&self.grain)
            || !self.grain.is_power_of_two()
            || !tables.contains(&self.table_entries)
        {
            return Err(ImageError::corrupt(name, "its header has impossible sizes"));
        }
        match (self.compressed(), self.compression, self.flags & FLAG_MARKERS != 0) {
            (false, 0, _) | (true, 1, true) => Ok(()),
            _ => Err(ImageError::unsupported(name, "it is compressed in an unknown way")),
        }
    }

    /// Whether the header that counts is at the end of the file.
    pub(super) fn has_footer(&self) -> bool {
        self.directory == AT_END
    }

    pub(super) fn compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    fn zero_grains(&self) -> bool {
        self.flags & FLAG_ZERO_GRAINS != 0
    }
}

/// The header at the end of a stream: `footer marker 512 | header 512 | end of stream 512`. A stream that
/// was cut short ends with something else.
fn read_footer(file: &SourceFile, head: &Header) -> Result<Header, ImageError> {
    let cut = || file.corrupt("it ends without a footer: it was cut short".into());
    let start = file.len().checked_sub(1536).ok_or_else(cut)?;
    let bytes = file.read_vec(start, 1536)?;
    let marker = (le32(&bytes, 8), le32(&bytes, 12));
    let end = &bytes[1024..1040];
    if marker != (0, 3)
        || end.iter().any(|byte| *byte != 0)
        || !bytes[512..].starts_with(SPARSE_MAGIC)
    {
        return Err(cut());
    }
    let foot = Header::read(file, start + 512)?;
    let same = Header { directory: foot.directory, descriptor: foot.descriptor, ..*head };
    if foot != same || foot.directory == AT_END {
        return Err(file.corrupt("its footer belongs to another file".into()));
    }
    Ok(Header { descriptor: head.descriptor, ..foot })
}
