//! The members of a tar file (POSIX.1-2017, pax), by where they lie in it: nothing is unpacked.

use std::path::{Component, Path, PathBuf};

use crate::ImageError;
use crate::file::SourceFile;

const BLOCK: u64 = 512;
/// An OVA has a descriptor, its checksums and signature, disks, nvram and some ISO images.
const MAX_MEMBERS: usize = 1024;
/// Headers of all kinds, so that a file of nothing else ends.
const MAX_HEADERS: usize = 4 * MAX_MEMBERS;
const MAX_NAME_BYTES: u64 = 4096;

/// A regular file in a tar file.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: PathBuf,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// What a header before a member says of it.
#[derive(Default)]
struct Override {
    name: Option<String>,
    len: Option<u64>,
}

/// Lists the regular files in `file`. Directories are left out; a link, which could lead anywhere, is too.
pub(crate) fn members(file: &SourceFile) -> Result<Vec<Member>, ImageError> {
    let mut members: Vec<Member> = Vec::new();
    let mut told = Override::default();
    let mut at = 0;
    for _ in 0..MAX_HEADERS {
        let header = file.read_vec(at, BLOCK as usize)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(members);
        }
        let bad = |what: &str| file.corrupt(format!("its tar header at {at} has {what}"));
        if checksum(&header) != number(&header[148..156]) {
            return Err(bad("a wrong checksum"));
        }
        let own_len = number(&header[124..136]).ok_or_else(|| bad("no size"))?;
        let kind = header[156];
        let extends = matches!(kind, b'x' | b'g' | b'L' | b'K');
        let len = if extends { own_len } else { told.len.unwrap_or(own_len) };
        let start = at + BLOCK;
        let end = start.checked_add(len).filter(|end| *end <= file.len());
        let end = end.ok_or_else(|| bad("a member that ends behind the file"))?;
        match kind {
            b'L' => told.name = Some(text(&file.read_vec(start, bounded(len, &bad)?)?)),
            b'x' => told.read_pax(&file.read_vec(start, bounded(len, &bad)?)?),
            b'0' | 0 => {
                let name = told.name.take().unwrap_or_else(|| header_name(&header));
                let name = plain(Path::new(&name));
                if members.len() == MAX_MEMBERS || members.iter().any(|other| other.name == name) {
                    return Err(bad("a name that is there twice, or one too many"));
                }
                members.push(Member { name, start, len });
            }
            _ => {}
        }
        if !extends {
            told = Override::default();
        }
        at = end.next_multiple_of(BLOCK);
    }
    Err(file.corrupt(format!("it has more than {MAX_HEADERS} headers")))
}

/// `name` without `.` in it.
pub(crate) fn plain(name: &Path) -> PathBuf {
    name.components().filter(|part| *part != Component::CurDir).collect()
}

fn bounded(len: u64, bad: &impl Fn(&str) -> ImageError) -> Result<usize, ImageError> {
    match len <= MAX_NAME_BYTES {
        true => Ok(len as usize),
        false => Err(bad("too much to say")),
    }
}

impl Override {
    /// Records of `length key=value\n`; the length counts all of it.
    fn read_pax(&mut self, records: &[u8]) {
        let mut rest = records;
        while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
            let len = std::str::from_utf8(&rest[..space]).ok().and_then(|len| len.parse().ok());
            let len = len.filter(|len| (space + 1..=rest.len()).contains(len));
            let Some((record, behind)) = len.map(|len| rest.split_at(len)) else { return };
            let record = text(&record[space + 1..]);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", name)) => self.name = Some(name.to_owned()),
                Some(("size", len)) => self.len = len.parse().ok(),
                _ => {}
            }
            rest = behind;
        }
    }
}

/// `prefix/name`; only POSIX's headers have the prefix.
fn header_name(header: &[u8]) -> String {
    let name = text(&header[..100]);
    let prefix = text(&header[345..500]);
    match header[257..263] == *b"ustar\0" && !prefix.is_empty() {
        true => format!("{prefix}/{name}"),
        false => name,
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// Octal text; or, with the first bit set, a big-endian number, as sizes from 8 GiB are written.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        let zero =
            high.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        return low.first_chunk().map(|low| u64::from_be_bytes(*low)).filter(|_| zero);
    }
    let text = text(field);
    let digits = text.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// The sum of all bytes, the checksum's own counted as spaces.
fn checksum(header: &[u8]) -> Option<u64> {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    Some(sum(&header[..148]) + 8 * 32 + sum(&header[156..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_octal_or_binary() {
        assert_eq!(number(b"00000001750\0"), Some(1000));
        assert_eq!(number(b"   1750 "), Some(1000));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x05\0\0\0\0"), Some(5 << 32));
        assert_eq!(number(b"\xff\0\0\0\0\0\0\x05\0\0\0\0"), None);
        assert_eq!(number(b"9"), None);
    }

    #[test]
    fn pax_records_override_and_damaged_ones_end_the_list() {
        let mut told = Override::default();
        told.read_pax(b"13 path=a/\xc3\xbc\n21 size=123456789012\n");
        assert_eq!(told.name.as_deref(), Some("a/\u{fc}"));
        told.read_pax(b"20 size=12345678901\n0 path=x\n");
        assert_eq!(told.len, Some(12_345_678_901));
        for odd in
            [&b"99 path=x\n"[..], b"1 path=x", b"9 \xff\xff\xff\xff\xff\xff", b" ", b"5 \0\0\0 "]
        {
            told.read_pax(odd);
        }
        assert_eq!(told.name.as_deref(), Some("a/\u{fc}"));
    }
}
