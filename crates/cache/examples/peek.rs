//! What a peek costs, in RAM and in the ring's page cache: `cargo run --release --example peek`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rekindle_block::{Block, BlockHash};
use rekindle_cache::{Cache, CacheConfig, Priority};

const BLOCK: usize = 256 << 10;
const RAM_BLOCKS: u64 = 256;
const RING_BLOCKS: u64 = 3000;

fn block(key: u64) -> Block {
    let word = |at: u64| (key << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    Block::seal((0..BLOCK as u64 / 8).flat_map(word).collect())
}

async fn fill(
    cache: &Arc<Cache>,
    keys: std::ops::Range<u64>,
    priority: Priority,
) -> Vec<BlockHash> {
    let mut names = Vec::new();
    for key in keys {
        let block = block(key);
        names.push(block.hash());
        let fetch = std::future::ready(Ok::<_, ()>(block.clone()));
        if cache.get(&block.hash(), BLOCK as u32, priority, fetch).await.is_err() {
            eprintln!("fetch failed");
        }
    }
    cache.settle().await;
    names
}

/// Reads `len` bytes at random aligned places; prints time per read, rate and how many were at hand.
fn measure(what: &str, cache: &Cache, names: &[BlockHash], len: usize, reads: u64) {
    let mut random = 1u64;
    let mut hits = 0u64;
    let started = Clock::start();
    for _ in 0..reads {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let name = &names[(random >> 33) as usize % names.len()];
        let at = (random >> 20) as usize % (BLOCK / len) * len;
        hits += u64::from(std::hint::black_box(cache.peek(name, at..at + len)).is_some());
    }
    let at_hand = hits as f64 * 100.0 / reads as f64;
    println!("{what:24} {}  {at_hand:5.1} % at hand", started.say(reads, len));
}

/// Wall time, and the time this thread had a processor: on a busy machine the second counts.
struct Clock {
    wall: Instant,
    ran: u64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), ran: ran() }
    }

    fn say(&self, reads: u64, len: usize) -> String {
        let wall = self.wall.elapsed().as_nanos() as f64 / reads as f64;
        let ran = (ran() - self.ran) as f64 / reads as f64;
        format!("{wall:9.0} ns wall {ran:9.0} ns run {:7.2} GB/s run", len as f64 / ran)
    }
}

/// Nanoseconds that this thread has run, as the scheduler counts them.
fn ran() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

fn copies(what: &str, len: usize) {
    let from = Bytes::from(vec![1u8; len]);
    let mut to = vec![0u8; len];
    let started = Clock::start();
    for _ in 0..5000 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
    }
    println!("{what:24} {}", started.say(5000, len));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let root_dir = dir.join(format!("rekindle-peek-{}", std::process::id()));
    let config = CacheConfig {
        root_dir: root_dir.clone(),
        ram_bytes: 128 << 20,
        max_bytes: Some(2 << 30),
        min_free_percent: 1,
        key: None,
    };
    let cache = Cache::open(config)?;
    let ram = fill(&cache, 0..RAM_BLOCKS, Priority::Guest).await;
    let ring = fill(&cache, 10_000..10_000 + RING_BLOCKS, Priority::Scan).await;
    let absent: Vec<_> = (0..1000u64).map(|n| BlockHash::of(&n.to_le_bytes())).collect();
    for _ in 0..2 {
        measure("RAM, 4 KiB", &cache, &ram, 4096, 2_000_000);
        measure("RAM, 256 KiB", &cache, &ram, BLOCK, 2_000_000);
        measure("ring, 4 KiB", &cache, &ring, 4096, 500_000);
        measure("ring, 64 KiB", &cache, &ring, 64 << 10, 50_000);
        measure("ring, 256 KiB", &cache, &ring, BLOCK, 20_000);
        measure("absent", &cache, &absent, 4096, 2_000_000);
        copies("(copying 256 KiB)", BLOCK);
    }
    println!("{:?}", cache.stats());
    cache.close().await;
    std::fs::remove_dir_all(root_dir)?;
    Ok(())
}
