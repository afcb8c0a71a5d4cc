use std::ops::Range;

use super::region::guid;
use super::within;
use crate::ImageError;
use crate::endian::{le16, le32, le64};
use crate::file::SourceFile;

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;

/// The header that counts (section 2.2): of those that are whole the one written last.
///
/// ```text
/// 0 "head" | 4 CRC-32C 4 | 8 sequence 8 | 16 ids of the last writes to file and data 16+16 | 48 log's id 16
/// 64 versions of log and file 2+2 | 68 log 4+8
/// ```
pub(super) struct Header {
    /// Another whenever the disk's content is: what a difference knows its parent by.
    pub(super) data_id: String,
    /// Where there is something to replay.
    pub(super) log: Option<LogPlace>,
}

pub(super) struct LogPlace {
    pub(super) id: [u8; 16],
    pub(super) range: Range<u64>,
}

impl Header {
    pub(super) fn read(file: &SourceFile) -> Result<Self, ImageError> {
        let mut current: Option<Vec<u8>> = None;
        for at in HEADERS {
            let bytes = file.read_vec(at, HEADER_BYTES)?;
            let newer = current.as_ref().is_none_or(|other| le64(&bytes, 8) > le64(other, 8));
            if newer && is_whole(&bytes, b"head") {
                current = Some(bytes);
            }
        }
        let bytes =
            current.ok_or_else(|| file.corrupt("both of its headers are damaged".into()))?;
        if le16(&bytes, 66) != 1 {
            return Err(ImageError::unsupported(file.name(), "it is a VHDX of another version"));
        }
        let log = LogPlace::of(file, &bytes)?;
        Ok(Self { data_id: guid(&bytes[32..48]), log })
    }
}

impl LogPlace {
    fn of(file: &SourceFile, header: &[u8]) -> Result<Option<Self>, ImageError> {
        let id: [u8; 16] = header[48..64].first_chunk().copied().unwrap_or_default();
        if id == [0; 16] {
            return Ok(None);
        }
        if le16(header, 64) != 0 {
            return Err(ImageError::unsupported(file.name(), "its log is of another version"));
        }
        let range = within(file, le64(header, 72), u64::from(le32(header, 68)), file.len())?;
        Ok(Some(Self { id, range }))
    }
}

/// Whether `bytes` start with `signature` and a CRC-32C of all of them, its own four counted as zeros.
pub(super) fn is_whole(bytes: &[u8], signature: &[u8; 4]) -> bool {
    let [start @ .., _, _, _, _] = &bytes[..8] else { return false };
    let sum = crc32c::crc32c_append(crc32c::crc32c(start), &[0; 4]);
    bytes.starts_with(signature) && le32(bytes, 4) == crc32c::crc32c_append(sum, &bytes[8..])
}
