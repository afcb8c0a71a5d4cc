//! VHDX: Virtual Hard Disk v2, [MS-VHDX].

mod header;
mod metadata;
mod region;

use std::ops::Range;

use crate::ImageError;
use crate::folder::SourceFile;
use crate::image::MAX_IMAGE_BYTES;
use crate::runs::{self, Run};

/// The file type identifier, section 2.1.
pub(crate) const SIGNATURE: &[u8] = b"vhdxfile";
const MIB: u64 = 1 << 20;
/// Entries looked at at once.
const ENTRIES_AT_ONCE: u64 = 512;

/// A disk without a parent, whose log is empty. The block allocation table (section 2.5) is read as it is
/// needed, a few entries at a time from the page cache:
///
/// ```text
/// 0 identifier | 64K, 128K headers | 192K, 256K region tables | 1M log, table, metadata, blocks
/// table: chunk ratio entries of blocks, one of a sector bitmap, and so on
/// ```
#[derive(Debug)]
pub(crate) struct Vhdx {
    file: SourceFile,
    size: u64,
    table: u64,
    block: u64,
    chunk_ratio: u64,
}

impl Vhdx {
    pub(crate) fn open(file: SourceFile) -> Result<Self, ImageError> {
        header::check(&file)?;
        let regions = region::Regions::read(&file)?;
        let metadata = metadata::Metadata::read(&file, &regions.metadata)?;
        let (size, block) = (metadata.size, metadata.block);
        if size > MAX_IMAGE_BYTES {
            let what = format!("a disk of {size} bytes");
            return Err(ImageError::unsupported(file.name(), what));
        }
        let chunk_ratio = (u64::from(metadata.sector) << 23) / block;
        let blocks = size.div_ceil(block);
        let entries = blocks + blocks.saturating_sub(1) / chunk_ratio;
        let table = regions.table;
        if entries * 8 > table.end - table.start {
            return Err(file.corrupt(format!("its table has less than {entries} entries")));
        }
        Ok(Self { file, size, table: table.start, block, chunk_ratio })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        runs::read(&self.file, offset, buf, |at, max| self.run_at(at, max))
    }

    pub(crate) fn next_data(
        &self,
        from: u64,
        until: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        runs::next_data(&self.file, from, until.min(self.size), |at, max| self.run_at(at, max))
    }

    pub(crate) fn check_unchanged(&self) -> Result<(), ImageError> {
        self.file.check_unchanged()
    }

    fn run_at(&self, at: u64, max: u64) -> Result<Run, ImageError> {
        let (first, skip) = (at / self.block, at % self.block);
        let wanted = (skip + max).div_ceil(self.block);
        // Not over the entry of a sector bitmap.
        let count = wanted.min(self.chunk_ratio - first % self.chunk_ratio).min(ENTRIES_AT_ONCE);
        let mut buf = [0; ENTRIES_AT_ONCE as usize * 8];
        let entries = &mut buf[..count as usize * 8];
        self.file.read_exact_at(self.table + (first + first / self.chunk_ratio) * 8, entries)?;
        let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let absent = entries.clone().take_while(|entry| is_absent(*entry)).count() as u64;
        if absent > 0 {
            return Ok((None, (absent * self.block - skip).min(max)));
        }
        let start = self.block_at(entries.take(1).sum())?;
        Ok((Some(start + skip), (self.block - skip).min(max)))
    }

    /// Where the block of a table entry lies: `state 3 bits | reserved 17 | offset in MiB 44`.
    fn block_at(&self, entry: u64) -> Result<u64, ImageError> {
        let offset = entry & !(MIB - 1);
        // A block behind the file's end is found out by the read; none may lie over the headers.
        match (entry & 7, offset) {
            (6, MIB..) if offset < 1 << 62 => Ok(offset),
            _ => Err(self.file.corrupt(format!("the table entry {entry:#x}"))),
        }
    }
}

/// Not present, undefined, zero or unmapped: without a parent all read as zeros.
fn is_absent(entry: u64) -> bool {
    entry & 7 <= 3
}

/// The regions that a disk consists of must not lie over its headers, nor behind the file's end.
fn within(file: &SourceFile, start: u64, len: u64) -> Result<Range<u64>, ImageError> {
    let end = start.checked_add(len).filter(|end| start >= MIB && *end <= file.len());
    match end {
        Some(end) => Ok(start..end),
        None => Err(file.corrupt(format!("a region of {len} bytes at {start}"))),
    }
}
