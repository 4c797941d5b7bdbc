//! Which peers may reach an export.

use std::net::IpAddr;

use nfs::AddressList;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Addresses and networks, such as `192.168.7.12` and `192.168.7.0/24`; `*` is everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers(AddressList);

/// The text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network; write an address, a network such as 192.168.7.0/24, or *")]
pub struct BadPeers(String);

impl Peers {
    /// This machine only.
    pub fn loopback() -> Self {
        Self(AddressList::loopback())
    }

    /// Reads a list.
    ///
    /// # Errors
    /// If one of the texts names no network.
    pub fn parse(texts: &[String]) -> Result<Self, BadPeers> {
        for text in texts {
            AddressList::parse([text]).map_err(|_| BadPeers(text.clone()))?;
        }
        AddressList::parse(texts)
            .map(Self)
            .map_err(|error| BadPeers(error.to_string()))
    }

    /// Whether `peer` is among them.
    pub fn admit(&self, peer: IpAddr) -> bool {
        self.0.admits(peer)
    }

    /// The list in the words of the NFS server.
    pub fn address_list(&self) -> &AddressList {
        &self.0
    }

    /// The entries as texts.
    pub fn texts(&self) -> Vec<String> {
        self.0.texts().collect()
    }
}

impl Serialize for Peers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.texts().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Vec::<String>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_shown_and_refused_by_its_bad_entry() {
        let texts = ["192.168.7.0/24".to_owned(), "::1".to_owned()];
        let peers = Peers::parse(&texts).unwrap();
        assert!(peers.admit("192.168.7.9".parse().unwrap()));
        assert!(!peers.admit("192.168.8.9".parse().unwrap()));
        assert_eq!(peers.texts(), texts);
        let error = Peers::parse(&["10.0.0.1".to_owned(), "here".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("`here`"), "{error}");
    }
}
