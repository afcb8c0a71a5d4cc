//! WRITEs that come again. Doing one twice is harmless unless another WRITE of the same bytes was done in between: then
//! the late one must not bring the old bytes back.
//!
//! # Bounds
//!
//! The last [`KEPT`] WRITEs of each of [`SHARDS`] groups of files: about 5 MiB.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

const SHARDS: u64 = 8;
const KEPT: usize = 8192;

/// What tells one WRITE from another.
pub(crate) type WriteKey = u128;

/// The last WRITEs.
pub(crate) struct WriteLog([Arc<Mutex<Shard>>; SHARDS as usize]);

#[derive(Default)]
struct Shard {
    /// Where in `order` a WRITE is, counted from the beginning of time.
    places: HashMap<WriteKey, u64>,
    order: VecDeque<Write>,
    first: u64,
}

struct Write {
    key: WriteKey,
    file: u64,
    range: Range<u64>,
    done: bool,
}

/// What is known of a WRITE.
pub(crate) enum Seen {
    /// It is new.
    New(Note),
    /// It came before, and doing it again changes nothing.
    Again,
    /// It came before and was done, and another WRITE to its range came since.
    Outdated,
}

/// A new WRITE, to be told whether it was done.
pub(crate) struct Note {
    shard: Arc<Mutex<Shard>>,
    place: u64,
}

impl Note {
    pub(crate) fn finish(self, done: bool) {
        let mut shard = self.shard.lock();
        let at = self.place.checked_sub(shard.first).map(|at| at as usize);
        if let Some(write) = at.and_then(|at| shard.order.get_mut(at)) {
            write.done = done;
        }
    }
}

impl WriteLog {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }

    /// Notes a WRITE in the order in which they come.
    pub(crate) fn arrived(&self, key: WriteKey, file: u64, range: Range<u64>) -> Seen {
        let shard = &self.0[(file % SHARDS) as usize];
        let mut held = shard.lock();
        if let Some(place) = held.places.get(&key).copied() {
            return held.again(place);
        }
        let place = held.push(Write { key, file, range, done: false });
        Seen::New(Note { shard: shard.clone(), place })
    }
}

impl Shard {
    fn push(&mut self, write: Write) -> u64 {
        if self.order.len() == KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest.key);
            self.first += 1;
        }
        let place = self.first + self.order.len() as u64;
        self.places.insert(write.key, place);
        self.order.push_back(write);
        place
    }

    fn again(&self, place: u64) -> Seen {
        let at = (place - self.first) as usize;
        let Some(first) = self.order.get(at) else { return Seen::Again };
        let overlaps = |later: &Write| {
            later.file == first.file
                && later.range.start < first.range.end
                && first.range.start < later.range.end
        };
        match first.done && self.order.iter().skip(at + 1).any(overlaps) {
            true => Seen::Outdated,
            false => Seen::Again,
        }
    }
}

/// The key of a WRITE, by two checksums of its bytes.
pub(crate) fn write_key(
    (client, xid): (IpAddr, u32),
    (uid, gid): (u32, u32),
    (file, offset): (u64, u64),
    data: &[u8],
) -> WriteKey {
    let client = match client.to_canonical() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let head: [u64; 5] = [
        client as u64 ^ (client >> 64) as u64,
        u64::from(xid) << 32 | data.len() as u64,
        u64::from(uid) << 32 | u64::from(gid),
        file,
        offset,
    ];
    // Odd multipliers spread each word over the whole key.
    let mixed = head.iter().fold(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128, |key, word| {
        (key ^ u128::from(*word))
            .wrapping_mul(0xda94_2042_e4dd_58b5_9e37_79b9_7f4a_7c15)
            .rotate_left(59)
    });
    mixed ^ u128::from(crc32c::crc32c(data)) << 48
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Seen, WriteLog, write_key};
    use std::net::{IpAddr, Ipv4Addr};

    fn key(xid: u32) -> u128 {
        write_key((IpAddr::V4(Ipv4Addr::LOCALHOST), xid), (0, 0), (8, 0), b"data")
    }

    fn arrive(log: &WriteLog, xid: u32, range: std::ops::Range<u64>) -> Seen {
        match log.arrived(key(xid), 8, range) {
            Seen::New(note) => {
                note.finish(true);
                Seen::Again
            }
            seen => seen,
        }
    }

    /// ESXI.md 6.1: a delayed duplicate WRITE never overwrites a later one.
    #[test]
    fn a_late_duplicate_does_not_undo_a_later_write() {
        let log = WriteLog::new();
        arrive(&log, 1, 0..4096);
        arrive(&log, 2, 4096..8192);
        assert!(matches!(arrive(&log, 1, 0..4096), Seen::Again), "nothing there was written since");
        arrive(&log, 3, 4000..4100);
        assert!(matches!(arrive(&log, 1, 0..4096), Seen::Outdated));
        assert!(matches!(arrive(&log, 2, 4096..8192), Seen::Outdated));
    }

    #[test]
    fn one_that_was_not_done_is_done_again() {
        let log = WriteLog::new();
        let Seen::New(note) = log.arrived(key(1), 8, 0..10) else { panic!() };
        note.finish(false);
        arrive(&log, 2, 0..10);
        assert!(matches!(arrive(&log, 1, 0..10), Seen::Again));
    }

    #[test]
    fn the_log_is_bounded() {
        let log = WriteLog::new();
        for xid in 0..KEPT as u32 * 3 {
            arrive(&log, xid, 0..10);
        }
        let shard = log.0[0].lock();
        assert_eq!((shard.order.len(), shard.places.len()), (KEPT, KEPT));
    }

    #[test]
    fn keys_differ_by_each_part() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let base = write_key((ip, 1), (0, 0), (8, 0), b"data");
        for other in [
            write_key((ip, 2), (0, 0), (8, 0), b"data"),
            write_key((ip, 1), (1, 0), (8, 0), b"data"),
            write_key((ip, 1), (0, 1), (8, 0), b"data"),
            write_key((ip, 1), (0, 0), (9, 0), b"data"),
            write_key((ip, 1), (0, 0), (8, 1), b"data"),
            write_key((ip, 1), (0, 0), (8, 0), b"datb"),
        ] {
            assert_ne!(base, other);
        }
    }
}
