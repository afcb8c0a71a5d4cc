//! VHD: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006).

mod footer;

use std::ops::Range;

use crate::ImageError;
use crate::endian::{be32, be64};
use crate::folder::SourceFile;
use crate::image::MAX_IMAGE_BYTES;
use crate::runs::{self, Run};
use footer::{FOOTER_BYTES, Footer, Kind, checksum};

pub(crate) use footer::{COOKIE, has_fixed_footer};

const SECTOR: u64 = 512;
const DYNAMIC_COOKIE: &[u8] = b"cxsparse";
const DYNAMIC_BYTES: usize = 1024;
const UNUSED: u32 = u32::MAX;
/// 128 times the usual 2 MiB.
const MAX_BLOCK_BYTES: u64 = 256 << 20;
/// Table entries, or bytes of a block's bitmap, looked at at once.
const AT_ONCE: u64 = 512;

/// A disk without a parent. The block allocation table and the bitmaps are read as they are needed, a few
/// entries at a time from the page cache.
#[derive(Debug)]
pub(crate) struct Vhd {
    file: SourceFile,
    size: u64,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// The disk from the file's first byte, then the footer.
    Fixed,
    /// `footer | header | table`, then blocks, each behind a bitmap of its sectors, then the footer again.
    Dynamic { table: u64, block: u64, bitmap: u64 },
}

impl Vhd {
    pub(crate) fn open(file: SourceFile) -> Result<Self, ImageError> {
        let footer = Footer::read_last(&file)?;
        if footer.size > MAX_IMAGE_BYTES {
            let what = format!("a disk of {} bytes", footer.size);
            return Err(ImageError::unsupported(file.name(), what));
        }
        let layout = match footer.kind {
            Kind::Fixed if footer.size > file.len() - FOOTER_BYTES as u64 => {
                let detail = format!("it holds less than the {} bytes it says", footer.size);
                return Err(file.corrupt(detail));
            }
            Kind::Fixed => Layout::Fixed,
            Kind::Dynamic { header } => {
                if Footer::read(&file, 0)? != footer {
                    return Err(file.corrupt("its footer is not the one it starts with".into()));
                }
                dynamic(&file, header, footer.size)?
            }
        };
        Ok(Self { file, size: footer.size, layout })
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
        let Layout::Dynamic { table, block, bitmap } = self.layout else {
            return Ok((Some(at), max));
        };
        let (first, skip) = (at / block, at % block);
        let wanted = (skip + max).div_ceil(block).min(AT_ONCE);
        let mut buf = [0; AT_ONCE as usize * 4];
        let entries = &mut buf[..wanted as usize * 4];
        self.file.read_exact_at(table + first * 4, entries)?;
        let entries = entries.as_chunks::<4>().0.iter().map(|entry| u32::from_be_bytes(*entry));
        let unused = entries.clone().take_while(|entry| *entry == UNUSED).count() as u64;
        if unused > 0 {
            return Ok((None, (unused * block - skip).min(max)));
        }
        let start = entries.take(1).map(|entry| u64::from(entry) * SECTOR).sum();
        self.run_in_block(start, start + bitmap, skip, max.min(block - skip))
    }

    /// The run at byte `skip` of the block whose bitmap is at `bitmap` and whose bytes are at `data`. A sector
    /// without its bit was never written.
    fn run_in_block(&self, bitmap: u64, data: u64, skip: u64, max: u64) -> Result<Run, ImageError> {
        let first = skip / SECTOR;
        let wanted = (skip % SECTOR + max).div_ceil(SECTOR);
        let from = first / 8;
        let count = ((first + wanted).div_ceil(8) - from).min(AT_ONCE);
        let mut buf = [0; AT_ONCE as usize];
        let bits = &mut buf[..count as usize];
        self.file.read_exact_at(bitmap + from, bits)?;
        let bit = |sector: u64| bits[(sector / 8 - from) as usize] >> (7 - sector % 8) & 1;
        let last = (first + wanted).min((from + count) * 8);
        let kind = bit(first);
        let sectors = (first..last).take_while(|sector| bit(*sector) == kind).count() as u64;
        let len = (sectors * SECTOR - skip % SECTOR).min(max);
        Ok(((kind == 1).then_some(data + skip), len))
    }
}

/// Reads the header of a dynamic disk. Numbers are big-endian:
///
/// ```text
/// 0 "cxsparse" | 8 unused 8 | 16 table offset 8 | 24 version 4 | 28 entries 4 | 32 block size 4
/// 36 checksum 4 | 40 parent 16+4+4+512 | 576 parent locators 8 * 24 | 768 zero 256
/// ```
fn dynamic(file: &SourceFile, header: u64, size: u64) -> Result<Layout, ImageError> {
    let bytes = file.read_vec(header, DYNAMIC_BYTES)?;
    if !bytes.starts_with(DYNAMIC_COOKIE) || be32(&bytes, 36) != checksum(&bytes, 36) {
        return Err(file.corrupt("its dynamic disk header is damaged".into()));
    }
    let (table, entries, block) = (be64(&bytes, 16), be32(&bytes, 28), u64::from(be32(&bytes, 32)));
    if !block.is_power_of_two() || !(SECTOR..=MAX_BLOCK_BYTES).contains(&block) {
        return Err(file.corrupt(format!("blocks of {block} bytes")));
    }
    let needed = size.div_ceil(block);
    if needed > u64::from(entries) {
        return Err(file.corrupt(format!("its table has {entries} entries and not {needed}")));
    }
    if table.checked_add(needed * 4).is_none_or(|end| end > file.len()) {
        return Err(file.corrupt("its table lies behind its end".into()));
    }
    let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    Ok(Layout::Dynamic { table, block, bitmap })
}
