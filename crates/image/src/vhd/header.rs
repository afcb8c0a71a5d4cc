use super::footer::{Footer, checksum};
use super::{MAX_BLOCK_BYTES, SECTOR};
use crate::ImageError;
use crate::chain::{MAX_PATH_CHARS, ParentNames};
use crate::endian::{be32, be64, utf16_be, utf16_le};
use crate::file::SourceFile;

const COOKIE: &[u8] = b"cxsparse";
const HEADER_BYTES: usize = 1024;
/// Paths of Windows, in UTF-16: relative and absolute.
const LOCATORS: [&[u8; 4]; 2] = [b"W2ru", b"W2ku"];

/// The header of a dynamic or differencing disk. Numbers are big-endian:
///
/// ```text
/// 0 "cxsparse" | 8 unused 8 | 16 table offset 8 | 24 version 4 | 28 entries 4 | 32 block size 4
/// 36 checksum 4 | 40 parent's id 16, time 4, zero 4, name 512 | 576 parent locators 8 * 24 | 768 zero 256
/// locator: code 4 | space 4 | length 4 | zero 4 | offset 8
/// ```
#[derive(Debug)]
pub(super) struct Header {
    /// Where the block table is.
    pub(super) table: u64,
    pub(super) block: u64,
    bytes: Vec<u8>,
}

impl Header {
    /// Reads the header at `at` of a disk of `size` bytes.
    pub(super) fn read(file: &SourceFile, at: u64, size: u64) -> Result<Self, ImageError> {
        let bytes = file.read_vec(at, HEADER_BYTES)?;
        if !bytes.starts_with(COOKIE) || be32(&bytes, 36) != checksum(&bytes, 36) {
            return Err(file.corrupt("its dynamic disk header is damaged".into()));
        }
        let (table, entries) = (be64(&bytes, 16), be32(&bytes, 28));
        let block = u64::from(be32(&bytes, 32));
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
        Ok(Self { table, block, bytes })
    }

    /// Bytes of the bitmap before each block.
    pub(super) fn bitmap(&self) -> u64 {
        (self.block / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// Whether `footer` is that of the parent. Its time is not compared: copying a file may change it.
    pub(super) fn is_parent(&self, footer: &Footer) -> bool {
        self.bytes[40..56] == footer.id
    }

    /// What the parent is called.
    pub(super) fn parent_names(&self, file: &SourceFile) -> Result<ParentNames, ImageError> {
        let mut names = ParentNames::default();
        for code in LOCATORS {
            let locators = self.bytes[576..768].as_chunks::<24>().0;
            for locator in locators.iter().filter(|locator| locator.starts_with(code)) {
                let (len, at) = (be32(locator, 8) as usize, be64(locator, 16));
                if len > 2 * MAX_PATH_CHARS {
                    return Err(file.corrupt(format!("a parent's name of {len} bytes")));
                }
                names.add(utf16_le(&file.read_vec(at, len)?));
            }
        }
        names.add(utf16_be(&self.bytes[64..576]));
        Ok(names)
    }
}
