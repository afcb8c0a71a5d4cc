//! A streamOptimized VMDK as it comes in: the same bytes as from the file, and never a guess where it is damaged.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;
use rekindle_image::{Image, ImageError, open_image};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 9 * MIB + 512;

/// Every third MiB is empty, and so is the last of the others' second half.
fn byte(offset: u64) -> u8 {
    let word = (offset / 8 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    match (offset / MIB) % 3 {
        1 => 0,
        _ => ((word ^ (word >> 29)) >> (8 * (offset % 8))) as u8,
    }
}

fn bytes(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(byte).collect()
}

/// The file as `qemu-img` makes it, made once.
static PACKED: LazyLock<Vec<u8>> = LazyLock::new(|| packed(tempfile::tempdir().unwrap().path()));

fn packed(dir: &Path) -> Vec<u8> {
    let (raw, vmdk) = (dir.join("disk.raw"), dir.join("disk.vmdk"));
    fs::write(&raw, bytes(0, SIZE as usize)).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    assert!(Command::new("qemu-img").args(convert).args([&raw, &vmdk]).status().unwrap().success());
    fs::read(vmdk).unwrap()
}

/// A stream that comes in small pieces of odd sizes.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = buf.len().min(1 + self.0.position() as usize % 977);
        self.0.read(&mut buf[..len])
    }
}

fn stream(bytes: Vec<u8>) -> Result<Image, ImageError> {
    Image::from_stream("disk.vmdk", Box::new(Trickle(Cursor::new(bytes))))
}

/// Reads it as an ingest does: what may hold data, in order.
fn read_all(image: &Image) -> Result<Vec<u8>, ImageError> {
    if image.size() > 64 * MIB {
        // What a damaged header says: the test holds no such disk.
        return image.check_unchanged().map(|()| Vec::new());
    }
    let mut found = vec![0; image.size() as usize];
    let mut at = 0;
    while let Some(data) = image.next_data(at)? {
        let end = (data.start / MIB * MIB + MIB).min(image.size());
        image.read_at(data.start, &mut found[data.start as usize..end as usize])?;
        at = end;
    }
    image.check_unchanged()?;
    Ok(found)
}

#[test]
fn it_reads_as_the_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let packed = packed(dir.path());
    let image = stream(packed).unwrap();
    let file = open_image(Path::new("disk.vmdk"), dir.path()).unwrap();
    assert_eq!((image.size(), image.format()), (file.size(), file.format()));
    let mut head = [0; 1024];
    image.read_at(0, &mut head).unwrap();
    assert_eq!(head[..], bytes(0, 1024), "a look at the start takes nothing away");
    let found = read_all(&image).unwrap();
    assert!(found[..SIZE as usize] == bytes(0, SIZE as usize));
    let again = image.read_at(0, &mut head).unwrap_err();
    assert!(matches!(again, ImageError::Corrupt { .. }), "{again}");
}

/// The places of the grains' markers in a file.
fn grains(packed: &[u8]) -> Vec<usize> {
    let word = |at: usize| u32::from_le_bytes(*packed[at..].first_chunk().unwrap()) as usize;
    let (mut at, mut found) = (128 * 512, Vec::new());
    while word(at + 8) > 0 {
        found.push(at);
        at = (at + 12 + word(at + 8)).next_multiple_of(512);
    }
    found
}

fn end_of_grains(packed: &[u8]) -> usize {
    let last = *grains(packed).last().unwrap();
    let len = u32::from_le_bytes(*packed[last + 8..].first_chunk().unwrap());
    (last + 12 + len as usize).next_multiple_of(512)
}

/// The same disk with the header that counts at the end, where hosts have it: something that fills up, the footer's mark,
/// the footer, the mark of the end.
fn as_hosts_write(packed: &[u8]) -> Vec<u8> {
    let mut hosts = packed[..end_of_grains(packed)].to_vec();
    hosts[56..64].fill(0xff);
    let mut mark = [0; 512];
    (mark[0], mark[12]) = (1, 3);
    hosts.extend([0; 512]);
    hosts.extend(mark);
    hosts.extend(&packed[..512]);
    hosts.extend([0; 512]);
    hosts
}

#[test]
fn one_that_is_cut_short_anywhere_is_an_error() {
    let hosts = as_hosts_write(&PACKED);
    assert!(stream(hosts.clone()).and_then(|image| read_all(&image)).is_ok());
    // Behind the last grain qemu-img leaves zeros, the first of which are the mark of the end.
    for (packed, end) in [(&*PACKED, end_of_grains(&PACKED)), (&hosts, hosts.len() - 1)] {
        for cut in (0..end).step_by(end / 97).chain([end]) {
            let result = stream(packed[..cut].to_vec()).and_then(|image| read_all(&image));
            assert!(matches!(result, Err(ImageError::Corrupt { .. })), "cut at {cut} of {end}");
        }
    }
}

#[test]
fn grains_out_of_order_or_outside_are_an_error() {
    let packed = &*PACKED;
    let grains = grains(packed);
    assert!(grains.len() > 50, "{}", grains.len());
    for (grain, sector) in [(5, 0_u64), (5, 1), (7, u64::MAX), (9, SIZE), (3, 1 << 40)] {
        let mut bad = packed.clone();
        bad[grains[grain]..grains[grain] + 8].copy_from_slice(&sector.to_le_bytes());
        let result = stream(bad).and_then(|image| read_all(&image));
        assert!(matches!(result, Err(ImageError::Corrupt { .. })), "grain {grain} at {sector}");
    }
    let mut long = packed.clone();
    long[grains[2] + 8..grains[2] + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(stream(long).and_then(|image| read_all(&image)).is_err());
    for other in [&b"KDMV"[..], &[0; 4096], b"# Disk DescriptorFile\n"] {
        assert!(stream(other.to_vec()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A grain carries a checksum. Where it says it belongs is the transport's to keep.
    #[test]
    fn a_flipped_bit_in_a_grain_is_an_error(grain in 0_usize..50, place in 0.0..1.0_f64, bit in 0_u32..8) {
        let mut packed = PACKED.clone();
        let start = grains(&packed)[grain];
        let len = u32::from_le_bytes(*packed[start + 8..].first_chunk().unwrap());
        let at = start + 12 + (place * f64::from(len)) as usize;
        packed[at] ^= 1_u8 << bit;
        let result = stream(packed).and_then(|image| read_all(&image));
        // Deflate has bits that mean nothing.
        if let Ok(found) = result {
            prop_assert!(found[..SIZE as usize] == bytes(0, SIZE as usize), "bit {bit} of byte {at}");
        }
    }

    #[test]
    fn any_bytes_end_without_a_panic(cuts in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..8)) {
        let mut packed = PACKED.clone();
        for (place, byte) in cuts {
            let at = (place * packed.len() as f64) as usize;
            packed[at] = byte;
        }
        let _ = stream(packed).and_then(|image| read_all(&image));
    }
}
