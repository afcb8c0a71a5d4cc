//! What of VHD and VHDX no conversion shows: sectors never written, and what is refused and why.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]

#[path = "support/deltas.rs"]
mod deltas;
#[path = "support/hyperv.rs"]
mod hyperv;
#[path = "support/images.rs"]
mod support;

use std::sync::OnceLock;

use deltas::{State, layer_byte, state};
use hyperv::{Change, Entry, Parent, VhdxChild, vhdx_state};
use proptest::prelude::*;
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

/// The whole disk, read in steps that no block or sector divides.
fn read(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0xee; image.size() as usize];
    for (number, part) in bytes.chunks_mut(700_001).enumerate() {
        image.read_at(number as u64 * 700_001, part).unwrap();
    }
    bytes
}

/// The same, put together from what `next_data` says there is.
fn read_data_only(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    let mut at = 0;
    while let Some(data) = image.next_data(at).unwrap() {
        image.read_at(data.start, &mut bytes[data.start as usize..data.end as usize]).unwrap();
        at = data.end;
    }
    bytes
}

const CHAIN_SIZE: u64 = 19 * MIB + 3 * 512;
const NOWHERE: &str = "C:\\Virtual Machines\\base\\";

/// A disk of `qemu-img`'s and `layers` children of it, `1.vhd` the lowest; `3.vhd` lies in a directory.
fn vhd_chain(dir: &TempDir, subformat: &str, layers: u64) {
    let raw = dir.path().join("source.img");
    write_raw(&raw, CHAIN_SIZE);
    let base = dir.path().join("0.vhd");
    let options = format!("subformat={subformat},force_size=on");
    convert(&raw, &base, &["-O", "vpc", "-o", &options]);
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let mut id = hyperv::vhd_id(&std::fs::read(base).unwrap());
    for layer in 1..=layers {
        let up = if layer == 3 { "..\\" } else { ".\\" };
        let relative = format!("{up}{}.vhd", layer - 1);
        let parent = Parent { id, relative: &relative, absolute: &format!("{NOWHERE}x.vhd") };
        let name = if layer == 3 { "sub/3.vhd".into() } else { format!("{layer}.vhd") };
        let bytes = hyperv::vhd_child(layer, CHAIN_SIZE, &parent);
        std::fs::write(dir.path().join(name), bytes).unwrap();
        id = hyperv::id(layer);
    }
}

/// What a chain of `layers` reads as at `at`.
fn chain_byte(layers: u64, at: u64, state: impl Fn(u64, u64) -> State) -> u8 {
    for layer in (1..=layers).rev() {
        match state(layer, at) {
            State::Absent => {}
            State::Zero => return 0,
            State::Data => return layer_byte(layer, at),
        }
    }
    support::expected_byte(at)
}

#[test]
fn differencing_vhds_read_over_their_parents() {
    for subformat in ["dynamic", "fixed"] {
        let dir = TempDir::new().unwrap();
        vhd_chain(&dir, subformat, 3);
        for (name, layers) in [("1.vhd", 1), ("2.vhd", 2), ("sub/3.vhd", 3)] {
            let image = open_image(&dir.path().join(name), dir.path()).unwrap();
            let want: Vec<u8> = (0..CHAIN_SIZE).map(|at| chain_byte(layers, at, state)).collect();
            assert!(read(&image) == want, "{subformat} {name}");
            assert!(read_data_only(&image) == want, "{subformat} {name}");
            image.check_unchanged().unwrap();
        }
    }
}

/// A VHDX of `qemu-img`'s with children of it, `1.avhdx` the lowest.
fn vhdx_chain(dir: &TempDir, size: u64, sector: u64, blocks: std::ops::Range<u64>, layers: u64) {
    let raw = dir.path().join("source.img");
    write_raw(&raw, size.min(CHAIN_SIZE));
    std::fs::OpenOptions::new().write(true).open(&raw).unwrap().set_len(size).unwrap();
    let base = convert(&raw, &dir.path().join("0.vhdx"), &["-O", "vhdx"]);
    let mut id = hyperv::vhdx_id(&std::fs::read(base).unwrap());
    for layer in 1..=layers {
        let below = if layer == 1 { "0.vhdx".into() } else { format!("{}.avhdx", layer - 1) };
        // The lowest is only known by where it was.
        let (relative, absolute) = match layer {
            1 => (String::new(), format!("{NOWHERE}{below}")),
            _ => (below, String::new()),
        };
        let parent = Parent { id, relative: &relative, absolute: &absolute };
        let blocks = blocks.clone();
        let bytes = hyperv::vhdx_child(&VhdxChild { layer, size, sector, blocks, parent });
        std::fs::write(dir.path().join(format!("{layer}.avhdx")), bytes).unwrap();
        id = hyperv::id(layer);
    }
}

#[test]
fn differencing_vhdxs_read_over_their_parents() {
    for sector in [512, 4096] {
        let dir = TempDir::new().unwrap();
        let size = CHAIN_SIZE.next_multiple_of(4096);
        vhdx_chain(&dir, size, sector, 0..size.div_ceil(MIB), 3);
        for layers in 1..=3 {
            let name = format!("{layers}.avhdx");
            let image = open_image(&dir.path().join(&name), dir.path()).unwrap();
            let base = |at| if at < CHAIN_SIZE { support::expected_byte(at) } else { 0 };
            let want: Vec<u8> = (0..size)
                .map(|at| match (1..=layers).all(|l| vhdx_state(l, at) == State::Absent) {
                    true => base(at),
                    false => chain_byte(layers, at, vhdx_state),
                })
                .collect();
            assert!(read(&image) == want, "{sector} {name}");
            assert!(read_data_only(&image) == want, "{sector} {name}");
            image.check_unchanged().unwrap();
        }
    }
}

/// At 4 GiB begins the next bitmap, and its entry lies between those of the blocks.
#[test]
fn a_differencing_vhdx_reads_over_the_end_of_a_bitmap() {
    let dir = TempDir::new().unwrap();
    let blocks = 4090..4107;
    vhdx_chain(&dir, 5 << 30, 512, blocks.clone(), 1);
    let image = open_image(&dir.path().join("1.avhdx"), dir.path()).unwrap();
    let (start, end) = (blocks.start * MIB - 70_000, blocks.end * MIB + 70_000);
    let mut found = vec![1; (end - start) as usize];
    image.read_at(start, &mut found).unwrap();
    let want = |at: u64| match blocks.contains(&(at / MIB)) {
        true if vhdx_state(1, at) == State::Data => layer_byte(1, at),
        _ => 0,
    };
    assert!(found.iter().zip(start..).all(|(byte, at)| *byte == want(at)));
}

#[test]
fn a_parent_that_is_another_disk_is_refused() {
    let dir = TempDir::new().unwrap();
    vhd_chain(&dir, "dynamic", 2);
    vhdx_chain(&dir, CHAIN_SIZE, 512, 0..3, 2);
    let open = |name: &str| open_image(&dir.path().join(name), dir.path());
    for (child, parent, at) in [("2.vhd", "1.vhd", 68), ("2.avhdx", "1.avhdx", (64 << 10) + 32)] {
        let path = dir.path().join(parent);
        let good = std::fs::read(&path).unwrap();
        let mut other = good.clone();
        other[at] ^= 1;
        reseal(&mut other);
        std::fs::write(&path, other).unwrap();
        let error = open(child).unwrap_err();
        assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("parent"), "{error}");
        std::fs::write(&path, b"# Disk DescriptorFile\nRW 8 ZERO\n").unwrap();
        assert!(matches!(open(child), Err(ImageError::Corrupt { .. })), "{child}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open(child), Err(ImageError::NotFound { .. })), "{child}");
        std::fs::write(&path, good).unwrap();
        open(child).unwrap();
        let grown = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let image = open(child).unwrap();
        grown.set_len(1 << 30).unwrap();
        assert!(image.check_unchanged().is_err(), "{child}: its parent was written to");
    }
}

#[test]
fn parents_stay_in_the_folder_and_go_in_no_circle() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("vm");
    std::fs::create_dir(&dir).unwrap();
    let make = |name: &str, relative: &str, absolute: &str| {
        let parent = || Parent { id: hyperv::id(1), relative, absolute };
        let (layer, size) = (1, 3 * MIB);
        std::fs::write(dir.join(format!("{name}.vhd")), hyperv::vhd_child(layer, size, &parent()))
            .unwrap();
        let child = VhdxChild { layer, size, sector: 512, blocks: 0..3, parent: parent() };
        std::fs::write(dir.join(format!("{name}.vhdx")), hyperv::vhdx_child(&child)).unwrap();
    };
    std::os::unix::fs::symlink("..", dir.join("up")).unwrap();
    for end in ["vhd", "vhdx"] {
        std::fs::write(outer.path().join(format!("secret.{end}")), [0; 4096]).unwrap();
        for relative in ["..\\secret.", "up\\secret.", "x\\..\\..\\secret.", "../secret."] {
            make("child", &format!("{relative}{end}"), "");
            let result = open_image(&dir.join(format!("child.{end}")), &dir);
            assert!(matches!(result, Err(ImageError::Escapes { .. })), "{relative}: {result:?}");
        }
        make("child", "", "");
        assert!(open_image(&dir.join(format!("child.{end}")), &dir).is_err());
        make("a", &format!("b.{end}"), "");
        make("b", "", &format!("D:\\a.{end}"));
        make("self", &format!("self.{end}"), "");
        for name in ["a", "self"] {
            let error = open_image(&dir.join(format!("{name}.{end}")), &dir).unwrap_err();
            assert!(error.to_string().contains("circle"), "{name}: {error}");
        }
        for number in 0..70 {
            make(&format!("{number}"), &format!("{}.{end}", number + 1), "");
        }
        let error = open_image(&dir.join(format!("0.{end}")), &dir).unwrap_err();
        assert!(error.to_string().contains("more than 64"), "{error}");
    }
}

/// A disk of `qemu-img`'s that was written to and not closed: its table is as it was before, its log has the changes, in
/// two entries, after one that counts no more and before one that was cut short.
struct Dirty {
    bytes: Vec<u8>,
    /// Where in the file its log is.
    log: std::ops::Range<usize>,
}

const LOG_ID: [u8; 16] = [0x5a; 16];

fn dirty(dir: &TempDir, at: usize) -> Dirty {
    let raw = dir.path().join("source.img");
    write_raw(&raw, 3 * MIB);
    let file = std::fs::OpenOptions::new().write(true).open(&raw).unwrap();
    file.set_len(2400 * MIB).unwrap();
    let disk = dir.path().join("d.vhdx");
    convert(&raw, &disk, &["-O", "vhdx", "-o", "block_size=1M"]);
    let before = std::fs::read(&disk).unwrap();
    // Over the first sector of the table, whose entries are 512.
    let writes = ["write -P 9 700M 3M", "write -P 8 1500M 2M", "write -P 7 1M 512k"];
    for write in writes {
        let mut command = std::process::Command::new("qemu-io");
        let out = command.args(["-f", "vhdx", "-c", write]).arg(&disk).output();
        assert!(out.unwrap().status.success());
    }
    let after = dir.path().join("after.img");
    support::qemu_img(&["convert", "-O", "raw", disk.to_str().unwrap(), after.to_str().unwrap()]);
    let mut bytes = std::fs::read(&disk).unwrap();
    let (log, table) = hyperv::log_and_table(&bytes);
    let after = bytes[table.clone()].to_vec();
    bytes[table.clone()].copy_from_slice(&before[table.clone()]);
    // Zeros that the log puts over damage: blocks from 2 GiB on.
    let empty = table.start + 4 * 4096;
    bytes[empty..empty + 8192].fill(0xff);
    let sectors = after.chunks(4096).zip(before[table.clone()].chunks(4096)).enumerate();
    let changed = sectors.filter(|(_, (new, old))| new != old);
    let mut changes: Vec<_> = changed
        .map(|(number, (new, _))| Change::Sector {
            at: (table.start + number * 4096) as u64,
            bytes: new.to_vec(),
        })
        .collect();
    assert_eq!(changes.len(), 3);
    let last = changes.split_off(1);
    let garbage = |at: usize| Change::Sector { at: at as u64, bytes: vec![0x77; 4096] };
    // Of 8, 12, 12 and three times 8 KiB; those that count follow one another, over the ring's end if need be.
    let len = bytes.len() as u64;
    let entry = |sequence, tail: usize, id, changes| {
        let tail = (tail % log.len()) as u32;
        Entry { sequence, tail, id, flushed: len, last: len, changes }.encode()
    };
    let flushed = entry(40, at, LOG_ID, vec![garbage(table.start)]);
    let tail = at + flushed.len();
    changes.insert(0, garbage(table.start + 4096));
    let first = entry(41, tail, LOG_ID, changes);
    let zeros = Change::Zeros { at: empty as u64, len: 8192 };
    let second = entry(42, tail, LOG_ID, last.into_iter().chain([zeros]).collect());
    let second_at = tail + first.len();
    let mut torn = entry(43, tail, LOG_ID, vec![garbage(table.start + 8192)]);
    torn[5000] ^= 1;
    let torn_at = second_at + second.len();
    let other = entry(90, torn_at + 8192, [3; 16], vec![garbage(table.start)]);
    let old = entry(7, torn_at + 16384, LOG_ID, vec![garbage(table.start)]);
    let entries = [
        (at, flushed),
        (tail, first),
        (second_at, second),
        (torn_at, torn),
        (torn_at + 8192, other),
        (torn_at + 16384, old),
    ];
    hyperv::set_log(&mut bytes, LOG_ID, &entries);
    Dirty { bytes, log }
}

#[test]
fn the_log_of_a_vhdx_is_replayed_as_qemu_img_replays_it() {
    // At the ring's start, and over its end: it has 1 MiB.
    let over_the_end = (1 << 20) - 16384;
    for at in [0, (1 << 20) - 8192, over_the_end] {
        let dir = TempDir::new().unwrap();
        let dirty = dirty(&dir, at);
        let path = dir.path().join("d.vhdx");
        std::fs::write(&path, &dirty.bytes).unwrap();
        let image = open_image(&path, dir.path()).unwrap();
        let found = read_marks(&image);
        let after = read_marks(&open_image(&dir.path().join("after.img"), dir.path()).unwrap());
        assert_eq!(after[700 << 8], crc32c::crc32c(&[9; 4096]));
        assert!(found == after, "at {at}");
        let copy = dir.path().join("copy.vhdx");
        std::fs::copy(&path, &copy).unwrap();
        support::qemu_img(&["check", "-q", "-r", "all", copy.to_str().unwrap()]);
        let raw = dir.path().join("copy.img");
        support::qemu_img(&["convert", "-O", "raw", copy.to_str().unwrap(), raw.to_str().unwrap()]);
        let qemu = open_image(&raw, dir.path()).unwrap();
        // QEMU 7.2 does not put an entry together again that goes on at the ring's start.
        assert!(found == read_marks(&qemu) || at == over_the_end, "at {at}");
        assert!(std::fs::read(&path).unwrap() == dirty.bytes, "the file was changed");
        image.check_unchanged().unwrap();
    }
}

/// A checksum of each 4 KiB, 0 where `next_data` says there is nothing.
fn read_marks(image: &Image) -> Vec<u32> {
    let mut marks = vec![0; (image.size() >> 12) as usize];
    let mut page = [0; 4096];
    let mut at = 0;
    while let Some(data) = image.next_data(at).unwrap() {
        for number in data.start >> 12..data.end.div_ceil(4096) {
            image.read_at(number << 12, &mut page).unwrap();
            let zero = page.iter().all(|byte| *byte == 0);
            marks[number as usize] = if zero { 0 } else { crc32c::crc32c(&page) };
        }
        at = data.end;
    }
    for at in (0..image.size()).step_by(1 << 20) {
        let mut byte = [1];
        image.read_at(at, &mut byte).unwrap();
        assert!(byte == [0] || marks[(at >> 12) as usize] != 0, "at {at}");
    }
    marks
}

/// What was flushed before the oldest entry that counts is not done again, though its entry is still whole.
#[test]
fn a_log_is_replayed_from_its_tail() {
    let dir = TempDir::new().unwrap();
    let good = dirty(&dir, 0);
    let (_, table) = hyperv::log_and_table(&good.bytes);
    let len = good.bytes.len() as u64;
    let garbage = || Change::Sector { at: table.start as u64, bytes: vec![0x77; 4096] };
    for (tail, replayed) in [(8192, false), (0, true)] {
        let entry = |sequence, tail, changes| {
            Entry { sequence, tail, id: LOG_ID, flushed: len, last: len, changes }.encode()
        };
        let mut bytes = good.bytes.clone();
        bytes[good.log.clone()].fill(0);
        let entries = [(0, entry(40, 0, vec![garbage()])), (8192, entry(41, tail, vec![]))];
        hyperv::set_log(&mut bytes, LOG_ID, &entries);
        let path = dir.path().join("tail.vhdx");
        std::fs::write(&path, bytes).unwrap();
        let image = open_image(&path, dir.path()).unwrap();
        assert_eq!(image.read_at(0, &mut [0; 512]).is_err(), replayed, "tail {tail}");
    }
}

#[test]
fn a_log_that_cannot_be_replayed_is_refused() {
    let dir = TempDir::new().unwrap();
    let good = dirty(&dir, 0);
    let path = dir.path().join("d.vhdx");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        open_image(&path, dir.path())
    };
    let refused = |why: &str, bytes: &[u8]| {
        let error = open(bytes).unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
    };
    // Without the newest entry the one before it still is a sequence; without any there is none.
    let mut empty = good.bytes.clone();
    empty[good.log.clone()].fill(0);
    refused("no whole sequence", &empty);
    let change = |changes: Vec<Change>, flushed: u64| {
        let mut bytes = empty.clone();
        let entry = Entry { sequence: 5, tail: 0, id: LOG_ID, flushed, last: flushed, changes };
        hyperv::set_log(&mut bytes, LOG_ID, &[(0, entry.encode())]);
        bytes
    };
    let len = good.bytes.len() as u64;
    refused("cut short", &change(vec![], len + MIB));
    let log = good.log.start as u64;
    let end = good.log.end as u64;
    for (at, len) in
        [(log, 4096), (log - 4096, 8192), (100, 4096), (end, 100), (u64::MAX - 4095, 4096)]
    {
        refused("its log changes", &change(vec![Change::Zeros { at, len }], 0));
    }
    refused("both of its region tables", &change(vec![Change::Zeros { at: 0, len: MIB }], len));
    for (at, value, why) in
        [(64, 1, "another version"), (71, 0xf0, "a region"), (70, 0, "log of 0 bytes")]
    {
        let mut bytes = good.bytes.clone();
        for header in [64 << 10, 128 << 10] {
            bytes[header + at] = value;
        }
        reseal(&mut bytes);
        refused(why, &bytes);
    }
    // A file that grew while it was written to, and is not yet that long: what is missing is zeros.
    let (_, table) = hyperv::log_and_table(&good.bytes);
    let mut sector = good.bytes[table.clone()][..4096].to_vec();
    sector[16..24].copy_from_slice(&(len.next_multiple_of(MIB) | 6).to_le_bytes());
    let grown = Entry {
        sequence: 1,
        tail: 0,
        id: LOG_ID,
        flushed: len,
        last: len.next_multiple_of(MIB) + MIB,
        changes: vec![Change::Sector { at: table.start as u64, bytes: sector }],
    };
    let mut bytes = empty.clone();
    hyperv::set_log(&mut bytes, LOG_ID, &[(0, grown.encode())]);
    let image = open(&bytes).unwrap();
    let mut found = vec![1; MIB as usize];
    image.read_at(2 * MIB, &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One changed byte in an entry, and it no longer counts: the disk is that of before or it is refused, and never half.
    #[test]
    fn a_damaged_log_is_never_half_replayed(at in 0usize..40_000, bit in 0u8..8) {
        static GOOD: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
        let (good, log) = GOOD.get_or_init(|| {
            let dirty = dirty(&TempDir::new().unwrap(), 0);
            (dirty.bytes, dirty.log.start)
        });
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("d.vhdx");
        std::fs::write(&path, good).unwrap();
        let mark = |image: &Image| {
            let mut byte = [0];
            [700, 1501].map(|mib| image.read_at(mib * MIB, &mut byte).map_or(0xee, |()| byte[0]))
        };
        prop_assert_eq!(mark(&open_image(&path, dir.path()).unwrap()), [9, 8]);
        let mut bytes = good.clone();
        bytes[log + at] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        match open_image(&path, dir.path()) {
            // All of it, one entry less, none but the one that is out of date, or the one that was cut short made whole.
            Ok(image) => {
                let found = mark(&image);
                let whole = [[9, 8], [0xee, 0], [0, 0], [9, 0xee]];
                prop_assert!(whole.contains(&found), "{:?}", found);
            }
            Err(ImageError::Corrupt { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
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
