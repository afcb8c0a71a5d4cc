//! How long the READs and WRITEs of a disk take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of all buckets but the last, which has none.
pub const LATENCY_BOUNDS_MICROS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000, 30_000_000,
];
const BUCKETS: usize = LATENCY_BOUNDS_MICROS.len() + 1;

/// Calls by how long they took. 128 bytes.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    buckets: [AtomicU64; BUCKETS],
    total_micros: AtomicU64,
}

impl Latency {
    /// A call that was answered at once: within the first bound, so the clock is not asked.
    pub(crate) fn at_once(&self) {
        self.buckets[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn view(&self) -> LatencyView {
        LatencyView {
            buckets: self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed)),
            total_micros: self.total_micros.load(Ordering::Relaxed),
        }
    }
}

/// The READs and the WRITEs of a disk.
#[derive(Debug, Default)]
pub(crate) struct DiskLatency {
    pub(crate) reads: Latency,
    pub(crate) writes: Latency,
}

impl DiskLatency {
    pub(crate) fn view(&self, disk: &str) -> DiskLatencyView {
        let disk = disk.to_owned();
        DiskLatencyView { disk, reads: self.reads.view(), writes: self.writes.view() }
    }
}

/// How long the calls of one disk took.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DiskLatencyView {
    /// The disk's id.
    pub disk: String,
    /// Its READs.
    pub reads: LatencyView,
    /// Its WRITEs.
    pub writes: LatencyView,
}

/// Calls by how long they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyView {
    /// Calls that took at most [`LATENCY_BOUNDS_MICROS`] of the same place and more than the one before; in the last
    /// bucket, more than the last bound.
    pub buckets: [u64; BUCKETS],
    /// Time of all calls together, but for those answered at once.
    pub total_micros: u64,
}

impl LatencyView {
    /// How many calls there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl<'a> Sum<&'a LatencyView> for LatencyView {
    fn sum<I: Iterator<Item = &'a LatencyView>>(views: I) -> Self {
        views.fold(Self::default(), |mut all, one| {
            all.buckets.iter_mut().zip(one.buckets).for_each(|(sum, count)| *sum += count);
            all.total_micros += one.total_micros;
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_in_the_bucket_whose_bound_it_does_not_pass() {
        let latency = Latency::default();
        latency.at_once();
        for micros in [0, 100, 101, 30_000_000, 30_000_001] {
            latency.took(Duration::from_micros(micros));
        }
        let view = latency.view();
        assert_eq!((view.buckets[0], view.buckets[1]), (3, 1));
        assert_eq!(view.buckets[BUCKETS - 2..], [1, 1]);
        assert_eq!(view.total_micros, 60_000_202);
        assert_eq!([&view, &view].into_iter().sum::<LatencyView>().count(), 12);
    }
}
