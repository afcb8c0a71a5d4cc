//! Every format reads as `qemu-img` wrote it, holes and tail included.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/images.rs"]
mod support;

use std::path::Path;

use proptest::prelude::*;
use rekindle_image::{Image, ImageError, open_image};
use support::{FORMATS, MIB, convert, expected, qemu_img, write_raw};
use tempfile::TempDir;

/// No multiple of any block, cluster or grain.
const SIZE: u64 = 11 * MIB + 3 * 512;

fn open(dir: &TempDir, name: &str) -> Result<Image, ImageError> {
    open_image(&dir.path().join(name), dir.path())
}

/// Reads the whole disk in steps that start and end anywhere.
fn assert_reads_as_expected(image: &Image, size: u64, what: &str) {
    assert!(image.size() >= size, "{what}: {} bytes", image.size());
    let mut at = 0;
    for step in [1, 511, 512, 4096, 65_536, 70_001, 262_144, 1_500_007].iter().cycle() {
        let len = (*step).min(size - at) as usize;
        let mut buf = vec![0xee; len];
        image.read_at(at, &mut buf).unwrap();
        assert!(buf == expected(at, len), "{what}: {len} bytes at {at}");
        at += len as u64;
        if at == size {
            return;
        }
    }
}

/// What `next_data` leaves out is zero, and it leaves the holes out.
fn assert_holes_are_known(image: &Image, size: u64, what: &str) {
    let (mut at, mut data) = (0, 0);
    while let Some(range) = image.next_data(at).unwrap() {
        assert!(range.start >= at && range.end > range.start, "{what}: {range:?} at {at}");
        let gap = (range.start.min(size) - at.min(size)) as usize;
        assert!(expected(at, gap).iter().all(|b| *b == 0), "{what}: data in the gap at {at}");
        data += range.end - range.start;
        at = range.end;
    }
    assert!(at >= size || expected(at, (size - at) as usize).iter().all(|b| *b == 0), "{what}");
    // A hole of 1 MiB is none where clusters are larger.
    let most = match what {
        _ if what.starts_with("vhd") && !what.contains("1M") => size.next_multiple_of(8 * MIB),
        _ if what.contains("2M") => size.next_multiple_of(2 * MIB),
        _ => 9 * MIB,
    };
    assert!(data <= most, "{what}: {data} bytes of data in {size}");
}

#[test]
fn every_format_reads_as_qemu_img_wrote_it() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("source.img");
    write_raw(&raw, SIZE);
    for (number, (name, args, end)) in FORMATS.iter().enumerate() {
        let what = format!("{name} {args:?}");
        let file = format!("disk{number}.{end}");
        convert(&raw, &dir.path().join(&file), args);
        let image = open(&dir, &file).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(image.format().name(), *name, "{what}");
        assert_reads_as_expected(&image, SIZE, &what);
        assert_holes_are_known(&image, SIZE, &what);
        image.check_unchanged().unwrap();
    }
}

#[test]
fn a_backing_chain_reads_as_one_disk() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // The base ends early, the middle changes some of it, the top is longer than both.
    write_raw(&dir.path().join("whole.img"), SIZE);
    write_raw(&dir.path().join("base.img"), 5 * MIB);
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.img",
        "-F",
        "raw",
        &path("mid.qcow2"),
        "8M",
    ]);
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "mid.qcow2",
        "-F",
        "qcow2",
        &path("top.qcow2"),
        &SIZE.to_string(),
    ]);
    // Rebasing onto nothing-in-common keeps what a guest would see: write the rest with qemu-io.
    for (file, from, len) in
        [("mid.qcow2", 5 * MIB, 3 * MIB), ("top.qcow2", 8 * MIB, SIZE - 8 * MIB)]
    {
        let part = dir.path().join("part");
        std::fs::write(&part, expected(from, len as usize)).unwrap();
        let command = format!("write -s {} {from} {len}", part.display());
        let out =
            std::process::Command::new("qemu-io").args(["-c", &command, &path(file)]).output();
        assert!(out.expect("qemu-io (package qemu-utils)").status.success());
    }
    let image = open(&dir, "top.qcow2").unwrap();
    assert_reads_as_expected(&image, SIZE, "chain");
    std::fs::remove_file(dir.path().join("base.img")).unwrap();
    assert!(matches!(open(&dir, "top.qcow2"), Err(ImageError::NotFound { .. })));
}

#[test]
fn an_empty_disk_of_62_tib_is_known_at_once() {
    let dir = TempDir::new().unwrap();
    let started = std::time::Instant::now();
    for (file, args) in [
        ("a.img", &["-f", "raw"][..]),
        ("b.qcow2", &["-f", "qcow2"]),
        ("c.vmdk", &["-f", "vmdk", "-o", "subformat=monolithicFlat"]),
        ("d.vhdx", &["-f", "vhdx"]),
        ("e.vhd", &["-f", "vpc"]),
    ] {
        let path = dir.path().join(file);
        let size = match file {
            "a.img" => "15T",
            "b.qcow2" | "d.vhdx" => "62T",
            _ => "1T",
        };
        qemu_img(&[&["create", "-q"], args, &[path.to_str().unwrap(), size]].concat());
        let image = open(&dir, file).unwrap();
        // qemu-img writes the first sectors of a raw file, so that its alignment can be told.
        assert_eq!(image.next_data(4096).unwrap(), None, "{file}");
    }
    assert!(started.elapsed().as_secs() < 20);
}

/// A file that is cut short anywhere is an error, at the latest when its bytes are read; never other bytes.
fn cut_is_an_error(file: &Path, dir: &TempDir, keep: u64) {
    let full = std::fs::metadata(file).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(keep).unwrap();
    let Ok(image) = open_image(file, dir.path()) else { return };
    let mut at = 0;
    while at < SIZE.min(image.size()) {
        let mut buf = vec![0; MIB.min(SIZE.min(image.size()) - at) as usize];
        match image.read_at(at, &mut buf) {
            Err(ImageError::Corrupt { .. }) => return,
            Err(other) => panic!("{other}"),
            Ok(()) => {
                assert!(buf == expected(at, buf.len()), "{file:?} cut to {keep} of {full}: at {at}")
            }
        }
        at += buf.len() as u64;
    }
    // All of the disk was there: only padding or metadata behind the data was lost.
    let padding = if file.extension().is_some_and(|end| end == "vhdx") { 8 * MIB } else { 2 * MIB };
    assert!(full - keep <= padding, "{file:?} cut to {keep} of {full} read without an error");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(36))]

    #[test]
    fn what_is_cut_short_is_never_read_as_zeros(format in 1usize..FORMATS.len(), cut in 0.0f64..1.0) {
        let dir = TempDir::new().unwrap();
        let raw = dir.path().join("source.img");
        write_raw(&raw, SIZE);
        let (_, args, end) = FORMATS[format];
        let disk = convert(&raw, &dir.path().join(format!("disk.{end}")), args);
        let parts = ["disk-flat.vmdk", "disk-f001.vmdk", "disk-s001.vmdk"];
        let part = parts.iter().map(|p| dir.path().join(p)).find(|p| p.exists());
        let victim = part.unwrap_or_else(|| disk.clone());
        let len = std::fs::metadata(&victim).unwrap().len();
        let keep = (len as f64 * cut) as u64;
        if victim == disk {
            cut_is_an_error(&disk, &dir, keep);
        } else {
            std::fs::OpenOptions::new().write(true).open(&victim).unwrap().set_len(keep).unwrap();
            cut_is_an_error(&disk, &dir, std::fs::metadata(&disk).unwrap().len());
        }
    }
}

#[test]
fn a_flat_extent_shorter_than_its_descriptor_is_refused_when_opened() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("source.img");
    write_raw(&raw, SIZE);
    convert(&raw, &dir.path().join("d.vmdk"), &["-O", "vmdk", "-o", "subformat=monolithicFlat"]);
    let flat =
        std::fs::OpenOptions::new().write(true).open(dir.path().join("d-flat.vmdk")).unwrap();
    flat.set_len(SIZE - 512).unwrap();
    assert!(matches!(open(&dir, "d.vmdk"), Err(ImageError::Corrupt { .. })));
}

#[test]
fn a_stream_cut_short_is_refused_when_opened() {
    let dir = TempDir::new().unwrap();
    // A stream as VMware writes it: its directory at the end, a footer behind it.
    let stream = support::stream_with_footer(3);
    std::fs::write(dir.path().join("d.vmdk"), &stream).unwrap();
    let image = open(&dir, "d.vmdk").unwrap();
    let mut buf = vec![0; 3 * 65_536];
    image.read_at(0, &mut buf).unwrap();
    assert!(buf == expected(0, buf.len()));
    for keep in [stream.len() - 512, stream.len() - 1024, stream.len() / 2, 600] {
        std::fs::write(dir.path().join("d.vmdk"), &stream[..keep]).unwrap();
        let error = open(&dir, "d.vmdk").unwrap_err();
        assert!(matches!(error, ImageError::Corrupt { .. }), "{keep}: {error}");
    }
}
