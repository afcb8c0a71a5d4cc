//! Record marking (RFC 5531 section 11): calls are cut out of a stream of bytes.

use bytes::{Buf, Bytes, BytesMut};

/// Fragments that one record may come in.
const FRAGMENTS: usize = 1024;
const LAST: u32 = 1 << 31;
/// The four bytes before each fragment.
pub(crate) const MARK: usize = 4;

/// The stream breaks the rules, and what follows cannot be told apart: the connection must be closed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BadRecord {
    #[error("a record of {0} bytes or more")]
    TooLong(usize),
    #[error("a record of too many fragments")]
    TooManyFragments,
}

/// What the bytes at hand hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A whole record.
    Record(Bytes),
    /// Not a whole one: the fragment that was begun takes this many bytes, its mark among them.
    Wants(usize),
}

/// The state between reads of one connection.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Fragments that came before the last one.
    gathered: BytesMut,
    fragments: usize,
}

impl Records {
    /// Takes the next record off `input`. `limit` bounds its length.
    pub(crate) fn next(&mut self, input: &mut BytesMut, limit: usize) -> Result<Next, BadRecord> {
        loop {
            let Some(mark) = input.first_chunk().copied().map(u32::from_be_bytes) else {
                return Ok(Next::Wants(MARK));
            };
            let len = (mark & !LAST) as usize;
            if self.gathered.len() + len > limit {
                return Err(BadRecord::TooLong(self.gathered.len() + len));
            }
            if input.len() < MARK + len {
                return Ok(Next::Wants(MARK + len));
            }
            input.advance(MARK);
            let fragment = input.split_to(len);
            let is_last = mark & LAST != 0;
            if is_last && self.fragments == 0 {
                return Ok(Next::Record(fragment.freeze()));
            }
            self.gather(&fragment)?;
            if is_last {
                self.fragments = 0;
                return Ok(Next::Record(std::mem::take(&mut self.gathered).freeze()));
            }
        }
    }

    fn gather(&mut self, fragment: &[u8]) -> Result<(), BadRecord> {
        self.fragments += 1;
        if self.fragments > FRAGMENTS {
            return Err(BadRecord::TooManyFragments);
        }
        self.gathered.extend_from_slice(fragment);
        Ok(())
    }

    /// Whether a record was begun and is not whole.
    pub(crate) fn is_within(&self, input: &BytesMut) -> bool {
        self.fragments > 0 || !input.is_empty()
    }
}

/// Writes the mark of a record of `len` bytes in one fragment.
pub(crate) fn mark(len: usize) -> [u8; MARK] {
    (LAST | len as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::{BadRecord, FRAGMENTS, LAST, Next, Records};
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn fragment(bytes: &[u8], last: bool) -> Vec<u8> {
        let mark = bytes.len() as u32 | if last { LAST } else { 0 };
        [&mark.to_be_bytes(), bytes].concat()
    }

    proptest! {
        /// However a record is cut into fragments and those into packets, the record comes out.
        #[test]
        fn records_survive_any_cutting(
            record in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(0_usize..300, 0..6),
            step in 1_usize..40,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(record.len())).collect();
            cuts.sort();
            let mut stream = Vec::new();
            let mut from = 0;
            for cut in cuts {
                stream.extend(fragment(&record[from..cut], false));
                from = cut;
            }
            stream.extend(fragment(&record[from..], true));
            stream.extend(fragment(b"next", true));
            let (mut records, mut input, mut out) = (Records::default(), BytesMut::new(), Vec::new());
            for packet in stream.chunks(step) {
                input.extend_from_slice(packet);
                while let Next::Record(found) = records.next(&mut input, 4096).unwrap() {
                    out.push(found.to_vec());
                }
            }
            prop_assert_eq!(out, vec![record, b"next".to_vec()]);
            prop_assert!(!records.is_within(&input));
        }
    }

    #[test]
    fn two_gigabytes_are_refused_by_their_mark_alone() {
        let mut input = BytesMut::from(&[0xff; 4][..]);
        assert_eq!(
            Records::default().next(&mut input, 4 << 20),
            Err(BadRecord::TooLong(0x7fff_ffff))
        );
    }

    #[test]
    fn fragments_add_up_and_are_counted() {
        let mut records = Records::default();
        let mut input = BytesMut::new();
        for _ in 0..3 {
            input.extend_from_slice(&fragment(&[1; 50], false));
        }
        assert_eq!(records.next(&mut input, 120), Err(BadRecord::TooLong(150)));
        let mut empty = BytesMut::new();
        for _ in 0..=FRAGMENTS {
            empty.extend_from_slice(&fragment(&[], false));
        }
        assert_eq!(Records::default().next(&mut empty, 120), Err(BadRecord::TooManyFragments));
    }
}
