use std::ops::Range;

use crate::file::ALIGN;

/// A buffer of fixed size whose bytes lie where direct I/O wants them.
pub(crate) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Room for `capacity` bytes, rounded up to whole pages. Memory is taken as it is used.
    pub(crate) fn new(capacity: usize) -> Self {
        let bytes = vec![0; capacity.next_multiple_of(ALIGN) + ALIGN];
        let start = bytes.as_ptr().addr().wrapping_neg() % ALIGN;
        Self { bytes, start, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends `more`, which must fit, and says where it lies.
    pub(crate) fn extend(&mut self, more: &[u8]) -> Range<usize> {
        let at = self.len..self.len + more.len();
        self.bytes[self.start + at.start..self.start + at.end].copy_from_slice(more);
        self.len = at.end;
        at
    }

    /// Zeros up to the next page, so that the whole can be written.
    pub(crate) fn pad(&mut self) {
        let end = self.len.next_multiple_of(ALIGN);
        self.bytes[self.start + self.len..self.start + end].fill(0);
        self.len = end;
    }

    /// Makes the buffer `len` bytes long; bytes that were never set are zeros or old.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(self.start + len <= self.bytes.len(), "an aligned buffer does not grow");
        self.len = len;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_on_a_page_and_end_on_one() {
        let mut buffer = AlignedBuffer::new(5000);
        assert_eq!(buffer.extend(&[7; 4097]), 0..4097);
        buffer.pad();
        assert_eq!(buffer.bytes().as_ptr().addr() % ALIGN, 0);
        assert_eq!(buffer.len(), 2 * ALIGN);
        assert!(buffer.bytes()[4097..].iter().all(|b| *b == 0));
    }
}
