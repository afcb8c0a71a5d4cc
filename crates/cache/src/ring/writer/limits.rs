use std::path::Path;

use crate::CacheConfig;
use crate::ring::{PAGE, Space};

/// Segments of a large ring: 64 to 512 MiB, so that 512 of them fill it and one is a small part.
const SEGMENT_MIN: u64 = 64 << 20;
const SEGMENT_MAX: u64 = 512 << 20;
const SEGMENTS_AIM: u64 = 512;
/// A small ring has eight, down to 64 KiB each.
const SEGMENTS_LEAST: u64 = 8;
const SEGMENT_LEAST: u64 = 64 << 10;

/// How much the ring may take.
pub(super) struct Limits {
    max_bytes: u64,
    min_free_percent: u8,
    space: Space,
}

impl Limits {
    pub(super) fn new(config: &CacheConfig, space: Space) -> Self {
        let max_bytes = config.max_bytes.unwrap_or(u64::MAX);
        Self { max_bytes, min_free_percent: config.min_free_percent, space }
    }

    /// Bytes of the next segment of a ring of `own` bytes: they follow what the ring may be now.
    pub(super) fn segment_bytes(&self, dir: &Path, own: u64) -> u64 {
        segment_bytes(self.capacity(dir, own))
    }

    /// Bytes that a ring of `own` bytes in `dir` may add; negative when it must give back.
    fn spare_or_debt(&self, dir: &Path, own: u64) -> i128 {
        // A file system that does not answer cannot be shown to have room.
        let Some(room) = self.space.look(dir) else { return -1 };
        let by_config = i128::from(self.max_bytes) - i128::from(own);
        by_config.min(room.spare(self.min_free_percent))
    }

    /// Whether a ring of `own` bytes may add `wanted`; with 0, whether it may stay as it is.
    pub(super) fn allow(&self, dir: &Path, own: u64, wanted: u64) -> bool {
        self.spare_or_debt(dir, own) >= i128::from(wanted)
    }

    /// Bytes that a ring of `own` bytes may add, in whole pages.
    pub(super) fn spare(&self, dir: &Path, own: u64) -> u64 {
        let spare = u64::try_from(self.spare_or_debt(dir, own).max(0)).unwrap_or(u64::MAX);
        spare - spare % PAGE as u64
    }

    /// Bytes that a ring of `own` bytes could be.
    pub(super) fn capacity(&self, dir: &Path, own: u64) -> u64 {
        own.saturating_add(self.spare(dir, own))
    }

    pub(super) fn free(&self, dir: &Path) -> u64 {
        self.space.look(dir).map_or(0, |room| room.free)
    }
}

/// The size of a segment in a ring of at most `ring` bytes.
fn segment_bytes(ring: u64) -> u64 {
    let aimed = (ring / SEGMENTS_AIM).clamp(SEGMENT_MIN, SEGMENT_MAX);
    let bytes = aimed.min(ring / SEGMENTS_LEAST).max(SEGMENT_LEAST);
    bytes - bytes % PAGE as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_grow_with_the_ring() {
        for (ring, segment) in [
            (0, 64 << 10),
            (1 << 20, 128 << 10),
            (256 << 20, 32 << 20),
            (100 << 30, 200 << 20),
            (512 << 30, 512 << 20),
            (u64::MAX, 512 << 20),
        ] {
            assert_eq!(segment_bytes(ring), segment, "{ring}");
        }
    }
}
