//! Which addresses an export is open to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address or a network of addresses: `10.0.0.7` or `10.0.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct ClientNet {
    address: IpAddr,
    prefix: u8,
}

/// The text is not an address or network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address nor a network such as 10.0.0.0/24")]
pub struct ParseClientError(String);

impl ClientNet {
    /// Whether `client` is in it. IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, client: IpAddr) -> bool {
        match (self.address, client.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let differ = net.to_bits() ^ ip.to_bits();
                differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let differ = net.to_bits() ^ ip.to_bits();
                differ.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for ClientNet {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for ClientNet {
    type Err = ParseClientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseClientError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let mut net = Self::from(address.parse::<IpAddr>().map_err(|_| bad())?);
        if let Some(prefix) = prefix {
            if prefix > net.prefix {
                return Err(bad());
            }
            net.prefix = prefix;
        }
        Ok(net)
    }
}

impl TryFrom<String> for ClientNet {
    type Error = ParseClientError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ClientNet> for String {
    fn from(net: ClientNet) -> Self {
        net.to_string()
    }
}

impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        match self.prefix == whole {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ClientNet;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let within =
            |net: &str, ip: &str| net.parse::<ClientNet>().unwrap().contains(ip.parse().unwrap());
        assert!(within("10.0.0.7", "10.0.0.7") && !within("10.0.0.7", "10.0.0.8"));
        assert!(within("10.0.0.0/24", "10.0.0.255") && !within("10.0.0.0/24", "10.0.1.0"));
        assert!(within("0.0.0.0/0", "1.2.3.4") && !within("0.0.0.0/0", "::1"));
        assert!(within("::/0", "fe80::1"));
        assert!(within("10.0.0.7", "::ffff:10.0.0.7"), "IPv4 mapped into IPv6");
        assert!(within("::ffff:10.0.0.7", "10.0.0.7"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "host", "1.2.3.4/"] {
            assert!(text.parse::<ClientNet>().is_err(), "{text}");
        }
    }
}
