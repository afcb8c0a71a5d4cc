//! The manifest of an OVF package, as other tools write it, tells a file that is not as it was.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/images.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rekindle_image::{Checksums, Folder, ImageError};
use support::{MIB, write_raw};
use tempfile::TempDir;

fn output(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).current_dir(dir).args(args).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A package's files, without its manifest.
fn package() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("vm.ovf"), "<Envelope/>").unwrap();
    write_raw(&dir.path().join("disk 1.vmdk"), 3 * MIB + 512);
    dir
}

fn checked(folder: &Folder, name: &str) -> Result<bool, ImageError> {
    let sums = Checksums::of_package(folder, Path::new("vm.ovf")).unwrap().unwrap();
    sums.check(&folder.open_file(Path::new(name)).unwrap(), || true)
}

#[test]
fn checksums_of_other_tools_are_compared() {
    for kind in ["1", "224", "256", "384", "512"] {
        for (program, args) in [
            (format!("sha{kind}sum"), vec!["--tag".to_owned()]),
            ("openssl".into(), vec!["dgst".into(), format!("-sha{kind}")]),
        ] {
            let dir = package();
            let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
            args.extend(["vm.ovf", "disk 1.vmdk"]);
            let sums = output(dir.path(), &program, &args);
            std::fs::write(dir.path().join("vm.mf"), &sums).unwrap();
            let folder = Folder::open(dir.path()).unwrap();
            if kind == "224" {
                let error = Checksums::of_package(&folder, Path::new("vm.ovf")).unwrap_err();
                assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
                continue;
            }
            output(dir.path(), "tar", &["-cf", "vm.ova", "vm.ovf", "vm.mf", "disk 1.vmdk"]);
            let archive = folder.open_archive(Path::new("vm.ova")).unwrap();
            for folder in [&folder, &archive] {
                assert!(
                    checked(folder, "vm.ovf").unwrap() && checked(folder, "disk 1.vmdk").unwrap()
                );
            }
            let disk = dir.path().join("disk 1.vmdk");
            let mut bytes = std::fs::read(&disk).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&disk, bytes).unwrap();
            let error = checked(&folder, "disk 1.vmdk").unwrap_err();
            assert!(matches!(error, ImageError::Corrupt { .. }), "{sums}: {error}");
            assert!(error.to_string().contains("disk 1.vmdk"), "{error}");
            assert!(checked(&folder, "./vm.ovf").unwrap());
        }
    }
}

#[test]
fn without_a_manifest_or_a_line_there_is_nothing_to_compare() {
    let dir = package();
    let folder = Folder::open(dir.path()).unwrap();
    assert!(Checksums::of_package(&folder, Path::new("vm.ovf")).unwrap().is_none());
    std::fs::write(dir.path().join("vm.mf"), "\n").unwrap();
    assert!(checked(&folder, "vm.ovf").unwrap());
    std::fs::write(dir.path().join("vm.mf"), format!("SHA1(vm.ovf)= {}", "0".repeat(40))).unwrap();
    let sums = Checksums::of_package(&folder, Path::new("vm.ovf")).unwrap().unwrap();
    let file = folder.open_file(Path::new("vm.ovf")).unwrap();
    assert!(!sums.check(&file, || false).unwrap(), "cancelled");
}

#[test]
fn a_damaged_manifest_is_refused() {
    let dir = package();
    let folder = Folder::open(dir.path()).unwrap();
    let sum = "0".repeat(40);
    for text in [
        "nonsense".to_owned(),
        "SHA1(vm.ovf)= 00".into(),
        format!("SHA1(vm.ovf)= {sum}0"),
        format!("SHA1(vm.ovf= {sum}"),
        format!("SHA1(vm.ovf)= {}", "g".repeat(40)),
        format!("SHA1(vm.ovf)= {sum}\nSHA1(./vm.ovf)= {sum}"),
        format!("MD5(vm.ovf)= {}", "0".repeat(32)),
        (0..5000).map(|n| format!("SHA1({n})= {sum}\n")).collect(),
        " ".repeat(2 << 20),
    ] {
        std::fs::write(dir.path().join("vm.mf"), &text).unwrap();
        let result = Checksums::of_package(&folder, Path::new("vm.ovf"));
        assert!(result.is_err(), "{:.80}", text);
    }
}

proptest! {
    #[test]
    fn no_manifest_panics(text in "(SHA(1|256|2-512)? ?\\((vm.ovf|\\PC{0,9})\\) ?= ?[0-9a-f]{0,64}\n?|\\PC){0,4}") {
        let dir = package();
        std::fs::write(dir.path().join("vm.mf"), text).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        if let Ok(Some(sums)) = Checksums::of_package(&folder, Path::new("vm.ovf")) {
            let _ = sums.check(&folder.open_file(Path::new("vm.ovf")).unwrap(), || true);
        }
    }
}
