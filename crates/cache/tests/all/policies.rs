//! The ring's choice of what goes, beside FIFO, LRU and S3-FIFO of the same size, over recorded reads of VMs.
//!
//! A trace is the order in which blocks of 256 KiB were read; `tests/traces/record` made them. Here a block stands for one: what
//! goes and what stays depends on how many fit, not on how large they are.

mod fifo;
mod lru;
mod s3_fifo;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rekindle_block::Block;
use rekindle_cache::{Cache, Priority};

use crate::{Fetches, ring_only, sized_block};

/// A policy that holds a number of blocks.
trait Policy {
    /// Whether the block was there. It is afterwards.
    fn read(&mut self, block: u32) -> bool;
}

/// With its header a record takes 16 KiB of the ring.
const BLOCK: usize = 12 << 10;
const RECORD: u64 = 16 << 10;

const TRACES: [(&str, &str); 2] =
    [("boot", include_str!("../traces/boot")), ("mixed", include_str!("../traces/mixed"))];

/// Percents of a trace's distinct blocks that fit.
const SIZES: [usize; 3] = [10, 25, 50];

/// The blocks of a trace: one number, or the first and last of some that follow one another, to a word.
fn blocks(trace: &str) -> Vec<u32> {
    let words = trace.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let number = |text: &str| text.parse::<u32>().unwrap();
    words
        .flat_map(|word| match word.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(word)..=number(word),
        })
        .collect()
}

fn percent(hits: usize, reads: usize) -> f64 {
    100.0 * hits as f64 / reads as f64
}

fn hits_of(mut policy: impl Policy, reads: &[u32]) -> f64 {
    percent(reads.iter().filter(|&&block| policy.read(block)).count(), reads.len())
}

/// The ring itself, of as many bytes as `held` records take. It has less room than the others: segments' ends and footers are
/// its own.
async fn hits_of_ring(held: usize, reads: &[u32]) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let cache: Arc<Cache> = Cache::open(ring_only(dir.path(), held as u64 * RECORD)).unwrap();
    let fetches = Fetches::default();
    let mut made: HashMap<u32, Block> = HashMap::new();
    for &block in reads {
        let wanted = made.entry(block).or_insert_with(|| sized_block(block.into(), BLOCK));
        let before = fetches.count();
        fetches.get(&cache, wanted, Priority::Guest).await;
        if fetches.count() > before {
            // What a loaded machine's ring is late with would count as a miss.
            cache.settle().await;
        }
    }
    percent(reads.len() - fetches.count(), reads.len())
}

/// FIFO and LRU keep what was read last, and a whole system that is read again was not. S3-FIFO keeps what was read before, and so
/// does the ring, which is S3-FIFO by whole segments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_keeps_what_is_read_again() {
    let mut sums = [0.0; 4];
    println!("{:24} {:>6} {:>6} {:>8} {:>6}", "percent of hits", "FIFO", "LRU", "S3-FIFO", "ring");
    for (name, trace) in TRACES {
        let reads = blocks(trace);
        let distinct = reads.iter().collect::<HashSet<_>>().len();
        for size in SIZES {
            let held = distinct * size / 100;
            let row = [
                hits_of(fifo::Fifo::new(held), &reads),
                hits_of(lru::Lru::new(held), &reads),
                hits_of(s3_fifo::S3Fifo::new(held), &reads),
                hits_of_ring(held, &reads).await,
            ];
            let [fifo, lru, s3_fifo, ring] = row;
            println!(
                "{:24} {fifo:6.1} {lru:6.1} {s3_fifo:8.1} {ring:6.1}",
                format!("{name}, {size} % of {distinct} fit")
            );
            sums.iter_mut().zip(row).for_each(|(sum, of_row)| *sum += of_row);
        }
    }
    let [fifo, lru, s3_fifo, ring] = sums;
    assert!(ring > fifo.max(lru) + 10.0, "{sums:?}");
    // By whole segments, of which so small a ring has eight, it is a little behind.
    assert!(ring > 0.9 * s3_fifo, "{sums:?}");
}
