//! Addresses whose connections sent what is no call: their next connections are not read at once.
//!
//! Who connects again after each hang-up makes the server accept, read and close as fast as it can, and takes the cores
//! from the others. A pause of milliseconds ends that, and a host that comes back after a fault hardly notices it.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The pause after a first offence; each further one doubles it.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(20);
/// An address that gave no offence for so long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// Addresses that are remembered: who has more of them is bounded by the connections of strangers.
const ADDRESSES: usize = 4096;

struct Penalty {
    last: Instant,
    pause: Duration,
}

/// The addresses that gave offence of late.
#[derive(Default)]
pub(super) struct Penalties(Mutex<HashMap<IpAddr, Penalty>>);

impl Penalties {
    /// A connection of `ip` ended at `now`, for what it sent.
    pub(super) fn punish(&self, ip: IpAddr, now: Instant) {
        let mut known = self.0.lock();
        if known.len() >= ADDRESSES {
            known.retain(|_, penalty| !penalty.is_forgotten(now));
        }
        let full = known.len() >= ADDRESSES;
        match known.get_mut(&ip) {
            Some(penalty) => {
                let doubled = (penalty.pause * 2).min(LONGEST);
                penalty.pause = if penalty.is_forgotten(now) { FIRST } else { doubled };
                penalty.last = now;
            }
            None if full => {}
            None => {
                known.insert(ip, Penalty { last: now, pause: FIRST });
            }
        }
    }

    /// When a connection of `ip` may be read, if not at once.
    pub(super) fn pause_until(&self, ip: IpAddr, now: Instant) -> Option<Instant> {
        let known = self.0.lock();
        known.get(&ip).map(|penalty| penalty.last + penalty.pause).filter(|until| *until > now)
    }
}

impl Penalty {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    use super::{ADDRESSES, FIRST, FORGOTTEN, LONGEST, Penalties};
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    #[test]
    fn each_offence_doubles_the_pause_of_its_address_alone_until_it_is_forgotten() {
        let penalties = Penalties::default();
        let (bad, good) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
        let mut now = Instant::now();
        assert_eq!(penalties.pause_until(bad, now), None);
        for pause in [FIRST, FIRST * 2, FIRST * 4, FIRST * 8, FIRST * 16, LONGEST, LONGEST] {
            penalties.punish(bad, now);
            assert_eq!(penalties.pause_until(bad, now), Some(now + pause));
            assert_eq!(penalties.pause_until(good, now), None);
            now += pause;
            assert_eq!(penalties.pause_until(bad, now), None);
        }
        now += FORGOTTEN + Duration::from_millis(1);
        penalties.punish(bad, now);
        assert_eq!(penalties.pause_until(bad, now), Some(now + FIRST));
    }

    #[test]
    fn so_many_addresses_are_remembered_and_no_more() {
        let penalties = Penalties::default();
        let now = Instant::now();
        for n in 0..2 * ADDRESSES as u32 {
            penalties.punish(Ipv4Addr::from(n).into(), now);
        }
        assert_eq!(penalties.0.lock().len(), ADDRESSES);
        let later = now + FORGOTTEN * 2;
        penalties.punish(Ipv4Addr::BROADCAST.into(), later);
        assert_eq!(penalties.0.lock().len(), 1);
    }
}
