//! What disk descriptors say of each other (VMDK specification, "The Descriptor File").

use crate::JobError;
use crate::descriptor::SECTOR;

/// The largest descriptor: one of a disk of one extent has below 1 KiB.
const MAX_BYTES: usize = 64 << 10;

/// The content id that what lies over a disk must name.
pub(super) fn content_id(descriptor: &[u8]) -> Result<String, JobError> {
    value(text(descriptor)?, "CID").map(str::to_owned)
}

/// What the disk lies over.
pub(super) fn parent(descriptor: &[u8]) -> Result<String, JobError> {
    value(text(descriptor)?, "parentFileNameHint").map(str::to_owned)
}

/// The descriptor, of a disk that lies over another one of this content. All else stays to the byte.
pub(super) fn over(descriptor: &[u8], parent: &str, content: &str) -> Result<Vec<u8>, JobError> {
    let text = text(descriptor)?;
    value(text, "parentFileNameHint")?;
    value(text, "parentCID")?;
    let lines = text.split_inclusive('\n').map(|line| match key(line) {
        Some("parentCID") => with(line, &format!("parentCID={content}")),
        Some("parentFileNameHint") => with(line, &format!("parentFileNameHint=\"{parent}\"")),
        _ => line.to_owned(),
    });
    Ok(lines.collect::<String>().into_bytes())
}

/// The file with the bytes of a disk of `size` bytes, which must be one alone with nothing else in it.
pub(super) fn flat_extent(descriptor: &[u8], size: u64) -> Result<String, JobError> {
    let text = text(descriptor)?;
    let extents: Vec<&str> = text.lines().filter(|line| line.starts_with("RW ")).collect();
    let [extent] = extents.as_slice() else { return Err(bad("it has not one extent")) };
    let mut words = extent.splitn(4, ' ').skip(1);
    let sectors = words.next().and_then(|word| word.parse::<u64>().ok());
    let kind = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default().split('"').nth(1).unwrap_or_default();
    if sectors != Some(size / SECTOR) || !matches!(kind, "VMFS" | "FLAT") {
        return Err(bad(&format!("its extent is {extent:?}, not flat with {size} bytes")));
    }
    match name.is_empty() || name.contains('/') || name.starts_with('.') {
        true => Err(bad("its extent has no plain name")),
        false => Ok(name.to_owned()),
    }
}

fn text(descriptor: &[u8]) -> Result<&str, JobError> {
    let text = std::str::from_utf8(descriptor).ok().filter(|_| descriptor.len() <= MAX_BYTES);
    text.ok_or_else(|| bad("it is no text of at most 64 KiB"))
}

fn key(line: &str) -> Option<&str> {
    line.split_once('=').map(|(key, _)| key.trim())
}

/// The line's end stays.
fn with(line: &str, new: &str) -> String {
    let end = line.trim_end_matches(['\r', '\n']).len();
    format!("{new}{}", &line[end..])
}

fn value<'a>(text: &'a str, wanted: &str) -> Result<&'a str, JobError> {
    let mut found = text.lines().filter(|line| key(line) == Some(wanted));
    let line = found.next().filter(|_| found.next().is_none());
    let value = line.and_then(|line| line.split_once('=')).map(|(_, value)| value.trim());
    value
        .map(|value| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
        .ok_or_else(|| bad(&format!("it has not one {wanted}")))
}

fn bad(why: &str) -> JobError {
    JobError::conflict("bad_descriptor", format!("a disk's descriptor: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELTA: &str = "# Disk DescriptorFile\nversion=1\nCID=0badcafe\nparentCID=11112222\r\n\
        createType=\"vmfsSparse\"\nparentFileNameHint=\"web.vmdk\"\n\
        RW 2048 VMFSSPARSE \"web-000001-delta.vmdk\"\n";

    #[test]
    fn a_delta_is_put_over_another_disk_and_back() {
        let there = over(DELTA.as_bytes(), "/vmfs/volumes/b/web.vmdk", "33334444").unwrap();
        assert_eq!(parent(&there).unwrap(), "/vmfs/volumes/b/web.vmdk");
        let text = String::from_utf8(there.clone()).unwrap();
        assert!(text.contains("\nparentCID=33334444\r\n") && text.contains("\nCID=0badcafe\n"));
        assert_eq!(over(&there, "web.vmdk", "11112222").unwrap(), DELTA.as_bytes());
        assert_eq!(content_id(DELTA.as_bytes()).unwrap(), "0badcafe");
    }

    #[test]
    fn only_a_whole_flat_disk_of_the_right_size_is_compared() {
        let flat = |line: &str| flat_extent(format!("CID=1\n{line}\n").as_bytes(), 1 << 20);
        assert_eq!(flat("RW 2048 VMFS \"web-flat.vmdk\"").unwrap(), "web-flat.vmdk");
        assert_eq!(flat("RW 2048 FLAT \"a b.vmdk\" 0").unwrap(), "a b.vmdk");
        for wrong in [
            "RW 2047 VMFS \"web-flat.vmdk\"",
            "RW 2048 VMFSSPARSE \"web-delta.vmdk\"",
            "RW 2048 VMFS \"../web-flat.vmdk\"",
            "RW 2048 VMFS \"\"",
            "RW 2048 VMFS \"a\"\nRW 2048 VMFS \"b\"",
            "",
        ] {
            assert!(flat(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_delta_is_refused() {
        let base = "CID=1\nparentCID=ffffffff\n";
        assert!(over(base.as_bytes(), "x", "1").is_err());
        assert!(parent(base.as_bytes()).is_err());
        assert!(content_id(b"CID=1\nCID=2\n").is_err());
        assert!(content_id(&[0xff; 8]).is_err());
    }
}
