use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Wrong tokens that one address may offer in a row.
const BURST: u32 = 8;
/// One more attempt is granted after this long.
const REFILL: Duration = Duration::from_secs(5);
/// Addresses remembered: at 48 bytes each, 48 KiB.
const ADDRESSES: usize = 1024;

/// Counts wrong log-ins by client address, so that guessing is slow.
///
/// An IPv6 client is its /64, since it can choose the rest freely.
#[derive(Default)]
pub(crate) struct Attempts {
    failed: Mutex<HashMap<IpAddr, Spent>>,
}

struct Spent {
    count: u32,
    since: Instant,
}

impl Attempts {
    /// How long `client` has to wait before it may try again; `None` when it may now.
    pub(crate) fn wait(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let mut failed = self.failed.lock();
        failed.retain(|_, spent| spent.remaining(now) > 0);
        let full = failed.len() >= ADDRESSES;
        match failed.get(&network(client)) {
            Some(spent) if spent.remaining(now) >= BURST => Some(REFILL),
            None if full => Some(REFILL),
            _ => None,
        }
    }

    /// Notes that `client` offered a wrong token.
    pub(crate) fn failed(&self, client: IpAddr, now: Instant) {
        let mut failed = self.failed.lock();
        let spent = failed.entry(network(client)).or_insert(Spent { count: 0, since: now });
        let left = spent.remaining(now);
        *spent = Spent { count: left + 1, since: now };
    }
}

impl Spent {
    fn remaining(&self, now: Instant) -> u32 {
        let granted = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        self.count.saturating_sub(u32::try_from(granted).unwrap_or(u32::MAX))
    }
}

/// What counts as one client.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_one_per_refill() {
        let attempts = Attempts::default();
        let start = Instant::now();
        let client: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        for _ in 0..BURST {
            assert_eq!(attempts.wait(client, start), None);
            attempts.failed(client, start);
        }
        assert!(attempts.wait(neighbour, start).is_some());
        assert_eq!(attempts.wait("192.0.2.1".parse().unwrap(), start), None);
        let later = start + REFILL;
        assert_eq!(attempts.wait(client, later), None);
        attempts.failed(client, later);
        assert!(attempts.wait(client, later).is_some());
    }

    #[test]
    fn the_table_is_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for n in 0..ADDRESSES as u32 {
            let client = IpAddr::V4(n.into());
            assert_eq!(attempts.wait(client, now), None);
            attempts.failed(client, now);
        }
        assert!(attempts.wait("203.0.113.9".parse().unwrap(), now).is_some());
        let later = now + REFILL;
        assert_eq!(attempts.wait("203.0.113.9".parse().unwrap(), later), None);
    }
}
