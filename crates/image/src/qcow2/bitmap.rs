use std::ops::Range;

use super::header::Header;
use crate::ImageError;
use crate::endian::{be16, be32, be64};
use crate::file::SourceFile;

const MAX_BITMAPS: u32 = 65_535;
/// A directory of that many with the longest names is 67 MiB; QEMU's limit is 1 MiB too.
const MAX_DIRECTORY_BYTES: u64 = 1 << 20;
/// 16 MiB of ranges. Changes that are in more pieces are nearly all of the disk.
const MAX_RANGES: usize = 1 << 20;
/// 8 MiB of table: a disk of 64 TiB in granules of 64 KiB has 2048 entries.
const MAX_TABLE_ENTRIES: u64 = 1 << 20;
const IN_USE: u32 = 1;
const DIRTY_TRACKING: u8 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Where a file's bitmaps are (docs/interop/qcow2.txt, "Bitmaps extension").
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    count: u32,
    bytes: u64,
    offset: u64,
}

impl Directory {
    /// ```text
    /// 0 bitmaps 4 | 4 zero 4 | 8 directory's size 8 | 16 its offset 8
    /// ```
    pub(super) fn parse(extension: &[u8]) -> Self {
        Self { count: be32(extension, 0), bytes: be64(extension, 8), offset: be64(extension, 16) }
    }

    /// The ranges of the disk that the bitmap `name` marks, in order, none touching another.
    pub(super) fn ranges(
        &self,
        file: &SourceFile,
        header: &Header,
        name: &str,
    ) -> Result<Vec<Range<u64>>, ImageError> {
        let bitmap = self.find(file, name)?;
        if bitmap.flags & IN_USE != 0 {
            let what = format!("its bitmap {name:?} is in use, or was not closed");
            return Err(ImageError::unsupported(file.name(), what));
        }
        bitmap.ranges(file, header)
    }

    /// Entries of the directory, each filled up to 8 bytes:
    ///
    /// ```text
    /// 0 table offset 8 | 8 entries 4 | 12 flags 4 | 16 type 1 | 17 granularity 1 | 18 name's length 2
    /// 20 extra data's length 4 | extra data | name
    /// ```
    fn find(&self, file: &SourceFile, name: &str) -> Result<Bitmap, ImageError> {
        if self.count > MAX_BITMAPS || self.bytes > MAX_DIRECTORY_BYTES {
            return Err(file.corrupt(format!("{} bitmaps", self.count)));
        }
        let bytes = file.read_vec(self.offset, self.bytes as usize)?;
        let mut rest = bytes.as_slice();
        for _ in 0..self.count {
            let bad = || file.corrupt("its directory of bitmaps is damaged".into());
            let (named, extra) = (usize::from(be16(rest, 18)), be32(rest, 20) as usize);
            let end = extra.checked_add(24 + named).ok_or_else(bad)?;
            let found = rest.get(24 + extra..end).ok_or_else(bad)?;
            if found == name.as_bytes() {
                if rest[16] != DIRTY_TRACKING || extra != 0 {
                    let what = format!("its bitmap {name:?} is of an unknown kind");
                    return Err(ImageError::unsupported(file.name(), what));
                }
                return Ok(Bitmap {
                    table: be64(rest, 0),
                    entries: u64::from(be32(rest, 8)),
                    flags: be32(rest, 12),
                    granularity: u32::from(rest[17]),
                });
            }
            rest = rest.get(end.next_multiple_of(8)..).unwrap_or_default();
        }
        Err(ImageError::NotFound { file: format!("the bitmap {name:?} of {}", file.name()) })
    }
}

struct Bitmap {
    table: u64,
    entries: u64,
    flags: u32,
    /// Bytes that a bit stands for, as a power of two.
    granularity: u32,
}

impl Bitmap {
    fn ranges(&self, file: &SourceFile, header: &Header) -> Result<Vec<Range<u64>>, ImageError> {
        let cluster = header.cluster_bytes();
        let bad = |what: &str| file.corrupt(format!("a bitmap with {what}"));
        if !(9..=31).contains(&self.granularity) {
            return Err(bad("an impossible granularity"));
        }
        // Bytes of the disk that one cluster of bits stands for.
        let reach = (cluster * 8) << self.granularity;
        let needed = header.size.div_ceil(reach);
        if needed > self.entries || needed > MAX_TABLE_ENTRIES {
            return Err(bad("too short a table"));
        }
        let table = file.read_vec(self.table, needed as usize * 8)?;
        let mut ranges = Ranges { all: Vec::new(), end: header.size };
        let mut bits = vec![0; cluster as usize];
        for (number, entry) in table.as_chunks::<8>().0.iter().enumerate() {
            let (start, entry) = (number as u64 * reach, u64::from_be_bytes(*entry));
            match entry & OFFSET_MASK {
                0 if entry & 1 != 0 => ranges.add(start..start + reach),
                0 => {}
                at if at.is_multiple_of(cluster) => {
                    file.read_exact_at(at, &mut bits)?;
                    self.add_bits(start, &bits, &mut ranges);
                }
                _ => return Err(bad("a cluster that is none")),
            }
            if ranges.all.len() > MAX_RANGES {
                let what = format!("its bitmap has more than {MAX_RANGES} ranges");
                return Err(ImageError::unsupported(file.name(), what));
            }
        }
        Ok(ranges.all)
    }

    fn add_bits(&self, start: u64, bits: &[u8], ranges: &mut Ranges) {
        let at = |bit: u64| start + (bit << self.granularity);
        for (number, byte) in bits.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            let first = number as u64 * 8;
            if *byte == u8::MAX {
                ranges.add(at(first)..at(first + 8));
                continue;
            }
            for bit in (first..first + 8).filter(|bit| byte >> (bit % 8) & 1 == 1) {
                ranges.add(at(bit)..at(bit + 1));
            }
        }
    }
}

/// Ranges in order; what touches becomes one.
struct Ranges {
    all: Vec<Range<u64>>,
    end: u64,
}

impl Ranges {
    fn add(&mut self, range: Range<u64>) {
        let range = range.start..range.end.min(self.end);
        match self.all.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.all.push(range),
        }
    }
}
