//! Streams of bytes as a hostile client sends them: cut into records, within bounds, however they come.

#![no_main]

use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, stream) = input;
    let (count, bytes) = rekindle_nfs::testing::cut_records(stream, usize::from(step), LIMIT);
    assert!(bytes <= stream.len() && count <= stream.len() / 4);
    let whole = rekindle_nfs::testing::cut_records(stream, stream.len(), LIMIT);
    assert_eq!((count, bytes), whole, "records depend on how the bytes came");
});
