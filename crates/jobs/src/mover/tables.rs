//! Where a disk's partition tables lie: an MBR's chain of extended ones, and a GPT's header and entries with their copies.

use std::ops::Range;

use crate::JobError;

const SECTOR: u64 = 512;
/// Extended partition tables that are followed: more than any system has.
const EXTENDED_MAX: usize = 128;
/// The most bytes of entries that a GPT is believed to have.
const ENTRIES_MAX: u64 = 1 << 20;

/// An MBR's entry: its type, where it begins (in sectors).
struct Entry {
    kind: u8,
    start: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, |four| u64::from(u32::from_le_bytes(four)))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}

/// The entries of a table with its mark; none of a sector without.
fn entries(sector: &[u8]) -> Vec<Entry> {
    if sector.get(510..512) != Some(&[0x55, 0xAA]) {
        return Vec::new();
    }
    let entry = |n: usize| Entry {
        kind: sector[446 + 16 * n + 4],
        start: u32_at(sector, 446 + 16 * n + 8),
    };
    (0..4).map(entry).filter(|entry| entry.kind != 0).collect()
}

fn is_extended(entry: &Entry) -> bool {
    matches!(entry.kind, 0x05 | 0x0F | 0x85)
}

fn sector(number: u64) -> Option<Range<u64>> {
    let start = number.checked_mul(SECTOR)?;
    Some(start..start.checked_add(SECTOR)?)
}

/// All parts of a disk of `size` bytes that tell its partitions. What a table says that cannot be is left out.
pub(crate) async fn tables<F>(
    size: u64,
    read: impl Fn(Range<u64>) -> F,
) -> Result<Vec<Range<u64>>, JobError>
where
    F: Future<Output = Result<Vec<u8>, JobError>>,
{
    let on_disk = |number: u64| sector(number).filter(|range| range.end <= size);
    let Some(first) = on_disk(0) else { return Ok(Vec::new()) };
    let mut found = vec![first.clone()];
    let primary = entries(&read(first).await?);
    for extended in primary.iter().filter(|entry| is_extended(entry)) {
        let mut at = extended.start;
        for _ in 0..EXTENDED_MAX {
            let Some(range) = on_disk(at).filter(|range| !found.contains(range)) else { break };
            let table = entries(&read(range.clone()).await?);
            found.push(range);
            let next = table.iter().find(|entry| is_extended(entry));
            let Some(next) = next else { break };
            at = extended.start.saturating_add(next.start);
        }
    }
    if let Some(range) = primary.iter().find(|entry| entry.kind == 0xEE).and_then(|_| on_disk(1)) {
        let header = read(range).await?;
        let copy = on_disk(u64_at(&header, 32)).filter(|_| header.starts_with(b"EFI PART"));
        found.extend(gpt(&header, 1, size));
        if let Some(range) = copy {
            let number = range.start / SECTOR;
            found.extend(gpt(&read(range).await?, number, size));
        }
    }
    Ok(found)
}

/// A GPT's header at this sector and its entries (UEFI 2.10, 5.3.2).
fn gpt(header: &[u8], number: u64, size: u64) -> Vec<Range<u64>> {
    if !header.starts_with(b"EFI PART") {
        return Vec::new();
    }
    let bytes = u32_at(header, 80).saturating_mul(u32_at(header, 84)).min(ENTRIES_MAX);
    let entries = u64_at(header, 72).checked_mul(SECTOR);
    let entries = entries.and_then(|start| Some(start..start.checked_add(bytes)?));
    let all = [sector(number), entries];
    all.into_iter().flatten().filter(|range| range.end <= size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(disk: &mut [u8], sector: usize, n: usize, kind: u8, start: u32) {
        let at = sector * 512 + 446 + 16 * n;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xAA]);
    }

    fn header(disk: &mut [u8], sector: usize, (other, entries): (u64, u64)) {
        let at = sector * 512;
        disk[at..at + 8].copy_from_slice(b"EFI PART");
        disk[at + 32..at + 40].copy_from_slice(&other.to_le_bytes());
        disk[at + 72..at + 80].copy_from_slice(&entries.to_le_bytes());
        disk[at + 80..at + 84].copy_from_slice(&128u32.to_le_bytes());
        disk[at + 84..at + 88].copy_from_slice(&128u32.to_le_bytes());
    }

    async fn sectors(disk: &[u8]) -> Vec<(u64, u64)> {
        let read = |range: Range<u64>| {
            let part = disk[range.start as usize..range.end as usize].to_vec();
            std::future::ready(Ok(part))
        };
        let found = tables(disk.len() as u64, read).await.unwrap();
        found
            .into_iter()
            .map(|range| (range.start / 512, (range.end - range.start) / 512))
            .collect()
    }

    #[tokio::test]
    async fn extended_tables_are_followed_and_no_circle() {
        let mut disk = vec![0; 4096 * 512];
        assert_eq!(sectors(&disk).await, [(0, 1)], "a disk without a table");
        entry(&mut disk, 0, 0, 0x83, 64);
        entry(&mut disk, 0, 1, 0x05, 1000);
        entry(&mut disk, 1000, 0, 0x83, 2);
        entry(&mut disk, 1000, 1, 0x05, 500);
        entry(&mut disk, 1500, 1, 0x05, 0);
        assert_eq!(sectors(&disk).await, [(0, 1), (1000, 1), (1500, 1)]);
        entry(&mut disk, 1500, 1, 0x05, u32::MAX);
        assert_eq!(sectors(&disk).await, [(0, 1), (1000, 1), (1500, 1)], "outside the disk");
    }

    #[tokio::test]
    async fn a_gpt_and_its_copy_are_found_wherever_they_say() {
        let mut disk = vec![0; 4096 * 512];
        entry(&mut disk, 0, 0, 0xEE, 1);
        header(&mut disk, 1, (4000, 2048));
        header(&mut disk, 4000, (1, 3000));
        assert_eq!(sectors(&disk).await, [(0, 1), (1, 1), (2048, 32), (4000, 1), (3000, 32)]);
        header(&mut disk, 1, (u64::MAX, u64::MAX / 2));
        assert_eq!(sectors(&disk).await, [(0, 1), (1, 1)], "nothing is believed that cannot be");
    }
}
