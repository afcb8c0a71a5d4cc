//! Version 3, with clusters of 64 KiB (docs/interop/qcow2.txt of QEMU). All tables have their places
//! from the beginning:
//!
//! ```text
//! header | L1 table | refcount table | refcount blocks | L2 tables, in the disk's order | data
//! ```

use std::ops::Range;

use super::CLUSTER;

const MAGIC: &[u8; 4] = b"QFI\xfb";
const HEADER_BYTES: u32 = 104;
/// Entries of an L2 table, of 8 bytes each: it covers 512 MiB.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// Counts of a refcount block, of 2 bytes each: it covers 2 GiB of the file.
const COUNTS: u64 = CLUSTER / 2;
/// The cluster has one user, and may be written in place.
const COPIED: u64 = 1 << 63;

/// Where things are in the file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: u64,
    l2_tables: u64,
    count_blocks: u64,
    count_table_at: u64,
    counts_at: u64,
    pub(super) entries_at: u64,
    pub(super) data_at: u64,
}

impl Layout {
    pub(super) fn new(size: u64) -> Self {
        let clusters = size.div_ceil(CLUSTER);
        let l2_tables = clusters.div_ceil(L2_ENTRIES);
        let l1 = (l2_tables * 8).div_ceil(CLUSTER).max(1);
        // The counts count themselves: more of them until they do.
        let mut count_blocks = 1u64;
        loop {
            let table = (count_blocks * 8).div_ceil(CLUSTER);
            let wanted = (1 + l1 + table + count_blocks + l2_tables + clusters).div_ceil(COUNTS);
            if wanted <= count_blocks {
                break;
            }
            count_blocks = wanted;
        }
        let count_table_at = (1 + l1) * CLUSTER;
        let counts_at = count_table_at + (count_blocks * 8).next_multiple_of(CLUSTER);
        let entries_at = counts_at + count_blocks * CLUSTER;
        let data_at = entries_at + l2_tables * CLUSTER;
        Self { size, l2_tables, count_blocks, count_table_at, counts_at, entries_at, data_at }
    }

    pub(super) fn head(&self) -> Vec<(u64, Vec<u8>)> {
        let nth = |first: u64, n: u64| first + n * CLUSTER;
        let l1 = (0..self.l2_tables).map(|n| nth(self.entries_at, n) | COPIED);
        let counts = (0..self.count_blocks).map(|n| nth(self.counts_at, n));
        let (at, own) = self.counts(0..self.data_at);
        vec![
            (0, self.header()),
            (CLUSTER, l1.flat_map(u64::to_be_bytes).collect()),
            (self.count_table_at, counts.flat_map(u64::to_be_bytes).collect()),
            (at, own),
        ]
    }

    fn header(&self) -> Vec<u8> {
        // No disk has so many tables as to not fit: 2^32 of them cover 2^61 bytes.
        let whole = |count: u64| u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
        let mut header = Vec::with_capacity(HEADER_BYTES as usize + 8);
        header.extend(MAGIC);
        header.extend(3u32.to_be_bytes());
        // No backing file.
        header.extend([0; 12]);
        header.extend(CLUSTER.trailing_zeros().to_be_bytes());
        header.extend(self.size.to_be_bytes());
        // Not encrypted.
        header.extend([0; 4]);
        header.extend(whole(self.l2_tables));
        header.extend(CLUSTER.to_be_bytes());
        header.extend(self.count_table_at.to_be_bytes());
        header.extend(whole((self.count_blocks * 8).div_ceil(CLUSTER)));
        // No snapshots, no features.
        header.extend([0; 12 + 24]);
        // Counts of 2^4 bits.
        header.extend(4u32.to_be_bytes());
        header.extend(HEADER_BYTES.to_be_bytes());
        // The end of the extensions.
        header.extend([0; 8]);
        header
    }

    /// A user for each cluster of the file in `places`.
    pub(super) fn counts(&self, places: Range<u64>) -> (u64, Vec<u8>) {
        let clusters = (places.end - places.start) / CLUSTER;
        let counts = 1u16.to_be_bytes().repeat(clusters as usize);
        (self.counts_at + places.start / CLUSTER * 2, counts)
    }
}

pub(super) fn decode(entry: &[u8]) -> Option<u64> {
    let entry = u64::from_be_bytes(entry.try_into().ok()?);
    (entry != 0).then_some(entry & !COPIED)
}

pub(super) fn encode(place: u64, entry: &mut [u8]) {
    entry.copy_from_slice(&(place | COPIED).to_be_bytes());
}
