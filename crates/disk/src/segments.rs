use bytes::Bytes;
use smallvec::SmallVec;

/// Consecutive bytes of a disk, in pieces that share the memory they were found in. Together they
/// are exactly what was asked for.
pub type Segments = SmallVec<[Bytes; 4]>;

/// Zeros to point at: 1 MiB of them are four pieces, and no allocation.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Appends `len` zeros.
pub(crate) fn push_zeros(out: &mut Segments, mut len: u64) {
    while len > 0 {
        let piece = len.min(ZEROS.len() as u64) as usize;
        out.push(Bytes::from_static(&ZEROS[..piece]));
        len -= piece as u64;
    }
}

/// The bytes in one piece.
pub fn concat(segments: &Segments) -> Bytes {
    match segments.as_slice() {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}
