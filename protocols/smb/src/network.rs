//! Who may come, by address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::SmbError;

/// An address, or all that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl FromStr for Network {
    type Err = SmbError;

    /// Reads `ADDRESS` or `ADDRESS/BITS`.
    fn from_str(text: &str) -> Result<Self, SmbError> {
        let bad = || SmbError::BadNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| bad())?,
            None => longest,
        };
        match prefix <= longest {
            true => Ok(Self { address, prefix }),
            false => Err(bad()),
        }
    }
}

impl fmt::Display for Network {
    /// As Samba reads it: it takes a prefix of three digits for an address.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.prefix) {
            (address @ IpAddr::V4(_), 32) | (address @ IpAddr::V6(_), 128) => {
                write!(formatter, "{address}")
            }
            (IpAddr::V6(address), prefix) if prefix > 99 => {
                write!(formatter, "{address}/{}", mask(prefix))
            }
            (address, prefix) => write!(formatter, "{address}/{prefix}"),
        }
    }
}

fn mask(prefix: u8) -> std::net::Ipv6Addr {
    let host_bits = 128 - u32::from(prefix);
    let host = 1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |bit| bit - 1);
    std::net::Ipv6Addr::from_bits(!host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_samba_reads_them() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1/128", "::1"),
            ("fd00::/64", "fd00::/64"),
            (
                "fd00::/120",
                "fd00::/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00",
            ),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "10.0.0.0/33",
            "x",
            "10.0.0.0/8 ALL",
            "::/129",
            "10.0.0.0/-1",
            "ALL",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
