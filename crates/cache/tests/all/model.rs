//! The property: whatever happens to the ring, no reader sees a wrong byte, and it keeps its bound.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rekindle_cache::{Cache, CacheConfig, Priority, RingKey};

use crate::{Fetches, block, killed_copy, ring_only, segments};

const KEYS: u64 = 60;
/// Holds about a third of the blocks; a segment is 64 KiB, the largest record 44.
const RING: u64 = 512 << 10;

#[derive(Clone, Debug)]
enum Op {
    Get { key: u64, priority: Priority },
    Peek { key: u64, at: usize, len: usize },
    Settle,
    Restart,
    Kill,
    Flip { segment: usize, at: u64 },
    Cut { segment: usize, at: u64 },
    Junk { segment: usize, at: u64 },
    GiveBack { bytes: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let priority = prop_oneof![
        Just(Priority::Guest),
        Just(Priority::Ahead),
        Just(Priority::Profile),
        Just(Priority::Scan),
        Just(Priority::Mover)
    ];
    let place = || (any::<usize>(), any::<u64>());
    prop_oneof![
        30 => (0..KEYS, priority).prop_map(|(key, priority)| Op::Get { key, priority }),
        30 => (0..KEYS, 0..41_000usize, 0..20_000usize)
            .prop_map(|(key, at, len)| Op::Peek { key, at, len }),
        8 => Just(Op::Settle),
        2 => Just(Op::Restart),
        2 => Just(Op::Kill),
        4 => place().prop_map(|(segment, at)| Op::Flip { segment, at }),
        2 => place().prop_map(|(segment, at)| Op::Cut { segment, at }),
        2 => place().prop_map(|(segment, at)| Op::Junk { segment, at }),
        1 => (0..RING).prop_map(|bytes| Op::GiveBack { bytes }),
    ]
}

/// Damages one of the segments somewhere.
fn damage(dir: &Path, segment: usize, at: u64, how: impl FnOnce(&std::fs::File, u64)) {
    let paths = segments(dir);
    let Some(path) = paths.get(segment % paths.len().max(1)) else { return };
    // It may be pruned in between.
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    if len > 0 {
        how(&file, at % len);
    }
}

fn flip(file: &std::fs::File, at: u64) {
    let mut byte = [0];
    if file.read_exact_at(&mut byte, at).is_ok() {
        let _ = file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at);
    }
}

fn junk(file: &std::fs::File, at: u64) {
    let bytes: Vec<u8> = (0..9000u64).map(|i| ((i * at) >> 3) as u8).collect();
    let _ = file.write_all_at(&bytes, at);
}

fn config(dir: &Path, sealed: bool) -> CacheConfig {
    let key = sealed.then(|| RingKey::new([7; 32]));
    CacheConfig { ram_bytes: 100 << 10, key, ..ring_only(dir, RING) }
}

/// What a peek gives, if anything, is what belongs there.
fn peek(cache: &Cache, key: u64, at: usize, len: usize) -> Result<(), TestCaseError> {
    let wanted = block(key);
    let found = cache.peek(&wanted.hash(), at..at + len);
    let expected = wanted.bytes().get(at..at + len);
    if let Some(found) = found {
        prop_assert_eq!(Some(&found[..]), expected);
    }
    Ok(())
}

async fn run(ops: Vec<Op>, sealed: bool) -> Result<(), TestCaseError> {
    let mut dir = tempfile::tempdir().unwrap();
    let mut cache = Cache::open(config(dir.path(), sealed)).unwrap();
    for op in ops {
        match op {
            Op::Get { key, priority } => {
                Fetches::default().get(&cache, &block(key), priority).await
            }
            Op::Peek { key, at, len } => peek(&cache, key, at, len)?,
            Op::Settle => cache.settle().await,
            Op::Restart => {
                cache.close().await;
                cache = Cache::open(config(dir.path(), sealed)).unwrap();
            }
            Op::Kill => {
                let copy = killed_copy(dir.path());
                cache = Cache::open(config(copy.path(), sealed)).unwrap();
                dir = copy;
            }
            Op::Flip { segment, at } => damage(dir.path(), segment, at, flip),
            Op::Cut { segment, at } => {
                damage(dir.path(), segment, at, |file, at| file.set_len(at).unwrap());
            }
            Op::Junk { segment, at } => damage(dir.path(), segment, at, junk),
            Op::GiveBack { bytes } => {
                cache.give_back(bytes).await;
            }
        }
    }
    cache.settle().await;
    for key in 0..KEYS {
        peek(&cache, key, 0, block(key).bytes().len())?;
        Fetches::default().get(&cache, &block(key), Priority::Guest).await;
    }
    cache.settle().await;
    let files = segments(dir.path());
    let on_disk: u64 = files.iter().map(|path| path.metadata().unwrap().len()).sum();
    prop_assert!(on_disk <= RING && cache.stats().ring_bytes <= RING, "{:?}", cache.stats());
    prop_assert_eq!(cache.stats().in_flight, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_reader_sees_a_wrong_byte(
        ops in prop::collection::vec(op(), 1..300),
        sealed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(ops, sealed))?;
    }
}

/// The same under readers on several threads, with damage and pruning beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_readers_see_no_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(config(dir.path(), true)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let vandal = {
        let (done, dir) = (done.clone(), dir.path().to_owned());
        std::thread::spawn(move || {
            for step in (0u64..).take_while(|_| !done.load(Ordering::Relaxed)) {
                let at = step.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                match step % 8 {
                    0 => damage(&dir, step as usize, at, |file, at| file.set_len(at).unwrap()),
                    1 => damage(&dir, step as usize, at, junk),
                    _ => damage(&dir, step as usize, at, flip),
                }
            }
        })
    };
    // How much is damaged and pruned while they read is the scheduler's: they read on until there
    // was some of each.
    let deadline = Instant::now() + Duration::from_secs(120);
    for round in 0.. {
        let readers: Vec<_> = (0..6)
            .map(|seed| tokio::spawn(read_at_random(cache.clone(), 6 * round + seed)))
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        let stats = cache.stats();
        if stats.bad_slots > 0 && stats.ring_hits > 0 && stats.pruned_blocks > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
    }
    done.store(true, Ordering::Relaxed);
    vandal.join().unwrap();
}

async fn read_at_random(cache: Arc<Cache>, seed: u64) {
    let mut random = seed;
    for _ in 0..2_000 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (key, at) = ((random >> 33) % KEYS, (random >> 40) as usize % 30_000);
        match random >> 61 {
            0..=3 => peek(&cache, key, at, 4096).unwrap(),
            4 => Fetches::default().get(&cache, &block(key), Priority::Guest).await,
            _ => Fetches::default().get(&cache, &block(key), Priority::Scan).await,
        }
    }
}
