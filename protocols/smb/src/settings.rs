//! How the server is run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Settings of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A folder of its own for configuration, users and state; made with mode 0700 if it is not there.
    pub folder: PathBuf,
    /// Where it listens; an unspecified address is all that the machine has.
    pub addresses: Vec<IpAddr>,
    /// The port. Windows before 2025 knows 445 only.
    pub port: u16,
    /// Whether traffic is encrypted. It is signed always.
    pub encryption: Encryption,
    /// Clients at once, each a process.
    pub clients: u32,
}

/// Whether traffic is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    Off,
    /// If the client wants it.
    Allow,
    /// Always; who cannot is refused.
    Require,
}

impl Settings {
    /// An address at which the server can be reached from this machine.
    pub fn reachable(&self) -> SocketAddr {
        let ip = match self.addresses.first().copied() {
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            Some(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            Some(ip) => ip,
            None => Ipv4Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, self.port)
    }
}
