//! How many connections there are, and from where.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Connections from an address that is no client of any export.
const OF_STRANGER: usize = 16;
/// Connections of all such addresses.
const OF_STRANGERS: usize = 256;

#[derive(Default)]
struct Counts {
    all: usize,
    strangers: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// The connections there are.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Counts>>);

/// One connection, counted while this lives.
pub(super) struct Counted {
    clients: Clients,
    ip: IpAddr,
    stranger: bool,
}

impl Clients {
    pub(super) fn count(&self) -> usize {
        self.0.lock().all
    }

    /// Counts a connection in; `None` if there are too many.
    pub(super) fn admit(
        &self,
        ip: IpAddr,
        stranger: bool,
        (all, of_client): (usize, usize),
    ) -> Option<Counted> {
        let mut counts = self.0.lock();
        let of_client = if stranger { of_client.min(OF_STRANGER) } else { of_client };
        let own = counts.by_client.get(&ip).copied().unwrap_or(0);
        let full = counts.all >= all || own >= of_client;
        if full || (stranger && counts.strangers >= OF_STRANGERS) {
            return None;
        }
        counts.all += 1;
        counts.strangers += usize::from(stranger);
        *counts.by_client.entry(ip).or_default() += 1;
        Some(Counted { clients: self.clone(), ip, stranger })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock();
        counts.all -= 1;
        counts.strangers -= usize::from(self.stranger);
        if let Some(own) = counts.by_client.get_mut(&self.ip) {
            *own -= 1;
            if *own == 0 {
                counts.by_client.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clients, OF_STRANGER};
    use std::net::Ipv4Addr;

    #[test]
    fn one_address_cannot_take_all_and_all_are_given_back() {
        let clients = Clients::default();
        let ip = |n| Ipv4Addr::new(10, 0, 0, n).into();
        let held: Vec<_> = (0..5).map_while(|_| clients.admit(ip(1), false, (8, 4))).collect();
        assert_eq!(held.len(), 4);
        let others: Vec<_> = (2..9).map_while(|n| clients.admit(ip(n), false, (8, 4))).collect();
        assert_eq!(others.len(), 4);
        drop((held, others));
        assert_eq!(clients.count(), 0);
        assert!(clients.0.lock().by_client.is_empty());
        let strangers: Vec<_> =
            (0..100).map_while(|_| clients.admit(ip(1), true, (4096, 256))).collect();
        assert_eq!(strangers.len(), OF_STRANGER);
    }
}
