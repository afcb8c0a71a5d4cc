//! VHDX: Virtual Hard Disk v2, [MS-VHDX].

mod header;
mod locator;
mod log;
mod metadata;
mod patches;
mod region;
mod replayed;

use std::ops::Range;
use std::path::Path;

use crate::chain::Chain;
use crate::file::{SourceFile, Visit};
use crate::folder::Folder;
use crate::image::MAX_IMAGE_BYTES;
use crate::runs::{Place, Run, Runs};
use crate::{Format, ImageError, format};
use header::Header;
use locator::Locator;
use metadata::Metadata;
use region::Regions;
use replayed::Replayed;

/// The file type identifier, section 2.1.
pub(crate) const SIGNATURE: &[u8] = b"vhdxfile";
const MIB: u64 = 1 << 20;
/// States of a block in the table.
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;
/// Entries looked at at once.
const ENTRIES_AT_ONCE: u64 = 512;

/// Disks of one chain, each an open file. A VM of Hyper-V has at most 50 checkpoints.
const MAX_PARENTS: usize = 64;
const SECTORS_IN_CHUNK: u64 = 1 << 23;
/// Bytes of a sector bitmap looked at at once.
const BITS_AT_ONCE: u64 = 512;

/// A disk over the one that it is the difference to, if it is one. The block allocation table (section 2.5) and the sector
/// bitmaps are read as they are needed, a few entries at a time from the page cache:
///
/// ```text
/// 0 identifier | 64K, 128K headers | 192K, 256K region tables | 1M log, table, metadata, blocks
/// table: chunk ratio entries of blocks, one of a sector bitmap, and so on
/// ```
#[derive(Debug)]
pub(crate) struct Vhdx {
    file: Replayed,
    size: u64,
    table: u64,
    block: u64,
    sector: u64,
    data_id: String,
    parent: Option<Box<Vhdx>>,
}

impl Vhdx {
    /// Opens `file`, whose name is `name`, with its parents.
    pub(crate) fn open(folder: &Folder, name: &Path, file: SourceFile) -> Result<Self, ImageError> {
        let mut chain = Chain::new(folder, MAX_PARENTS);
        chain.enter(name)?;
        Self::open_in(&mut chain, name, file)
    }

    fn open_in(chain: &mut Chain<'_>, name: &Path, file: SourceFile) -> Result<Self, ImageError> {
        let header = Header::read(&file)?;
        let file = Replayed::open(file, &header)?;
        let regions = Regions::read(&file)?;
        let metadata = Metadata::read(&file, &regions.metadata)?;
        if metadata.size > MAX_IMAGE_BYTES {
            let what = format!("a disk of {} bytes", metadata.size);
            return Err(ImageError::unsupported(file.file().name(), what));
        }
        let parent = match &metadata.parent {
            Some(parent) => Some(Box::new(open_parent(chain, name, file.file(), parent)?)),
            None => None,
        };
        let Metadata { size, block, sector, .. } = metadata;
        let (table, sector) = (regions.table.start, u64::from(sector));
        let vhdx = Self { file, size, table, block, sector, data_id: header.data_id, parent };
        let entries = vhdx.entries();
        if entries * 8 > regions.table.end - regions.table.start {
            return Err(vhdx.corrupt(format!("its table has less than {entries} entries")));
        }
        Ok(vhdx)
    }

    pub(crate) fn each_file(&self, visit: Visit<'_>) -> Result<(), ImageError> {
        visit(self.file.file())?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.each_file(visit))
    }

    fn chunk_ratio(&self) -> u64 {
        SECTORS_IN_CHUNK * self.sector / self.block
    }

    /// Entries of the table. With a parent the last is that of the last bitmap.
    fn entries(&self) -> u64 {
        let (blocks, ratio) = (self.size.div_ceil(self.block), self.chunk_ratio());
        match self.parent {
            Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
            None => blocks + blocks.saturating_sub(1) / ratio,
        }
    }

    /// The run at byte `at` of the disk, `skip` bytes into a block of which only some sectors are here, at `start`.
    fn run_in_block(&self, at: u64, start: u64, skip: u64, max: u64) -> Result<Run, ImageError> {
        let (ratio, chunk) = (self.chunk_ratio(), at / self.block / self.chunk_ratio());
        let mut entry = [0; 8];
        self.file.read_exact_at(self.table + (chunk * (ratio + 1) + ratio) * 8, &mut entry)?;
        let bitmap = self.block_at(u64::from_le_bytes(entry))?;
        let first = at / self.sector % SECTORS_IN_CHUNK;
        let wanted = (at % self.sector + max).div_ceil(self.sector);
        let from = first / 8;
        let count = ((first + wanted).div_ceil(8) - from).min(BITS_AT_ONCE);
        let mut buf = [0; BITS_AT_ONCE as usize];
        let bits = &mut buf[..count as usize];
        self.file.read_exact_at(bitmap + from, bits)?;
        let bit = |sector: u64| bits[(sector / 8 - from) as usize] >> (sector % 8) & 1;
        let last = (first + wanted).min((from + count) * 8);
        let kind = bit(first);
        let sectors = (first..last).take_while(|sector| bit(*sector) == kind).count() as u64;
        let len = (sectors * self.sector - at % self.sector).min(max);
        let place = if kind == 1 { Place::Stored(start + skip) } else { Place::Absent };
        Ok((place, len))
    }

    /// Where the block of a table entry lies: `state 3 bits | reserved 17 | offset in MiB 44`.
    fn block_at(&self, entry: u64) -> Result<u64, ImageError> {
        let offset = entry & !(MIB - 1);
        // A block behind the file's end is found out by the read; none may lie over the headers.
        match (entry & 7, offset) {
            (FULLY_PRESENT | PARTIALLY_PRESENT, MIB..) if offset < 1 << 62 => Ok(offset),
            _ => Err(self.corrupt(format!("the table entry {entry:#x}"))),
        }
    }

    fn corrupt(&self, detail: String) -> ImageError {
        self.file.file().corrupt(detail)
    }
}

impl Runs for Vhdx {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&Self> {
        self.parent.as_deref()
    }

    fn run_at(&self, at: u64, max: u64) -> Result<Run, ImageError> {
        let (first, skip, ratio) = (at / self.block, at % self.block, self.chunk_ratio());
        let wanted = (skip + max).div_ceil(self.block);
        // Not over the entry of a sector bitmap.
        let count = wanted.min(ratio - first % ratio).min(ENTRIES_AT_ONCE);
        let mut buf = [0; ENTRIES_AT_ONCE as usize * 8];
        let entries = &mut buf[..count as usize * 8];
        self.file.read_exact_at(self.table + (first + first / ratio) * 8, entries)?;
        let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let entry = entries.clone().take(1).sum();
        if let Some(place) = without_block(entry) {
            let alike = entries.take_while(|entry| without_block(*entry) == Some(place)).count();
            return Ok((place, (alike as u64 * self.block - skip).min(max)));
        }
        let (start, max) = (self.block_at(entry)?, (self.block - skip).min(max));
        match (entry & 7, &self.parent) {
            (FULLY_PRESENT, _) => Ok((Place::Stored(start + skip), max)),
            (_, Some(_)) => self.run_in_block(at, start, skip, max),
            (_, None) => Err(self.corrupt(format!("the table entry {entry:#x}"))),
        }
    }

    fn read_stored(&self, place: u64, part: &mut [u8]) -> Result<(), ImageError> {
        self.file.read_exact_at(place, part)
    }

    fn stored_part(&self, place: u64, len: u64) -> Result<Option<Range<u64>>, ImageError> {
        self.file.stored_part(place, len)
    }
}

/// What a block without a place is: not present and so the parent's; or undefined, zero or unmapped.
fn without_block(entry: u64) -> Option<Place> {
    match entry & 7 {
        0 => Some(Place::Absent),
        1..=3 => Some(Place::Zero),
        _ => None,
    }
}

/// Opens the disk below the one in `file` named `name`. Its content must be what it was when the difference was begun.
fn open_parent(
    chain: &mut Chain<'_>,
    name: &Path,
    file: &SourceFile,
    locator: &Locator,
) -> Result<Vhdx, ImageError> {
    let (path, below) = chain.open_parent(name, file, &locator.names)?;
    if format::detect(&below)? != Format::Vhdx {
        return Err(file.corrupt(format!("its parent {:?} is no VHDX", below.name())));
    }
    let parent = Vhdx::open_in(chain, &path, below)?;
    match locator.is_parent(&parent.data_id) {
        true => Ok(parent),
        false => {
            let other = parent.file.file().name();
            Err(file.corrupt(format!("{other:?} has changed since, or is not its parent")))
        }
    }
}

/// The regions that a disk consists of must not lie over its headers, nor behind the file's end.
fn within(file: &SourceFile, start: u64, len: u64, end: u64) -> Result<Range<u64>, ImageError> {
    let last = start.checked_add(len).filter(|last| start >= MIB && *last <= end);
    match last {
        Some(last) => Ok(start..last),
        None => Err(file.corrupt(format!("a region of {len} bytes at {start}"))),
    }
}
