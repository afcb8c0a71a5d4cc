//! No image reaches a file outside its directory, and what cannot be read is refused by name.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/images.rs"]
mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use rekindle_image::{Image, ImageError, open_image};
use support::{MIB, qemu_img, write_raw};
use tempfile::TempDir;

struct Place {
    _outer: TempDir,
    inner: std::path::PathBuf,
    outside: std::path::PathBuf,
}

/// A directory for images with a disk beside it that none of them may read.
fn place() -> Place {
    let outer = TempDir::new().unwrap();
    let inner = outer.path().join("vm");
    std::fs::create_dir(&inner).unwrap();
    let outside = outer.path().join("secret-flat.vmdk");
    write_raw(&outside, MIB);
    Place { inner, outside, _outer: outer }
}

fn descriptor(extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n{extents}\n"
    )
}

fn open_descriptor(place: &Place, text: &str) -> Result<Image, ImageError> {
    let path = place.inner.join("d.vmdk");
    std::fs::write(&path, text).unwrap();
    open_image(&path, &place.inner)
}

#[test]
fn extents_stay_in_the_directory() {
    let place = place();
    symlink(&place.outside, place.inner.join("link-flat.vmdk")).unwrap();
    symlink("..", place.inner.join("up")).unwrap();
    let absolute = place.outside.display().to_string();
    for name in [
        "../secret-flat.vmdk",
        "link-flat.vmdk",
        "up/secret-flat.vmdk",
        &absolute,
        "./../secret-flat.vmdk",
    ] {
        let result = open_descriptor(&place, &descriptor(&format!("RW 2048 VMFS \"{name}\"")));
        assert!(matches!(result, Err(ImageError::Escapes { .. })), "{name}: {result:?}");
    }
    for (name, kind) in [("../x.vmdk", "VMFSSPARSE"), ("../x.vmdk", "SESPARSE")] {
        let result = open_descriptor(&place, &descriptor(&format!("RW 8 {kind} \"{name}\"")));
        assert!(matches!(result, Err(ImageError::Escapes { .. })), "{kind}: {result:?}");
    }
    for hint in ["../secret-flat.vmdk", "up/secret-flat.vmdk", &absolute] {
        let text = descriptor("RW 8 ZERO").replace("ffffffff", "1");
        let text = format!("{text}parentFileNameHint=\"{hint}\"\n");
        let result = open_descriptor(&place, &text);
        assert!(matches!(result, Err(ImageError::Escapes { .. })), "{hint}: {result:?}");
    }
    std::fs::copy(&place.outside, place.inner.join("in-flat.vmdk")).unwrap();
    open_descriptor(&place, &descriptor("RW 2048 VMFS \"in-flat.vmdk\"")).unwrap();
}

#[test]
fn backing_images_stay_in_the_directory() {
    let place = place();
    let absolute = place.outside.display().to_string();
    for name in ["../secret-flat.vmdk", &absolute] {
        let path = place.inner.join("d.qcow2");
        qemu_img(&[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            name,
            "-F",
            "raw",
            path.to_str().unwrap(),
            "1M",
        ]);
        let result = open_image(&path, &place.inner);
        assert!(matches!(result, Err(ImageError::Escapes { .. })), "{name}: {result:?}");
    }
}

#[test]
fn a_path_outside_the_root_is_refused() {
    let place = place();
    let result = open_image(&place.outside, &place.inner);
    assert!(matches!(result, Err(ImageError::Escapes { .. })), "{result:?}");
    let result = open_image(Path::new("../secret-flat.vmdk"), &place.inner);
    assert!(matches!(result, Err(ImageError::Escapes { .. })), "{result:?}");
}

#[test]
fn what_is_not_read_correctly_is_refused() {
    let place = place();
    let delta = descriptor("RW 2048 VMFS \"in-flat.vmdk\"").replace("ffffffff", "12345678");
    let unsupported: Vec<(&str, String)> = vec![
        ("delta", delta),
        ("rdm", descriptor("RW 2048 VMFSRDM \"in-rdm.vmdk\"")),
        ("huge", descriptor("RW 999999999999 ZERO")),
        ("many", descriptor(&"RW 8 ZERO\n".repeat(513))),
        ("encrypted", descriptor("RW 8 ZERO") + "encryptionKeys = \"x\"\n"),
    ];
    for (what, text) in unsupported {
        let result = open_descriptor(&place, &text);
        assert!(
            matches!(result, Err(ImageError::Unsupported { .. } | ImageError::Corrupt { .. })),
            "{what}: {result:?}"
        );
    }
    for (what, text) in [("no extent", descriptor("")), ("bad count", descriptor("RW x ZERO"))] {
        let result = open_descriptor(&place, &text);
        assert!(matches!(result, Err(ImageError::Corrupt { .. })), "{what}: {result:?}");
    }
    for args in [&["-o", "extended_l2=on"][..], &["-o", "data_file=data.raw"]] {
        let path = place.inner.join("d.qcow2");
        let _ = std::fs::remove_file(place.inner.join("data.raw"));
        let out = std::process::Command::new("qemu-img")
            .current_dir(&place.inner)
            .args(["create", "-q", "-f", "qcow2"])
            .args(args)
            .args(["d.qcow2", "1M"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let result = open_image(&path, &place.inner);
        assert!(matches!(result, Err(ImageError::Unsupported { .. })), "{args:?}: {result:?}");
    }
}

#[test]
fn a_circle_of_backing_images_ends() {
    let place = place();
    for (file, below) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "a.qcow2")] {
        let path = place.inner.join(file);
        qemu_img(&[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            below,
            "-F",
            "qcow2",
            path.to_str().unwrap(),
            "1M",
        ]);
    }
    let result = open_image(&place.inner.join("a.qcow2"), &place.inner);
    assert!(matches!(result, Err(ImageError::Unsupported { .. })), "{result:?}");
}

#[test]
fn foreign_and_damaged_files_do_not_pass_as_raw() {
    let place = place();
    for (format, name) in [("vdi", "d.vdi"), ("qed", "d.qed")] {
        let path = place.inner.join(name);
        qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), "4M"]);
        let result = open_image(&path, &place.inner);
        assert!(matches!(result, Err(ImageError::Unsupported { .. })), "{format}: {result:?}");
    }
    // One flipped bit in the magic must not turn a container into a disk.
    for (format, name) in
        [("vmdk", "e.vmdk"), ("qcow2", "e.qcow2"), ("vpc", "e.vhd"), ("vhdx", "e.vhdx")]
    {
        let path = place.inner.join(name);
        qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), "4M"]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let result = open_image(&path, &place.inner);
        assert!(matches!(result, Err(ImageError::Corrupt { .. })), "{format}: {result:?}");
    }
    for (name, bytes) in [("empty.img", vec![]), ("odd.img", vec![1; 1000])] {
        std::fs::write(place.inner.join(name), bytes).unwrap();
        let result = open_image(&place.inner.join(name), &place.inner);
        assert!(matches!(result, Err(ImageError::Corrupt { .. })), "{name}: {result:?}");
    }
    std::fs::create_dir(place.inner.join("dir.img")).unwrap();
    assert!(open_image(&place.inner.join("dir.img"), &place.inner).is_err());
}

#[test]
fn a_source_that_is_written_to_is_noticed() {
    let place = place();
    let path = place.inner.join("d.img");
    write_raw(&path, MIB);
    let image = open_image(&path, &place.inner).unwrap();
    image.check_unchanged().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(2 * MIB).unwrap();
    assert!(matches!(image.check_unchanged(), Err(ImageError::Corrupt { .. })));
}
