//! Writes a small repository of the format that this build writes, plain and sealed, for `tests/samples`:
//! `cargo run -p rekindle-repo --example sample -- NEW-DIRECTORY`. Its disks are the ones `tests/format.rs` expects.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rekindle_block::BlockSize;
use rekindle_repo::{CreateOptions, IngestOptions, IngestProgress, Passkey, Repository, ingest};

const PASSKEY: &str = "correct horse battery staple";
/// Two leaves at 4 KiB blocks, and a last block that is short.
const SIZE: u64 = (5 << 20) + 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, dir] = &arguments[..] else { return Err("usage: sample NEW-DIRECTORY".into()) };
    let dir = Path::new(dir);
    std::fs::create_dir(dir)?;
    let vmx = write_vm(&dir.join("vm"))?;
    for (name, passkey) in [("v1-plain", None), ("v1-sealed", Some(Passkey::new(PASSKEY)?))] {
        let options = CreateOptions {
            block_size: BlockSize::new(4096)?,
            passkey_label: "sample".into(),
            passkey,
        };
        let repository = Repository::create(&dir.join(name), &options)?;
        let (progress, never) = (IngestProgress::default(), AtomicBool::new(false));
        let options = IngestOptions {
            tags: vec!["sample".into()],
            created_at: Some("2025-01-02T03:04:05Z".parse()?),
            ..IngestOptions::default()
        };
        let point = ingest(&repository, &vmx, &options, &progress, &never)?.point;
        println!("{name}: point {}", point.id);
    }
    Ok(())
}

fn write_vm(dir: &Path) -> Result<std::path::PathBuf, Box<dyn std::error::Error>> {
    std::fs::create_dir(dir)?;
    let disk = File::create(dir.join("sample.img"))?;
    disk.set_len(SIZE)?;
    // Block 0 does not shrink, 1 does, 700 is in the second leaf, the last is short.
    let noise: Vec<u8> = (0..1024u32).flat_map(|n| noise(n).to_le_bytes()).collect();
    disk.write_all_at(&noise, 0)?;
    disk.write_all_at(&[7; 4096], 4096)?;
    disk.write_all_at(b"in the second leaf", 700 * 4096)?;
    disk.write_all_at(&[9; 512], SIZE - 512)?;
    std::fs::write(dir.join("sample.nvram"), b"nvram of the sample")?;
    let vmx = "displayName = \"Sample\"\nnvram = \"sample.nvram\"\nscsi0.present = \"TRUE\"\n\
        uuid.bios = \"56 4d 00 11 22 33 44 55-66 77 88 99 aa bb cc dd\"\n\
        scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"sample.img\"\n";
    std::fs::write(dir.join("sample.vmx"), vmx)?;
    Ok(dir.join("sample.vmx"))
}

fn noise(n: u32) -> u32 {
    let z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9);
    let z = (z ^ (z >> 15)).wrapping_mul(0x85EB_CA6B);
    let z = (z ^ (z >> 13)).wrapping_mul(0xC2B2_AE35);
    z ^ (z >> 16)
}
