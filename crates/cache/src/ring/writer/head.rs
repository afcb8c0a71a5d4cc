use std::sync::Arc;

use rekindle_block::{Block, BlockHash};

use crate::ring::index::Place;
use crate::ring::record::{PAGE, Span};
use crate::ring::{footer, segment::Segment};

/// The segment that is being written.
pub(super) struct Head {
    segment: Arc<Segment>,
    /// Bytes set aside for it.
    bytes: u64,
    page: u32,
    records: Vec<(BlockHash, Span)>,
}

impl Head {
    pub(super) fn new(segment: Segment, bytes: u64) -> Self {
        Self { segment: Arc::new(segment), bytes, page: 0, records: Vec::new() }
    }

    pub(super) fn id(&self) -> u64 {
        self.segment.id()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes not yet written.
    pub(super) fn left(&self) -> u64 {
        self.bytes.saturating_sub(u64::from(self.page) * PAGE as u64)
    }

    /// Bytes of a segment that holds `block` alone.
    pub(super) fn bytes_for(block: &Block) -> u64 {
        end_of(0, block) + footer::size(1)
    }

    /// Whether `block` fits, with a footer behind it.
    pub(super) fn fits(&self, block: &Block) -> bool {
        end_of(self.page, block) + footer::size(self.records.len() + 1) <= self.bytes
    }

    /// Writes `block`, which must fit. `None` when the disk fails: the next one goes behind its place, part of which may have
    /// been written.
    pub(super) fn append(&mut self, block: &Block) -> Option<Place> {
        let written = self.segment.write_record(self.page, block);
        self.page = (end_of(self.page, block) / PAGE as u64) as u32;
        let span = written.ok()?;
        self.records.push((block.hash(), span));
        Some(Place { segment: self.segment.clone(), span })
    }

    /// Writes the footer; returns the bytes of the file. Without a footer (the disk failed) the
    /// headers still tell.
    pub(super) fn seal(&self) -> u64 {
        let at = u64::from(self.page) * PAGE as u64;
        self.segment.seal(at, &self.records).unwrap_or(self.bytes)
    }

    pub(super) fn into_contents(self) -> (Arc<Segment>, Vec<BlockHash>) {
        (self.segment, self.records.into_iter().map(|(hash, _)| hash).collect())
    }
}

fn end_of(page: u32, block: &Block) -> u64 {
    let len = u32::try_from(block.bytes().len()).unwrap_or(u32::MAX);
    Span { page, len }.end()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::RingKey;
    use crate::ring::record::decode_header;
    use crate::ring::segment::tests::short;

    /// Of two bytes under one part of the key stream who has the disk knows how they differ.
    #[test]
    fn the_place_of_a_write_that_failed_is_not_used_again() {
        let segment = short(4 * PAGE as u64, &RingKey::new([7; 32]));
        let mut head = Head::new(segment, 1 << 20);
        let block = |byte: u8, pages: usize| Block::seal(Bytes::from(vec![byte; pages * PAGE]));
        assert!(head.append(&block(1, 8)).is_none());
        let header = |head: &Head| {
            let mut bytes = vec![0; PAGE];
            head.segment.read(0, &mut bytes).unwrap();
            decode_header(&bytes, head.id(), 0)
        };
        let (hash, _) = header(&head).expect("its header was written");
        // This one would fit where that was.
        assert!(head.append(&block(2, 1)).is_none());
        assert_eq!(header(&head).map(|(now, _)| now), Some(hash));
        assert_eq!(head.left(), (1 << 20) - end_of(0, &block(1, 8)) - end_of(0, &block(2, 1)));
    }
}
