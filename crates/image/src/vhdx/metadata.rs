use std::ops::Range;

use super::MIB;
use super::region::guid;
use crate::ImageError;
use crate::endian::{le16, le32, le64};
use crate::folder::SourceFile;

const TABLE_BYTES: usize = 64 << 10;
const MAX_ENTRIES: u16 = 2047;
const MAX_BLOCK: u64 = 256 * MIB;
const FILE_PARAMETERS: &str = "caa16737-fa36-4d43-b3b6-33f0aa44e76b";
const DISK_SIZE: &str = "2fa54224-cd1b-4876-b211-5dbed83bf4b8";
const DISK_ID: &str = "beca12ab-b2e6-4523-93ef-c309e000c746";
const LOGICAL_SECTOR: &str = "8141bf1d-a96f-4709-ba47-f233a8faab5f";
const PHYSICAL_SECTOR: &str = "cda348c7-445d-4471-9cc9-e9885251c556";
const HAS_PARENT: u32 = 1 << 1;
const REQUIRED: u32 = 1 << 2;

/// What a disk says about itself (section 2.6), checked.
pub(super) struct Metadata {
    pub(super) size: u64,
    pub(super) block: u64,
    /// Bytes of a logical sector: 512 or 4096.
    pub(super) sector: u32,
}

impl Metadata {
    /// Reads the table at the region's start and what it points to within the region:
    ///
    /// ```text
    /// 0 "metadata" | 10 entries 2 | 32 entry: id 16, offset 4, length 4, flags 4, reserved 4
    /// ```
    pub(super) fn read(file: &SourceFile, region: &Range<u64>) -> Result<Self, ImageError> {
        let bytes = file.read_vec(region.start, TABLE_BYTES)?;
        let count = le16(&bytes, 10);
        if !bytes.starts_with(b"metadata") || count > MAX_ENTRIES {
            return Err(file.corrupt("its metadata table is damaged".into()));
        }
        let (mut size, mut parameters, mut sector) = (None, None, None);
        for entry in bytes[32..].as_chunks::<32>().0.iter().take(usize::from(count)) {
            let item = || item(file, region, le32(entry, 16), le32(entry, 20));
            match guid(entry).as_str() {
                DISK_SIZE => size = Some(le64(&item()?, 0)),
                FILE_PARAMETERS => parameters = Some(item()?),
                LOGICAL_SECTOR => sector = Some(le32(&item()?, 0)),
                DISK_ID | PHYSICAL_SECTOR => {}
                other if le32(entry, 24) & REQUIRED != 0 && !has_parent(&parameters) => {
                    let what = format!("it needs the metadata {other}, which is not known");
                    return Err(ImageError::unsupported(file.name(), what));
                }
                _ => {}
            }
        }
        if has_parent(&parameters) {
            let what = "it is a differencing disk; merge it into its parent, or convert it";
            return Err(ImageError::unsupported(file.name(), what));
        }
        let (Some(size), Some(parameters), Some(sector)) = (size, parameters, sector) else {
            return Err(file.corrupt("its metadata lacks a size".into()));
        };
        let block = u64::from(le32(&parameters, 0));
        let blocks = MIB..=MAX_BLOCK;
        if !block.is_power_of_two() || !blocks.contains(&block) || ![512, 4096].contains(&sector) {
            return Err(file.corrupt(format!("blocks of {block} bytes, sectors of {sector}")));
        }
        Ok(Self { size, block, sector })
    }
}

fn has_parent(parameters: &Option<[u8; 8]>) -> bool {
    parameters.is_some_and(|bytes| le32(&bytes, 4) & HAS_PARENT != 0)
}

/// The first 8 bytes of an item of `len` bytes, fewer filled up with zeros.
fn item(
    file: &SourceFile,
    region: &Range<u64>,
    offset: u32,
    len: u32,
) -> Result<[u8; 8], ImageError> {
    let start = region.start + u64::from(offset);
    let len = len.min(8);
    if (offset as usize) < TABLE_BYTES || len < 4 || start + u64::from(len) > region.end {
        return Err(file.corrupt(format!("a metadata item of {len} bytes at {offset}")));
    }
    let mut bytes = [0; 8];
    file.read_exact_at(start, &mut bytes[..len as usize])?;
    Ok(bytes)
}
