use std::ops::Range;

use super::MIB;
use super::locator::Locator;
use super::region::guid;
use super::replayed::Replayed;
use crate::ImageError;
use crate::endian::{le16, le32, le64};

const TABLE_BYTES: usize = 64 << 10;
const MAX_ENTRIES: u16 = 2047;
const MAX_BLOCK: u64 = 256 * MIB;
const FILE_PARAMETERS: &str = "caa16737-fa36-4d43-b3b6-33f0aa44e76b";
const DISK_SIZE: &str = "2fa54224-cd1b-4876-b211-5dbed83bf4b8";
const DISK_ID: &str = "beca12ab-b2e6-4523-93ef-c309e000c746";
const LOGICAL_SECTOR: &str = "8141bf1d-a96f-4709-ba47-f233a8faab5f";
const PHYSICAL_SECTOR: &str = "cda348c7-445d-4471-9cc9-e9885251c556";
const PARENT: &str = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c";
/// Five values of Windows' longest path are not longer.
const MAX_LOCATOR_BYTES: u32 = 512 << 10;
const HAS_PARENT: u32 = 1 << 1;
const REQUIRED: u32 = 1 << 2;

/// What a disk says about itself (section 2.6), checked.
pub(super) struct Metadata {
    pub(super) size: u64,
    pub(super) block: u64,
    /// Bytes of a logical sector: 512 or 4096.
    pub(super) sector: u32,
    /// Of a differencing disk.
    pub(super) parent: Option<Locator>,
}

impl Metadata {
    /// Reads the table at the region's start and what it points to within the region:
    ///
    /// ```text
    /// 0 "metadata" | 10 entries 2 | 32 entry: id 16, offset 4, length 4, flags 4, reserved 4
    /// ```
    pub(super) fn read(file: &Replayed, region: &Range<u64>) -> Result<Self, ImageError> {
        let bytes = file.read_vec(region.start, TABLE_BYTES)?;
        let count = le16(&bytes, 10);
        let source = file.file();
        if !bytes.starts_with(b"metadata") || count > MAX_ENTRIES {
            return Err(source.corrupt("its metadata table is damaged".into()));
        }
        let (mut size, mut parameters, mut sector, mut parent) = (None, None, None, None);
        for entry in bytes[32..].as_chunks::<32>().0.iter().take(usize::from(count)) {
            let item = Item { file, region, offset: le32(entry, 16), len: le32(entry, 20) };
            match guid(entry).as_str() {
                DISK_SIZE => size = Some(le64(&item.start()?, 0)),
                FILE_PARAMETERS => parameters = Some(item.start()?),
                LOGICAL_SECTOR => sector = Some(le32(&item.start()?, 0)),
                PARENT => parent = Some(Locator::parse(source, &item.read(MAX_LOCATOR_BYTES)?)?),
                DISK_ID | PHYSICAL_SECTOR => {}
                other if le32(entry, 24) & REQUIRED != 0 => {
                    let what = format!("it needs the metadata {other}, which is not known");
                    return Err(ImageError::unsupported(source.name(), what));
                }
                _ => {}
            }
        }
        let (Some(size), Some(parameters), Some(sector)) = (size, parameters, sector) else {
            return Err(source.corrupt("its metadata lacks a size".into()));
        };
        let block = u64::from(le32(&parameters, 0));
        let blocks = MIB..=MAX_BLOCK;
        if !block.is_power_of_two() || !blocks.contains(&block) || ![512, 4096].contains(&sector) {
            return Err(source.corrupt(format!("blocks of {block} bytes, sectors of {sector}")));
        }
        let parent = match (le32(&parameters, 4) & HAS_PARENT != 0, parent) {
            (false, _) => None,
            (true, Some(parent)) => Some(parent),
            (true, None) => {
                return Err(source.corrupt("it is a difference and names no parent".into()));
            }
        };
        Ok(Self { size, block, sector, parent })
    }
}

/// A piece of metadata by its place in the region.
struct Item<'a> {
    file: &'a Replayed,
    region: &'a Range<u64>,
    offset: u32,
    len: u32,
}

impl Item<'_> {
    /// Its first 8 bytes, fewer filled up with zeros.
    fn start(&self) -> Result<[u8; 8], ImageError> {
        let mut bytes = [0; 8];
        let first = Self { len: self.len.min(8), ..*self }.read(8)?;
        bytes[..first.len()].copy_from_slice(&first);
        Ok(bytes)
    }

    /// All of it, if that is at most `max` bytes.
    fn read(&self, max: u32) -> Result<Vec<u8>, ImageError> {
        let Self { offset, len, .. } = *self;
        let start = self.region.start + u64::from(offset);
        let within = start + u64::from(len) <= self.region.end && offset as usize >= TABLE_BYTES;
        if !within || !(4..=max).contains(&len) {
            let detail = format!("a metadata item of {len} bytes at {offset}");
            return Err(self.file.file().corrupt(detail));
        }
        self.file.read_vec(start, len as usize)
    }
}
