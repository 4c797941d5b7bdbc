//! Which peers may come: addresses and networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A list of addresses and networks. An empty list admits nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressList {
    networks: Vec<Network>,
}

/// A text that is neither an address, nor a network in CIDR form, nor `*`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address, a network like 10.0.0.0/8, or *")]
pub struct BadAddress {
    text: String,
}

impl AddressList {
    /// A list that admits everybody.
    pub fn anybody() -> Self {
        Self {
            networks: vec![Network::everything(false), Network::everything(true)],
        }
    }

    /// A list that admits this machine only.
    pub fn loopback() -> Self {
        let v4 = Network {
            address: IpAddr::from([127, 0, 0, 0]),
            prefix_bits: 8,
        };
        let v6 = Network {
            address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]),
            prefix_bits: 128,
        };
        Self {
            networks: vec![v4, v6],
        }
    }

    /// Reads a list from texts such as `192.168.7.12`, `10.0.0.0/8`, `fd00::/8` and `*`.
    ///
    /// # Errors
    /// [`BadAddress`] names the first text that is none of these.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, BadAddress> {
        let mut networks = Vec::new();
        for text in texts {
            if text.as_ref().trim() == "*" {
                networks.extend(Self::anybody().networks);
            } else {
                networks.push(text.as_ref().parse()?);
            }
        }
        Ok(Self { networks })
    }

    /// Whether `peer` is in the list. An IPv4 address inside an IPv6 one counts as the IPv4 address.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(peer))
    }

    /// The entries as texts.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.networks.iter().map(ToString::to_string)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    fn everything(v6: bool) -> Self {
        let address = if v6 {
            IpAddr::from([0_u16; 8])
        } else {
            IpAddr::from([0_u8; 4])
        };
        Self {
            address,
            prefix_bits: 0,
        }
    }

    fn contains(self, peer: IpAddr) -> bool {
        match (self.address, peer) {
            (IpAddr::V4(mine), IpAddr::V4(peer)) => {
                let differ = u32::from(mine) ^ u32::from(peer);
                differ
                    .checked_shr(32 - u32::from(self.prefix_bits))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(mine), IpAddr::V6(peer)) => {
                let differ = u128::from(mine) ^ u128::from(peer);
                differ
                    .checked_shr(128 - u32::from(self.prefix_bits))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }

    fn width(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Network {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress {
            text: text.to_owned(),
        };
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix_bits = match prefix {
            Some(bits) => bits.parse().map_err(|_| bad())?,
            None => Self::width(address),
        };
        if prefix_bits > Self::width(address) {
            return Err(bad());
        }
        Ok(Self {
            address,
            prefix_bits,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_bits == Self::width(self.address) {
            return write!(formatter, "{}", self.address);
        }
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &[&str], peer: &str, expected: bool) {
        let list = AddressList::parse(list).unwrap();
        assert_eq!(
            list.admits(peer.parse().unwrap()),
            expected,
            "{list:?} {peer}"
        );
    }

    #[test]
    fn addresses_and_networks_admit_what_they_cover() {
        check(&[], "127.0.0.1", false);
        check(&["10.1.2.3"], "10.1.2.3", true);
        check(&["10.1.2.3"], "10.1.2.4", false);
        check(&["10.1.2.3"], "::ffff:10.1.2.3", true);
        check(&["10.1.0.0/16", "fd00::/8"], "10.1.255.1", true);
        check(&["10.1.0.0/16", "fd00::/8"], "10.2.0.1", false);
        check(&["10.1.0.0/16", "fd00::/8"], "fd12::9", true);
        check(&["10.1.0.0/16", "fd00::/8"], "fe80::9", false);
        check(&["0.0.0.0/0"], "8.8.8.8", true);
        check(&["0.0.0.0/0"], "::1", false);
        check(&["*"], "::1", true);
        check(&["192.168.1.128/25"], "192.168.1.127", false);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "host.example",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "1.2.3",
        ] {
            assert!(AddressList::parse([text]).is_err(), "{text}");
        }
    }

    #[test]
    fn texts_can_be_read_again() {
        let list = AddressList::parse(["10.0.0.0/8", "::1", "*"]).unwrap();
        assert_eq!(AddressList::parse(list.texts()).unwrap(), list);
    }
}
