//! Damaged and hostile images: no panic, no memory beyond the named bounds, no endless work.
//!
//! The allocator counts, which needs `unsafe`; nothing else here does.

#![expect(clippy::unwrap_used, reason = "a helper of a test ends it as the test itself would")]
#![allow(unsafe_code)]

#[path = "support/deltas.rs"]
mod deltas;
#[path = "support/images.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rekindle_image::open_image;
use support::{FORMATS, MIB, convert, reseal, write_raw};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        exercise(&path, dir.path());
        let peak = PEAK.load(Ordering::Relaxed) - before;
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
