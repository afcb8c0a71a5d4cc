//! Decompression into buffers of a known size: nothing here allocates by what its input says.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe;

/// Inflates a whole zlib stream (RFC 1950), whose checksum is checked, into `out`. Returns how many bytes
/// it has; `None` if it is damaged, cut short or longer than `out`.
pub(crate) fn zlib(input: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut stream = Decompress::new(true);
    match stream.decompress(input, out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Some(stream.total_out() as usize),
        _ => None,
    }
}

/// Inflates raw deflate data (RFC 1951), padded with anything at its end, that fills `out` exactly.
pub(crate) fn deflate(input: &[u8], out: &mut [u8]) -> Option<()> {
    let mut stream = Decompress::new(false);
    let status = stream.decompress(input, out, FlushDecompress::Finish).ok()?;
    // With its output full the decoder may stop before it has seen the mark of the stream's end.
    let ended = matches!(status, Status::StreamEnd | Status::BufError | Status::Ok);
    (ended && stream.total_out() == out.len() as u64).then_some(())
}

/// Decompresses one zstd frame, padded with anything at its end, that fills `out` exactly.
pub(crate) fn zstd(input: &[u8], out: &mut [u8]) -> Option<()> {
    let frame = zstd_safe::find_frame_compressed_size(input).ok()?;
    let len = ::zstd::bulk::decompress_to_buffer(input.get(..frame)?, out).ok()?;
    (len == out.len()).then_some(())
}
