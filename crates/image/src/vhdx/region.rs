use std::ops::Range;

use super::replayed::Replayed;
use super::{header, within};
use crate::ImageError;
use crate::endian::{le32, le64};

const TABLES: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_BYTES: usize = 64 << 10;
const MAX_ENTRIES: u32 = 2047;
const BLOCK_TABLE: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";
const METADATA: &str = "8b7ca206-4790-4b9a-b8fe-575f050f886e";

/// Where a disk's parts lie (section 2.3).
pub(super) struct Regions {
    pub(super) table: Range<u64>,
    pub(super) metadata: Range<u64>,
}

impl Regions {
    /// Reads the first region table that is whole:
    ///
    /// ```text
    /// 0 "regi" | 4 CRC-32C 4 | 8 entries 4 | 16 entry: id 16, offset 8, length 4, required 4
    /// ```
    pub(super) fn read(file: &Replayed) -> Result<Self, ImageError> {
        for at in TABLES {
            let bytes = file.read_vec(at, TABLE_BYTES)?;
            if header::is_whole(&bytes, b"regi") {
                return Self::parse(file, &bytes);
            }
        }
        Err(file.file().corrupt("both of its region tables are damaged".into()))
    }

    fn parse(file: &Replayed, bytes: &[u8]) -> Result<Self, ImageError> {
        let count = le32(bytes, 8);
        if count > MAX_ENTRIES {
            return Err(file.file().corrupt(format!("{count} regions")));
        }
        let (mut table, mut metadata) = (None, None);
        for entry in bytes[16..].as_chunks::<32>().0.iter().take(count as usize) {
            let place =
                || within(file.file(), le64(entry, 16), u64::from(le32(entry, 24)), file.len());
            match guid(entry).as_str() {
                BLOCK_TABLE => table = Some(place()?),
                METADATA => metadata = Some(place()?),
                other if le32(entry, 28) & 1 != 0 => {
                    let what = format!("it needs the region {other}, which is not known");
                    return Err(ImageError::unsupported(file.file().name(), what));
                }
                _ => {}
            }
        }
        match (table, metadata) {
            (Some(table), Some(metadata)) => Ok(Self { table, metadata }),
            _ => Err(file.file().corrupt("it has no block table or no metadata".into())),
        }
    }
}

/// The first 16 bytes as a GUID is written: its first three groups are little-endian.
pub(super) fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (number, at) in order.iter().enumerate() {
        if [4, 6, 8, 10].contains(&number) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes.get(*at).copied().unwrap_or(0)));
    }
    text
}
