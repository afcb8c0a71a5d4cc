//! How many calls one address may make: enough for every script and page, too few to keep us busy.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;

use crate::{Console, Problem, auth::network, listen::ClientAddress};

/// Calls that an address may make at once, and one more each `REFILL`: 200 a second.
const BURST: u32 = 1000;
const REFILL: Duration = Duration::from_millis(5);
/// Addresses remembered, at about 48 bytes each: 192 KiB. One is forgotten once it may make a whole
/// burst again. Past the bound the one that called longest ago makes room.
const ADDRESSES: usize = 4096;

/// The calls of late, by address; an IPv6 client is its /64.
#[derive(Default)]
pub(crate) struct Rates {
    spent: Mutex<HashMap<IpAddr, Spent>>,
}

#[derive(Clone, Copy)]
struct Spent {
    count: u32,
    since: Instant,
}

impl Spent {
    fn at(self, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.since).as_millis() / REFILL.as_millis();
        let granted = u32::try_from(passed).unwrap_or(u32::MAX);
        let count = self.count.saturating_sub(granted);
        // What is left of the time goes on counting, also while calls come faster than it.
        let since = if count == 0 { now } else { self.since + REFILL * granted };
        Self { count, since }
    }
}

impl Rates {
    /// Whether `client` may make a call now; it counts if so.
    fn take(&self, client: IpAddr, now: Instant) -> bool {
        let client = network(client);
        let mut spent = self.spent.lock();
        if spent.len() >= ADDRESSES && !spent.contains_key(&client) {
            spent.retain(|_, one| one.at(now).count > 0);
            if spent.len() >= ADDRESSES {
                let oldest = spent.iter().min_by_key(|(_, one)| one.since).map(|(ip, _)| *ip);
                oldest.and_then(|ip| spent.remove(&ip));
            }
        }
        let one = spent.entry(client).or_insert(Spent { count: 0, since: now });
        *one = one.at(now);
        let may = one.count < BURST;
        one.count += u32::from(may);
        may
    }
}

/// Refuses calls of an address that makes too many.
pub(crate) async fn limit(
    State(console): State<Arc<Console>>,
    ConnectInfo(client): ConnectInfo<ClientAddress>,
    request: Request,
    next: Next,
) -> Response {
    if console.rates.take(client.0.ip(), Instant::now()) {
        return next.run(request).await;
    }
    Problem::too_many_calls().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_what_the_rate_grants() {
        let rates = Rates::default();
        let (client, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let start = Instant::now();
        assert!((0..BURST).all(|_| rates.take(client, start)));
        assert!(!rates.take(client, start) && rates.take(other, start));
        // A second of attempts each millisecond gets through as often as the rate says.
        let passed = (1..=1000).filter(|n| rates.take(client, start + Duration::from_millis(*n)));
        assert_eq!(passed.count(), 200);
        assert!((0..BURST).all(|_| rates.take(client, start + Duration::from_secs(60))));
    }

    #[test]
    fn addresses_are_bounded() {
        let rates = Rates::default();
        let now = Instant::now();
        for n in 0..ADDRESSES as u32 + 100 {
            assert!(rates.take(IpAddr::V4(n.into()), now + Duration::from_micros(n.into())));
        }
        assert_eq!(rates.spent.lock().len(), ADDRESSES);
    }
}
