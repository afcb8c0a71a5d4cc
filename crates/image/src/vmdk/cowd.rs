use super::sparse::Header;
use crate::ImageError;
use crate::endian::le32;
use crate::file::SourceFile;

/// `COWD`: an ESXi sparse extent, "COWDisk_Header" of the specification.
pub(super) const COWD_MAGIC: &[u8; 4] = b"COWD";
const HEADER_BYTES: usize = 2048;
const TABLE_ENTRIES: u64 = 4096;
/// 2 MiB. ESXi uses one sector.
const MAX_GRAIN_SECTORS: u64 = 4096;

/// Reads the header as that of a hosted sparse extent without its features. Numbers are sectors and
/// little-endian:
///
/// ```text
/// 0 magic 4 | 4 version 4 | 8 flags 4 | 12 capacity 4 | 16 grain size 4 | 20 directory 4
/// 24 directory entries 4 | 28 next free 4 | 32 geometry 12, or the parent's name 1024 ...
/// ```
pub(super) fn read_header(file: &SourceFile) -> Result<Header, ImageError> {
    let bytes = file.read_vec(0, HEADER_BYTES)?;
    if !bytes.starts_with(COWD_MAGIC) {
        return Err(file.corrupt("no header of a VMFS sparse extent".into()));
    }
    let version = le32(&bytes, 4);
    if version != 1 {
        let what = format!("it is a VMFS sparse extent of version {version}");
        return Err(ImageError::unsupported(file.name(), what));
    }
    let (capacity, grain) = (u64::from(le32(&bytes, 12)), u64::from(le32(&bytes, 16)));
    if capacity == 0 || !grain.is_power_of_two() || grain > MAX_GRAIN_SECTORS {
        return Err(file.corrupt("its header has impossible sizes".into()));
    }
    let entries = u64::from(le32(&bytes, 24));
    if entries < capacity.div_ceil(grain * TABLE_ENTRIES) {
        return Err(file.corrupt(format!("its directory has {entries} entries")));
    }
    Ok(Header::plain(capacity, grain, TABLE_ENTRIES, u64::from(le32(&bytes, 20))))
}
