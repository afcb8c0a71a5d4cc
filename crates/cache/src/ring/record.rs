use rekindle_block::{BlockHash, BlockSize};

/// The ring's unit: everything starts on a page, and each page of data has its own sum.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a header before its sums.
const FIXED: usize = 64;
/// Bytes of one sum.
pub(super) const SUM: usize = 4;
const MAGIC: &[u8; 8] = b"RKRING01";

/// Where a record lies in its segment, and how long its block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The page of the header.
    pub(super) page: u32,
    /// Bytes of the block.
    pub(super) len: u32,
}

impl Span {
    /// A span read from disk; `None` if no record can be like that.
    pub(super) fn checked(page: u32, len: u32) -> Option<Self> {
        (len > 0 && u64::from(len) <= BlockSize::MAX.bytes()).then_some(Self { page, len })
    }

    fn header_pages(self) -> u64 {
        (FIXED + self.sums_len()).div_ceil(PAGE) as u64
    }

    /// Pages of the whole record: at most 2 + 1024.
    pub(super) fn pages(self) -> u32 {
        (self.header_pages() + u64::from(self.len).div_ceil(PAGE as u64)) as u32
    }

    /// Bytes of the sums of all data pages.
    pub(super) fn sums_len(self) -> usize {
        SUM * (self.len as usize).div_ceil(PAGE)
    }

    /// Where they begin.
    pub(super) fn sums_at(self) -> u64 {
        u64::from(self.page) * PAGE as u64 + FIXED as u64
    }

    /// Where data page `index` lies.
    pub(super) fn data_at(self, index: usize) -> u64 {
        (u64::from(self.page) + self.header_pages() + index as u64) * PAGE as u64
    }

    /// Where the record ends.
    pub(super) fn end(self) -> u64 {
        (u64::from(self.page) + u64::from(self.pages())) * PAGE as u64
    }
}

/// ```text
///  0  magic            24  name, 32 bytes
///  8  segment id       56  CRC-32C of 0..56 and of the sums
/// 16  page             60  zero
/// 20  length           64  sums, little-endian, one per 4 KiB of data
/// ```
pub(super) fn encode_header(segment: u64, span: Span, hash: &BlockHash, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0; span.header_pages() as usize * PAGE];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&segment.to_le_bytes());
    header[16..20].copy_from_slice(&span.page.to_le_bytes());
    header[20..24].copy_from_slice(&span.len.to_le_bytes());
    header[24..56].copy_from_slice(hash.as_bytes());
    let name = name_sum(hash);
    for (index, page) in data.chunks(PAGE).enumerate() {
        let at = FIXED + SUM * index;
        header[at..at + SUM].copy_from_slice(&page_sum(name, index, page).to_le_bytes());
    }
    let own = header_sum(&header, span);
    header[56..60].copy_from_slice(&own.to_le_bytes());
    header
}

/// The name and span in the header at `page` of `segment`, if `bytes` starts with its first page and
/// that says so. The sums are checked only as far as they lie in `bytes`.
pub(super) fn decode_header(bytes: &[u8], segment: u64, page: u32) -> Option<(BlockHash, Span)> {
    let fixed: &[u8; FIXED] = bytes.first_chunk()?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| fixed[at + i]));
    let segment_found = u64::from(word(8)) | u64::from(word(12)) << 32;
    if &fixed[..8] != MAGIC || segment_found != segment || word(16) != page {
        return None;
    }
    let span = Span::checked(page, word(20))?;
    let whole = span.header_pages() as usize * PAGE;
    if bytes.len() < whole || header_sum(&bytes[..whole], span) != word(56) {
        return None;
    }
    Some((BlockHash::from_bytes(*fixed[24..56].first_chunk()?), span))
}

fn header_sum(header: &[u8], span: Span) -> u32 {
    let sums = FIXED..FIXED + span.sums_len();
    crc32c::crc32c_append(crc32c::crc32c(&header[..56]), &header[sums])
}

/// The start of every page sum of a block: a page of another block does not match by accident.
pub(super) fn name_sum(hash: &BlockHash) -> u32 {
    crc32c::crc32c(hash.as_bytes())
}

/// The sum of data page `index`: the last page may be short.
pub(super) fn page_sum(name: u32, index: usize, page: &[u8]) -> u32 {
    let placed = crc32c::crc32c_append(name, &(index as u32).to_le_bytes());
    crc32c::crc32c_append(placed, page)
}

/// Whether `data`, which starts at page `first` of the block `hash`, matches `sums` page by page.
pub(super) fn pages_match(hash: &BlockHash, first: usize, data: &[u8], sums: &[u8]) -> bool {
    let name = name_sum(hash);
    let (sums, rest) = sums.as_chunks::<SUM>();
    let mut pages = data.chunks(PAGE).zip(sums).enumerate();
    rest.is_empty()
        && data.len().div_ceil(PAGE) == sums.len()
        && pages.all(|(i, (page, sum))| page_sum(name, first + i, page) == u32::from_le_bytes(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_block::Block;

    fn sample(len: usize) -> Block {
        let bytes: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
        Block::seal(bytes.into())
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_shows() {
        for len in [1, 4096, 4097, 256 << 10, 4 << 20] {
            let block = sample(len);
            let span = Span { page: 9, len: len as u32 };
            let header = encode_header(7, span, &block.hash(), block.bytes());
            assert_eq!(span.data_at(0), 9 * 4096 + header.len() as u64);
            assert_eq!(decode_header(&header, 7, 9), Some((block.hash(), span)));
            assert_eq!(decode_header(&header, 8, 9), None, "another segment");
            assert_eq!(decode_header(&header, 7, 10), None, "another page");
            for at in (0..60).chain(64..64 + 4 * len.div_ceil(4096)) {
                let mut bad = header.clone();
                bad[at] ^= 1 << (at % 8);
                assert_eq!(decode_header(&bad, 7, 9), None, "byte {at} of {len}");
            }
        }
    }

    #[test]
    fn a_page_is_bound_to_its_name_and_place() {
        let (block, other) = (sample(10_000), sample(10_001));
        let span = Span { page: 0, len: 10_000 };
        let header = encode_header(1, span, &block.hash(), block.bytes());
        let sums = &header[64..64 + 12];
        let data = &block.bytes()[..];
        assert!(pages_match(&block.hash(), 0, data, sums));
        assert!(pages_match(&block.hash(), 1, &data[4096..8192], &sums[4..8]));
        assert!(!pages_match(&block.hash(), 0, &data[4096..8192], &sums[4..8]), "another place");
        assert!(!pages_match(&other.hash(), 0, data, sums), "another name");
        assert!(!pages_match(&block.hash(), 0, data, &sums[..8]), "a missing sum");
        let mut bad = data.to_vec();
        bad[9_999] ^= 0x80;
        assert!(!pages_match(&block.hash(), 0, &bad, sums), "a flipped bit in the short page");
    }

    #[test]
    fn absurd_lengths_are_no_spans() {
        assert_eq!(Span::checked(0, 0), None);
        assert_eq!(Span::checked(0, (4 << 20) + 1), None);
        assert!(Span::checked(u32::MAX, 4 << 20).is_some_and(|s| s.end() > u64::from(u32::MAX)));
    }
}
