use std::path::Path;
use std::process::Command;

use super::*;

/// Not a multiple of a cluster, and more than one table of either format covers.
const SIZE: u64 = (600 << 20) + 512;

const ID: ImageId<'_> = ImageId { name: "image", adapter: "lsilogic", content: [7; 16] };

fn file(dir: &Path, name: &str) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).open(dir.join(name)).unwrap()
}

fn open(dir: &Path, format: ImageFormat) -> Image {
    Image::open(file(dir, "image"), format, SIZE, &ID).unwrap()
}

/// No two words are alike.
fn byte(at: u64) -> u8 {
    let word = (at / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (word >> (8 * (at % 8))) as u8
}

/// Writes both to the image and to a plain file.
fn write(image: &Image, model: &File, range: Range<u64>) {
    let bytes: Vec<u8> = range.clone().map(byte).collect();
    image.write(&bytes, range.start).unwrap();
    model.write_all_at(&bytes, range.start).unwrap();
}

fn zero(image: &Image, model: &File, range: Range<u64>) {
    image.zero(range.clone()).unwrap();
    model.write_all_at(&vec![0; (range.end - range.start) as usize], range.start).unwrap();
}

/// QEMU finds no fault in it, and the disk's bytes.
fn qemu_agrees(dir: &Path, format: ImageFormat) {
    let kind = match format {
        ImageFormat::Flat | ImageFormat::Raw => "raw",
        ImageFormat::Sparse => "vmdk",
        ImageFormat::Qcow2 => "qcow2",
    };
    let check = vec!["check", "-f", kind, "image"];
    let compare = vec!["compare", "-f", kind, "-F", "raw", "image", "model"];
    // There is nothing to check in a raw image.
    let both = if kind == "raw" { vec![compare] } else { vec![check, compare] };
    for arguments in both {
        match Command::new("qemu-img").args(&arguments).current_dir(dir).output() {
            Ok(output) => assert!(output.status.success(), "{arguments:?}: {output:?}"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                eprintln!("qemu-img is not installed: its view of {kind} was not checked");
            }
            Err(e) => panic!("{e}"),
        }
    }
}

fn story(format: ImageFormat) {
    let dir = tempfile::tempdir().unwrap();
    let model = file(dir.path(), "model");
    model.set_len(SIZE).unwrap();
    let image = open(dir.path(), format);
    // Out of order, over edges of clusters and tables, in parts of clusters, and at the end.
    for (at, len) in [
        (512 << 20, 256 << 10),
        ((512 << 20) - 1000, 500),
        (0, 1),
        (CLUSTER - 1, 2 * CLUSTER + 2),
        ((32 << 20) - 5, 10),
        (SIZE - 512, 512),
    ] {
        write(&image, &model, at..at + len);
    }
    zero(&image, &model, 0..1);
    zero(&image, &model, CLUSTER..2 * CLUSTER);
    zero(&image, &model, (100 << 20)..(101 << 20));
    zero(&image, &model, (512 << 20) + 100..(512 << 20) + 70_000);
    image.sync().unwrap();
    qemu_agrees(dir.path(), format);
    // Again as after a restart: what there was is there, and no place is given twice.
    drop(image);
    let image = open(dir.path(), format);
    write(&image, &model, (300 << 20)..(300 << 20) + 3 * CLUSTER);
    write(&image, &model, CLUSTER + 10..CLUSTER + 20);
    image.sync().unwrap();
    qemu_agrees(dir.path(), format);
    for at in [0, CLUSTER, (32 << 20) - 8192, 300 << 20, 512 << 20, SIZE - 4096] {
        let mut expected = vec![0; 4096];
        model.read_exact_at(&mut expected, at).unwrap();
        assert!(image.read_back(at..at + 4096).unwrap() == expected, "at {at}");
    }
    assert!(image.is_hole(&((200 << 20)..(201 << 20))));
    assert!(!image.is_hole(&((299 << 20)..(301 << 20))));
}

#[test]
fn a_sparse_vmdk_is_what_was_written() {
    story(ImageFormat::Sparse);
}

#[test]
fn a_qcow2_is_what_was_written() {
    story(ImageFormat::Qcow2);
}

#[test]
fn a_plain_file_is_what_was_written() {
    story(ImageFormat::Raw);
}

/// The file was not made longer before the power went, but its entry was written.
#[test]
fn a_place_behind_the_end_is_not_given_again() {
    for format in [ImageFormat::Sparse, ImageFormat::Qcow2] {
        let dir = tempfile::tempdir().unwrap();
        let image = open(dir.path(), format);
        image.write(&[1; 100], 0).unwrap();
        let end = image.sparse.as_ref().map(|sparse| *sparse.end.lock()).unwrap();
        image.file.set_len(end - CLUSTER).unwrap();
        drop(image);
        let image = open(dir.path(), format);
        image.write(&[2; 100], 10 * CLUSTER).unwrap();
        image.write(&[1; 100], 0).unwrap();
        assert_eq!(image.read_back(0..100).unwrap(), [1; 100]);
        assert_eq!(image.read_back(10 * CLUSTER..10 * CLUSTER + 100).unwrap(), [2; 100]);
    }
}

/// Bounds.
#[test]
fn a_sparse_vmdk_has_room_for_less_than_two_tebibytes() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name, format, size| Image::open(file(dir.path(), name), format, size, &ID);
    let refused = open("a", ImageFormat::Sparse, 2 << 40).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    open("b", ImageFormat::Sparse, 1 << 40).unwrap();
    open("c", ImageFormat::Qcow2, 2 << 40).unwrap();
}
