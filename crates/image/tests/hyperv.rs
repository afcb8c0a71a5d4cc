//! What of VHD and VHDX no conversion shows: sectors never written, and what is refused and why.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/images.rs"]
mod support;

use rekindle_image::{Image, ImageError, open_image};
use support::{MIB, convert, expected, reseal, write_raw};
use tempfile::TempDir;

const SIZE: u64 = 5 * MIB;

/// A test disk in another format, with `change` made to its bytes and the checksums right again.
fn changed(args: &[&str], name: &str, change: impl Fn(&mut Vec<u8>)) -> Result<Image, ImageError> {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("source.img");
    write_raw(&raw, SIZE);
    let disk = convert(&raw, &dir.path().join(name), args);
    let mut bytes = std::fs::read(&disk).unwrap();
    change(&mut bytes);
    reseal(&mut bytes);
    std::fs::write(&disk, bytes).unwrap();
    open_image(&disk, dir.path())
}

fn refusal(result: Result<Image, ImageError>) -> String {
    match result {
        Err(error @ ImageError::Unsupported { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sector_without_its_bit_is_zeros() {
    // The first block's bitmap lies behind footer, header and table.
    let clear = |bytes: &mut Vec<u8>| {
        let start = bytes[1536..1540].first_chunk().map(|n| u32::from_be_bytes(*n)).unwrap();
        bytes[start as usize * 512] = 0b1011_1111;
    };
    let image = changed(&["-O", "vpc", "-o", "force_size=on"], "d.vhd", clear).unwrap();
    let mut want = expected(0, SIZE as usize);
    want[512..1024].fill(0);
    let mut found = vec![1; SIZE as usize];
    image.read_at(0, &mut found).unwrap();
    assert!(found == want);
    assert_eq!(image.next_data(0).unwrap(), Some(0..512));
    assert_eq!(image.next_data(512).unwrap().map(|data| data.start), Some(1024));
}

#[test]
fn a_differencing_disk_is_refused() {
    let vhd = changed(&["-O", "vpc"], "d.vhd", |bytes| bytes[63] = 4);
    assert!(refusal(vhd).contains("differencing"));
    // The flags of the file parameters, the first item of qemu-img's metadata.
    let at = (3 << 20) + (64 << 10) + 4;
    let vhdx = changed(&["-O", "vhdx"], "d.vhdx", |bytes| bytes[at] = 2);
    assert!(refusal(vhdx).contains("differencing"));
}

#[test]
fn a_vhdx_with_a_log_to_replay_is_refused() {
    let unclosed = |bytes: &mut Vec<u8>| {
        bytes[(64 << 10) + 48] = 1;
        bytes[(128 << 10) + 48] = 1;
    };
    assert!(refusal(changed(&["-O", "vhdx"], "d.vhdx", unclosed)).contains("log is not empty"));
}

#[test]
fn one_damaged_header_of_a_vhdx_is_made_up_for_by_the_other() {
    for (header, table) in [(64 << 10, 192 << 10), (128 << 10, 256 << 10)] {
        let image = changed(&["-O", "vhdx"], "d.vhdx", |bytes| {
            bytes[header] = 0;
            bytes[table] = 0;
        });
        let mut found = vec![1; SIZE as usize];
        image.unwrap().read_at(0, &mut found).unwrap();
        assert!(found == expected(0, SIZE as usize));
    }
    let neither = changed(&["-O", "vhdx"], "d.vhdx", |bytes| {
        bytes[64 << 10] = 0;
        bytes[128 << 10] = 0;
    });
    assert!(matches!(neither, Err(ImageError::Corrupt { .. })), "{neither:?}");
}

#[test]
fn a_raw_disk_that_ends_like_a_vhd_stays_raw() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("source.img");
    write_raw(&raw, MIB);
    let vhd = convert(&raw, &dir.path().join("d.vhd"), &["-O", "vpc", "-o", "subformat=fixed"]);
    let guest = dir.path().join("d.img");
    std::fs::copy(vhd, &guest).unwrap();
    let image = open_image(&guest, dir.path()).unwrap();
    assert_eq!(image.format().name(), "raw");
    assert_eq!(image.size(), std::fs::metadata(guest).unwrap().len());
}
