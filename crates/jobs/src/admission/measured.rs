//! Admission by what earlier runs of a VM took. Decides; does no I/O.

use std::time::Duration;

/// Bytes that are reserved at least, for a disk's own housekeeping and a guest that surprises.
const MEASURED_MIN: u64 = 1 << 30;

/// What earlier runs of a VM showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlierRuns {
    /// Bytes of the blocks that its guest reads in its first minutes: they are brought into the ring,
    /// which takes them from the same space.
    pub(crate) boot_bytes: u64,
    /// Bytes per second that its guest wrote, as the overlays grew.
    pub(crate) bytes_per_second: u64,
}

/// Bytes that must be free for a VM of `vm_bytes` that is to run for `horizon`. An overlay grows no
/// larger than its disk.
pub(crate) fn reserve(runs: EarlierRuns, vm_bytes: u64, horizon: Duration) -> u64 {
    let written = runs.bytes_per_second.saturating_mul(horizon.as_secs());
    runs.boot_bytes.saturating_add(written).max(MEASURED_MIN).min(vm_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_is_reserved_follows_what_was_measured() {
        let measured = |bytes_per_second| EarlierRuns { boot_bytes: 300 << 20, bytes_per_second };
        let vm = 100 << 30;
        assert_eq!(reserve(measured(0), vm, DAY), MEASURED_MIN);
        assert_eq!(reserve(measured(100_000), vm, DAY), (300 << 20) + 100_000 * 86_400);
        assert_eq!(
            reserve(measured(100_000), vm, DAY / 24),
            MEASURED_MIN.max((300 << 20) + 360_000_000)
        );
        assert_eq!(reserve(measured(u64::MAX), vm, DAY), vm, "no more than all of its disks");
        assert_eq!(reserve(measured(0), 1 << 20, DAY), 1 << 20);
    }
}
