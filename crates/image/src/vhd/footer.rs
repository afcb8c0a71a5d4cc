use crate::ImageError;
use crate::endian::{be32, be64};
use crate::file::SourceFile;

/// What a footer starts with, and a dynamic disk with its copy of it.
pub(crate) const COOKIE: &[u8] = b"conectix";
pub(super) const FOOTER_BYTES: usize = 512;

/// The last sector of every VHD. Numbers are big-endian:
///
/// ```text
/// 0 "conectix" | 8 features 4 | 12 version 4 | 16 header offset 8 | 24 time 4 | 28 creator 4+4+4
/// 40 original size 8 | 48 size 8 | 56 geometry 4 | 60 type 4 | 64 checksum 4 | 68 id 16 | 84 saved state 1
/// ```
///
/// The size is taken as it is: the geometry, which Virtual PC goes by, never holds more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) size: u64,
    pub(super) kind: Kind,
    pub(super) id: [u8; 16],
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic { header: u64, has_parent: bool },
}

impl Footer {
    /// The footer at the file's end. A file that was cut short ends with something else.
    pub(super) fn read_last(file: &SourceFile) -> Result<Self, ImageError> {
        let at = file.len().checked_sub(FOOTER_BYTES as u64);
        let at = at.ok_or_else(|| file.corrupt("it ends within its footer".into()))?;
        Self::read(file, at)
    }

    pub(super) fn read(file: &SourceFile, at: u64) -> Result<Self, ImageError> {
        let bytes = file.read_vec(at, FOOTER_BYTES)?;
        if !is_footer(&bytes) {
            return Err(file.corrupt(format!("no footer at {at}: it was cut short or damaged")));
        }
        if be32(&bytes, 12) >> 16 != 1 {
            return Err(ImageError::unsupported(file.name(), "it is a VHD of another version"));
        }
        let kind = match be32(&bytes, 60) {
            2 => Kind::Fixed,
            kind @ (3 | 4) => Kind::Dynamic { header: be64(&bytes, 16), has_parent: kind == 4 },
            other => return Err(file.corrupt(format!("a VHD of type {other}"))),
        };
        let id = bytes[68..].first_chunk().copied().unwrap_or_default();
        Ok(Self { size: be64(&bytes, 48), kind, id })
    }
}

/// Whether `file` ends with the footer of a fixed disk.
pub(crate) fn has_fixed_footer(file: &SourceFile) -> Result<bool, ImageError> {
    let Some(at) = file.len().checked_sub(FOOTER_BYTES as u64) else { return Ok(false) };
    let bytes = file.read_vec(at, FOOTER_BYTES)?;
    Ok(is_footer(&bytes) && be32(&bytes, 60) == 2)
}

fn is_footer(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE) && be32(bytes, 64) == checksum(bytes, 64)
}

/// The complement of the sum of all bytes but the checksum's own four.
pub(super) fn checksum(bytes: &[u8], own: usize) -> u32 {
    let others = bytes.iter().enumerate().filter(|(at, _)| !(own..own + 4).contains(at));
    !others.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}
