use crate::ImageError;
use crate::endian::{le16, le32, le64};
use crate::folder::SourceFile;

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;

/// Checks the header that counts (section 2.2): of those that are whole the one written last.
///
/// ```text
/// 0 "head" | 4 CRC-32C 4 | 8 sequence 8 | 16 ids 16+16 | 48 log's id 16 | 64 versions 2+2 | 68 log 4+8
/// ```
pub(super) fn check(file: &SourceFile) -> Result<(), ImageError> {
    let mut current: Option<Vec<u8>> = None;
    for at in HEADERS {
        let bytes = file.read_vec(at, HEADER_BYTES)?;
        let newer = current.as_ref().is_none_or(|other| le64(&bytes, 8) > le64(other, 8));
        if newer && is_whole(&bytes, b"head") {
            current = Some(bytes);
        }
    }
    let header = current.ok_or_else(|| file.corrupt("both of its headers are damaged".into()))?;
    if le16(&header, 66) != 1 {
        return Err(ImageError::unsupported(file.name(), "it is a VHDX of another version"));
    }
    if header[48..64].iter().any(|byte| *byte != 0) {
        let what = "its log is not empty: it was not closed, or is in use. Open it once with its \
                    hypervisor (or `qemu-img check -r all`), which replays the log";
        return Err(ImageError::unsupported(file.name(), what));
    }
    Ok(())
}

/// Whether `bytes` start with `signature` and a CRC-32C of all of them, its own four counted as zeros.
pub(super) fn is_whole(bytes: &[u8], signature: &[u8; 4]) -> bool {
    let [start @ .., _, _, _, _] = &bytes[..8] else { return false };
    let sum = crc32c::crc32c_append(crc32c::crc32c(start), &[0; 4]);
    bytes.starts_with(signature) && le32(bytes, 4) == crc32c::crc32c_append(sum, &bytes[8..])
}
