//! Portals: where the server listens, and what discovery says of it.

use std::net::SocketAddr;
use std::{io, net};

use tokio::net::TcpListener;

use crate::error::StartError;

/// An address to listen on (RFC 7143, 2.1, "Network Portal").
#[derive(Debug)]
pub struct Portal {
    socket: Socket,
    group: u16,
    shown: Option<SocketAddr>,
}

#[derive(Debug)]
enum Socket {
    Address(SocketAddr),
    Listener(net::TcpListener),
}

impl Portal {
    /// Listens on `address`, in portal group `group`. Portals of different groups are different SCSI ports: an
    /// initiator that uses one session identifier for all still has a session through each.
    pub fn new(address: SocketAddr, group: u16) -> Self {
        Self {
            socket: Socket::Address(address),
            group,
            shown: None,
        }
    }

    /// Uses a socket that listens already.
    pub fn from_listener(listener: net::TcpListener, group: u16) -> Self {
        Self {
            socket: Socket::Listener(listener),
            group,
            shown: None,
        }
    }

    /// Discovery shows `address` instead of the one that is listened on.
    #[must_use]
    pub fn shown_as(mut self, address: SocketAddr) -> Self {
        self.shown = Some(address);
        self
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    address: SocketAddr,
    pub(super) group: u16,
    shown: Option<SocketAddr>,
}

/// A portal as discovery tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    address: SocketAddr,
    group: u16,
}

impl Listener {
    pub(super) fn bind(portal: Portal) -> Result<Self, StartError> {
        let name = match &portal.socket {
            Socket::Address(address) => address.to_string(),
            Socket::Listener(_) => "the socket that was passed in".to_owned(),
        };
        Self::listen(portal).map_err(|source| StartError::Listen {
            address: name,
            source,
        })
    }

    fn listen(portal: Portal) -> io::Result<Self> {
        let listener = match portal.socket {
            Socket::Address(address) => net::TcpListener::bind(address)?,
            Socket::Listener(listener) => listener,
        };
        listener.set_nonblocking(true)?;
        let socket = TcpListener::from_std(listener)?;
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            group: portal.group,
            shown: portal.shown,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn shown(&self) -> Shown {
        Shown {
            address: self.shown.unwrap_or(self.address),
            group: self.group,
        }
    }
}

impl Shown {
    /// What an initiator that reached `here` is told. A portal that listens everywhere is told as where the initiator
    /// is already.
    pub(super) fn target_address(&self, here: SocketAddr) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(here.ip().to_canonical());
        }
        format!("{address},{}", self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_tells_addresses_that_can_be_reached() {
        let here: SocketAddr = "[::ffff:10.0.0.7]:3260".parse().unwrap();
        let check = |address: &str, wanted: &str| {
            let shown = Shown {
                address: address.parse().unwrap(),
                group: 2,
            };
            assert_eq!(shown.target_address(here), wanted);
        };
        check("10.0.0.1:3260", "10.0.0.1:3260,2");
        check("0.0.0.0:3261", "10.0.0.7:3261,2");
        check("[fe80::1]:3260", "[fe80::1]:3260,2");
    }
}
