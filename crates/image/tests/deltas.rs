//! Disks of several extents and chains of deltas read as `qemu-img` reads them.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/deltas.rs"]
mod deltas;
#[path = "support/images.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use deltas::{State, layer_byte, state, write_delta};
use rekindle_image::{Image, ImageError, open_image};
use support::{MIB, convert, expected_byte, qemu_img, write_raw};
use tempfile::TempDir;

const SIZE: u64 = 49 * MIB + 3 * 512;

fn open(dir: &TempDir, name: &str) -> Result<Image, ImageError> {
    open_image(&dir.path().join(name), dir.path())
}

fn read(image: &Image, size: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; size as usize];
    // Steps that no table or grain divides.
    for (number, part) in bytes.chunks_mut(700_001).enumerate() {
        image.read_at(number as u64 * 700_001, part).unwrap();
    }
    bytes
}

fn as_qemu_reads(disk: &Path) -> Vec<u8> {
    let raw = disk.with_extension("raw");
    let (from, to) = (disk.to_str().unwrap(), raw.to_str().unwrap());
    qemu_img(&["convert", "-f", "vmdk", "-O", "raw", from, to]);
    std::fs::read(raw).unwrap()
}

/// The whole disk's bytes, put together from what `next_data` says there is.
fn read_data_only(image: &Image, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    let mut at = 0;
    while let Some(data) = image.next_data(at).unwrap() {
        image.read_at(data.start, &mut bytes[data.start as usize..data.end as usize]).unwrap();
        at = data.end;
    }
    bytes
}

/// A disk and its deltas of `kinds`, `1.vmdk` the lowest.
fn chain(dir: &TempDir, kinds: &[&str]) {
    let raw = dir.path().join("source.img");
    write_raw(&raw, SIZE);
    let base = dir.path().join("base.vmdk");
    convert(&raw, &base, &["-O", "vmdk", "-o", "subformat=monolithicFlat"]);
    let text = std::fs::read_to_string(&base).unwrap();
    let cid = text.lines().find_map(|line| line.strip_prefix("CID=")).unwrap().to_owned();
    let mut parent = ("base.vmdk".to_owned(), cid);
    for (number, kind) in kinds.iter().enumerate() {
        let layer = number as u64 + 1;
        let name = format!("{layer}.vmdk");
        write_delta(dir.path(), &name, kind, layer, SIZE, (&parent.0, &parent.1));
        parent = (name, format!("{layer:08x}"));
    }
}

fn chain_byte(layers: u64, at: u64) -> u8 {
    for layer in (1..=layers).rev() {
        match state(layer, at) {
            State::Absent => {}
            State::Zero => return 0,
            State::Data => return layer_byte(layer, at),
        }
    }
    expected_byte(at)
}

#[test]
fn esxi_deltas_read_as_qemu_reads_them() {
    for kinds in
        [&["VMFSSPARSE"][..], &["SESPARSE"], &["VMFSSPARSE", "SESPARSE", "SESPARSE", "VMFSSPARSE"]]
    {
        let dir = TempDir::new().unwrap();
        chain(&dir, kinds);
        let top = format!("{}.vmdk", kinds.len());
        let image = open(&dir, &top).unwrap();
        assert_eq!(image.size(), SIZE);
        let want: Vec<u8> = (0..SIZE).map(|at| chain_byte(kinds.len() as u64, at)).collect();
        assert!(read(&image, SIZE) == want, "{kinds:?}");
        assert!(read_data_only(&image, SIZE) == want, "{kinds:?}");
        assert!(as_qemu_reads(&dir.path().join(top)) == want, "{kinds:?}: qemu-img");
        image.check_unchanged().unwrap();
    }
}

#[test]
fn a_sparse_child_reads_as_qemu_reads_it() {
    for format in ["monolithicSparse", "twoGbMaxExtentSparse"] {
        let dir = TempDir::new().unwrap();
        let raw = dir.path().join("source.img");
        write_raw(&raw, SIZE);
        let subformat = format!("subformat={format}");
        convert(&raw, &dir.path().join("base.vmdk"), &["-O", "vmdk", "-o", &subformat]);
        for (child, parent) in [("one.vmdk", "base.vmdk"), ("two.vmdk", "one.vmdk")] {
            let path = dir.path().join(child);
            let path = path.to_str().unwrap();
            qemu_img(&[
                "create", "-q", "-f", "vmdk", "-o", &subformat, "-b", parent, "-F", "vmdk", path,
            ]);
            for (at, len) in [("100k", "300k"), ("5M", "2M"), ("40000k", "512")] {
                let write = format!("write -P {} {at} {len}", child.len() + at.len());
                let out = Command::new("qemu-io").args(["-f", "vmdk", "-c", &write, path]).output();
                assert!(out.unwrap().status.success());
            }
        }
        let image = open(&dir, "two.vmdk").unwrap();
        let want = as_qemu_reads(&dir.path().join("two.vmdk"));
        assert!(read(&image, SIZE) == want, "{format}");
        assert!(read_data_only(&image, SIZE) == want, "{format}");
    }
}

#[test]
fn a_disk_split_in_extents_of_2_gb_reads_as_one() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("source.img");
    let size = (5 << 30) + 3 * 512;
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(size).unwrap();
    // Data over both borders, and at the end.
    let marks: Vec<_> = [0, 2_146_435_072 - 70_000, 2 * 2_146_435_072 - 70_000, size - 140_000]
        .map(|at| (at, support::expected(3 * at, 140_000)))
        .into();
    for (at, bytes) in &marks {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, *at).unwrap();
    }
    for format in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let subformat = format!("subformat={format}");
        convert(&raw, &dir.path().join("d.vmdk"), &["-O", "vmdk", "-o", &subformat]);
        let image = open(&dir, "d.vmdk").unwrap();
        assert_eq!(image.size(), size, "{format}");
        for (at, bytes) in &marks {
            let mut found = vec![1; bytes.len()];
            image.read_at(*at, &mut found).unwrap();
            assert!(found == *bytes, "{format} at {at}");
        }
        let (mut at, mut data) = (0, 0);
        while let Some(range) = image.next_data(at).unwrap() {
            data += range.end - range.start;
            at = range.end;
        }
        assert!((560_000..2 * MIB).contains(&data), "{format}: {data}");
    }
}

#[test]
fn a_parent_that_changed_is_refused() {
    let dir = TempDir::new().unwrap();
    chain(&dir, &["VMFSSPARSE", "SESPARSE"]);
    let path = dir.path().join("1.vmdk");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("CID=00000001", "CID=00000009")).unwrap();
    let error = open(&dir, "2.vmdk").unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("has changed"), "{error}");
    std::fs::remove_file(path).unwrap();
    assert!(matches!(open(&dir, "2.vmdk"), Err(ImageError::NotFound { .. })));
}

#[test]
fn circles_and_long_chains_end() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, parent: &str| {
        let text = format!(
            "# Disk DescriptorFile\nCID=1\nparentCID=1\nparentFileNameHint=\"{parent}\"\nRW 8 ZERO\n"
        );
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    write("a.vmdk", "b.vmdk");
    write("b.vmdk", "./a.vmdk");
    write("self.vmdk", "self.vmdk");
    for number in 0..40 {
        write(&format!("{number}.vmdk"), &format!("{}.vmdk", number + 1));
    }
    for (name, why) in [("a.vmdk", "circle"), ("self.vmdk", "circle"), ("0.vmdk", "more than 32")] {
        let error = open(&dir, name).unwrap_err();
        assert!(matches!(error, ImageError::Unsupported { .. }), "{name}: {error}");
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
}

#[test]
fn a_delta_with_a_journal_to_replay_is_refused() {
    let dir = TempDir::new().unwrap();
    chain(&dir, &["SESPARSE"]);
    let path = dir.path().join("1-delta.vmdk");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[512 + 24] = 1;
    std::fs::write(&path, bytes).unwrap();
    let error = open(&dir, "1.vmdk").unwrap_err();
    assert!(error.to_string().contains("journal"), "{error}");
}
