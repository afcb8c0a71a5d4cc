//! Tells formats apart by their first bytes.

use crate::file::SourceFile;
use crate::vmdk::{DESCRIPTOR_MARK, SPARSE_MAGIC, is_stream_optimized};
use crate::{Format, ImageError, vhd, vhdx};

/// What other tools write and this build does not read. As raw bytes it would be a disk of garbage.
const FOREIGN: [(usize, &[u8], &str); 10] = [
    (0, b"COWD", "the data of an ESXi delta (COWD); open its descriptor instead"),
    (
        0,
        b"\xbe\xba\xfe\xca\0\0\0\0",
        "the data of an ESXi SEsparse delta; open its descriptor instead",
    ),
    (0, b"QED\0", "a QED image; convert it with `qemu-img convert`"),
    (0, b"<<< ", "a VirtualBox VDI image; convert it with `qemu-img convert`"),
    (0, b"\x1f\x8b", "a gzip file; unpack it"),
    (0, b"\xfd7zXZ\0", "an xz file; unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; unpack it"),
    (0, b"PK\x03\x04", "a zip file; unpack it"),
    (257, b"ustar", "a tar or OVA file, a VM and no disk"),
    (0, b"BZh", "a bzip2 file; unpack it"),
];

/// Names of what is never raw.
const CLAIMS: [&str; 6] = [".vmdk", ".qcow2", ".vhd", ".vhdx", ".avhd", ".avhdx"];

pub(crate) const QCOW_MAGIC: &[u8; 4] = b"QFI\xfb";

/// The format of `file` by its content. A name that ends in `.vmdk`, say, must hold what it says:
/// with a damaged header the file would otherwise pass as raw, and be read as a disk of garbage.
pub(crate) fn detect(file: &SourceFile) -> Result<Format, ImageError> {
    let head = file.read_vec(0, file.len().min(512) as usize)?;
    let mut format = by_content(&head);
    // A fixed VHD has its footer in the disk's way. Without the name to say so, any guest could write one
    // into the last sector of its raw disk.
    if format == Format::Raw && is_named(file, ".vhd") && vhd::has_fixed_footer(file)? {
        format = Format::Vhd;
    }
    if format == Format::Raw {
        refuse_foreign(file, &head)?;
        refuse_misnamed(file)?;
    }
    Ok(format)
}

fn by_content(head: &[u8]) -> Format {
    if head.starts_with(QCOW_MAGIC) {
        Format::Qcow2
    } else if head.starts_with(SPARSE_MAGIC) {
        match is_stream_optimized(head) {
            true => Format::VmdkStreamOptimized,
            false => Format::VmdkSparse,
        }
    } else if head.starts_with(vhd::COOKIE) {
        Format::Vhd
    } else if head.starts_with(vhdx::SIGNATURE) {
        Format::Vhdx
    } else if is_descriptor(head) {
        Format::VmdkDescriptor
    } else {
        Format::Raw
    }
}

fn is_descriptor(head: &[u8]) -> bool {
    let start = head.trim_ascii_start();
    let mark = DESCRIPTOR_MARK.as_bytes();
    start.get(..mark.len()).is_some_and(|text| text.eq_ignore_ascii_case(mark))
}

fn refuse_foreign(file: &SourceFile, head: &[u8]) -> Result<(), ImageError> {
    let foreign = FOREIGN
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    match foreign {
        Some((_, _, what)) => Err(ImageError::unsupported(file.name(), format!("it is {what}"))),
        None => Ok(()),
    }
}

fn is_named(file: &SourceFile, end: &str) -> bool {
    file.name().to_ascii_lowercase().ends_with(end)
}

fn refuse_misnamed(file: &SourceFile) -> Result<(), ImageError> {
    let name = file.name().to_ascii_lowercase();
    let flat = name.ends_with("-flat.vmdk") || numbered_flat(&name);
    let claims = CLAIMS.into_iter().find(|end| name.ends_with(end) && !flat);
    match claims {
        Some(end) => Err(file.corrupt(format!("it is named {end} and does not look like one"))),
        None => Ok(()),
    }
}

/// `disk-f001.vmdk`, an extent of twoGbMaxExtentFlat.
fn numbered_flat(name: &str) -> bool {
    name.strip_suffix(".vmdk").and_then(|stem| stem.rsplit_once("-f")).is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}
