//! Damaged and hostile images: no panic, no memory beyond the named bounds, no endless work.
//!
//! The allocator counts, which needs `unsafe`.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]
#![allow(unsafe_code)]

#[path = "support/counting.rs"]
mod counting;
#[path = "support/deltas.rs"]
mod deltas;
#[path = "support/hyperv.rs"]
mod hyperv;
#[path = "support/images.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use counting::peak_of;
use proptest::prelude::*;
use rekindle_image::open_image;
use support::{FORMATS, MIB, convert, reseal, write_raw};

/// Memory is counted of all threads, so that cases of different tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small image of each format and the files it has.
fn samples() -> &'static Vec<(String, Vec<u8>)> {
    static SAMPLES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let dir = tempfile::TempDir::new().unwrap();
        let raw = dir.path().join("source.img");
        write_raw(&raw, 3 * MIB);
        let mut samples = vec![("stream.vmdk".into(), support::stream_with_footer(4))];
        for (number, (_, args, end)) in FORMATS.iter().enumerate() {
            let disk = convert(&raw, &dir.path().join(format!("disk{number}.{end}")), args);
            samples.push((format!("disk.{end}"), std::fs::read(disk).unwrap()));
        }
        samples
    })
}

/// One change: a byte anywhere in what matters, or a field of a header set to something extreme.
#[derive(Clone, Debug)]
enum Change {
    Byte { at: usize, value: u8 },
    Word { at: usize, value: u64 },
    Cut { keep: f64 },
}

fn change() -> impl Strategy<Value = Change> {
    let extreme = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 31),
        Just(0x100_0000_0000_0000),
        Just(1 << 62),
        any::<u64>(),
        (0u32..64).prop_map(|shift| 1 << shift),
        (0u32..64).prop_map(|shift| (1_u64 << shift).swap_bytes()),
    ];
    prop_oneof![
        4 => (0usize..2048, any::<u8>()).prop_map(|(at, value)| Change::Byte { at, value }),
        4 => (0usize..128, extreme.clone()).prop_map(|(at, value)| Change::Word { at, value }),
        2 => (0usize..400_000, extreme.clone()).prop_map(|(at, value)| Change::Word { at, value }),
        // A VHDX has its metadata and its table in MiBs of their own.
        2 => (prop::sample::select(vec![2 << 20, 3 << 20, (3 << 20) + 65_536]), 0usize..160, extreme)
            .prop_map(|(from, at, value)| Change::Word { at: from + at, value }),
        1 => (0.0f64..1.0).prop_map(|keep| Change::Cut { keep }),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = bytes.len();
    match change {
        Change::Byte { at, value } => {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte = *value;
            }
        }
        Change::Word { at, value } => {
            if let Some(word) = bytes.get_mut(*at..at + 8) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        Change::Cut { keep } => bytes.truncate((len as f64 * keep) as usize),
    }
}

/// Opens, looks for data and reads at the ends: as an ingest would, but for a bounded number of steps.
fn exercise(path: &std::path::Path, root: &std::path::Path) {
    let Ok(image) = open_image(path, root) else { return };
    let mut at = 0;
    for _ in 0..200 {
        match image.next_data(at) {
            Ok(Some(range)) => {
                assert!(range.start >= at && range.start < range.end && range.end <= image.size());
                let mut buf = vec![0; (range.end - range.start).min(70_000) as usize];
                let _ = image.read_at(range.start, &mut buf);
                at = range.end;
            }
            Ok(None) | Err(_) => break,
        }
    }
    let mut buf = vec![0; image.size().min(300_000) as usize];
    let _ = image.read_at(image.size() - buf.len() as u64, &mut buf);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2500))]

    #[test]
    fn no_image_panics_or_takes_more_than_its_bounds(
        sample in 0usize..FORMATS.len() + 1,
        changes in prop::collection::vec(change(), 1..5),
        resealed: bool,
    ) {
        let _turn = turn();
        let (name, good) = &samples()[sample];
        let mut bytes = good.clone();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        if resealed {
            reseal(&mut bytes);
        }
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        drop(bytes);
        let started = Instant::now();
        let ((), peak) = peak_of(|| exercise(&path, dir.path()));
        // Tables lie within the file, so a small file cannot cost more than it and a little scratch.
        prop_assert!(peak < 16 << 20, "{peak} bytes for a file of {}", good.len());
        prop_assert!(started.elapsed() < Duration::from_secs(10));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The same for the data of ESXi's deltas, under a descriptor as it should be.
    #[test]
    fn no_delta_panics_or_hangs(
        se_sparse: bool,
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let _turn = turn();
        let kind = if se_sparse { "SESPARSE" } else { "VMFSSPARSE" };
        let dir = tempfile::TempDir::new().unwrap();
        deltas::write_delta(dir.path(), "d.vmdk", kind, 1, 2 * MIB, ("d.vmdk", "ffffffff"));
        let data = dir.path().join("d-delta.vmdk");
        let mut bytes = std::fs::read(&data).unwrap();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        std::fs::write(&data, &bytes).unwrap();
        drop(bytes);
        let started = Instant::now();
        exercise(&dir.path().join("d.vmdk"), dir.path());
        prop_assert!(started.elapsed() < Duration::from_secs(10));
    }
}

/// A VHD, a VHDX and a child of each; and a VHDX with a log to replay.
fn children() -> &'static [(String, Vec<u8>)] {
    static CHILDREN: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    CHILDREN.get_or_init(|| {
        let base =
            |end: &str| samples().iter().find(|(name, _)| name.ends_with(end)).unwrap().1.clone();
        let (vhd, vhdx) = (base("disk.vhd"), base("disk.vhdx"));
        let parent = |id, relative| hyperv::Parent { id, relative, absolute: "" };
        let child = hyperv::VhdxChild {
            layer: 1,
            size: 3 * MIB,
            sector: 512,
            blocks: 0..3,
            parent: parent(hyperv::vhdx_id(&vhdx), "base.vhdx"),
        };
        let mut dirty = vhdx.clone();
        let (_, table) = hyperv::log_and_table(&vhdx);
        let at = table.start as u64;
        let changes = vec![
            hyperv::Change::Zeros { at, len: 8192 },
            hyperv::Change::Sector { at, bytes: vhdx[table][..4096].to_vec() },
        ];
        let len = vhdx.len() as u64;
        let (id, flushed, last) = ([9; 16], len, len);
        let entry = hyperv::Entry { sequence: 3, tail: 0, id, flushed, last, changes };
        hyperv::set_log(&mut dirty, id, &[(0, entry.encode())]);
        vec![
            (
                "child.vhd".into(),
                hyperv::vhd_child(1, 3 * MIB, &parent(hyperv::vhd_id(&vhd), "base.vhd")),
            ),
            ("child.vhdx".into(), hyperv::vhdx_child(&child)),
            ("dirty.vhdx".into(), dirty),
            ("base.vhd".into(), vhd),
            ("base.vhdx".into(), vhdx),
        ]
    })
}

/// A change of what [`change`] leaves out: a locator, bitmaps, a log.
fn change_of_child() -> impl Strategy<Value = Change> {
    let places = [64 << 10, 1 << 20, 2 << 20, 3 << 20, (3 << 20) + 65_536, 4 << 20, 512, 1024];
    let near = (prop::sample::select(places.to_vec()), 0usize..600, any::<u64>());
    prop_oneof![
        2 => near.prop_map(|(from, at, value)| Change::Word { at: from + at, value: value >> (value % 64) }),
        1 => change(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The same for what has a parent, or a log: sealed, so that what is behind the checksums is looked at.
    #[test]
    fn no_child_and_no_log_panics_or_hangs(
        sample in 0usize..3,
        changes in prop::collection::vec(change_of_child(), 1..5),
        sealed: bool,
    ) {
        let _turn = turn();
        let dir = tempfile::TempDir::new().unwrap();
        for (name, bytes) in &children()[3..] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let (name, good) = &children()[sample];
        let mut bytes = good.clone();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        if sealed {
            reseal(&mut bytes);
            reseal_log(&mut bytes);
        }
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        drop(bytes);
        let started = Instant::now();
        let ((), peak) = peak_of(|| exercise(&path, dir.path()));
        prop_assert!(peak < 16 << 20, "{peak} bytes");
        prop_assert!(started.elapsed() < Duration::from_secs(10));
    }
}

/// Makes the checksum of a log's first entry right again.
fn reseal_log(bytes: &mut [u8]) {
    let Some(head) = bytes.get(1 << 20..(1 << 20) + 16) else { return };
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    if !head.starts_with(b"loge") {
        return;
    }
    let Some(entry) = bytes.get_mut(1 << 20..(1 << 20) + len).filter(|entry| entry.len() > 8)
    else {
        return;
    };
    entry[4..8].fill(0);
    let sum = crc32c::crc32c(entry);
    entry[4..8].copy_from_slice(&sum.to_le_bytes());
}
