//! Who asks, and where exports are found.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use export::BlockExport;
use parking_lot::RwLock;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

/// Finds the exports that a server shows.
///
/// Asked anew for every connection and every option, so that exports come and go while the server runs. Which peer
/// may see what is decided here. Calls must not wait for a disk: they run where sockets are served.
pub trait ExportDirectory: Send + Sync + 'static {
    /// The exports that `peer` may know of.
    fn list(&self, peer: &Peer) -> Vec<ExportSummary>;

    /// The export of that name; the empty name asks for the default.
    ///
    /// # Errors
    /// If there is none, or none for this peer.
    fn open(&self, name: &str, peer: &Peer) -> Result<OpenedExport, OpenError>;
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connects from.
    pub address: PeerAddress,
    /// Whether TLS protects the connection.
    pub tls: bool,
    /// The certificates that it proved to own, its own first; empty without TLS or if it has none.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Where a peer connects from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket.
    Unix {
        /// The user that the kernel vouches for.
        uid: Option<u32>,
    },
}

impl Peer {
    /// A peer without TLS.
    pub fn new(address: PeerAddress) -> Self {
        Self {
            address,
            tls: false,
            certificates: Vec::new(),
        }
    }

    /// The address without the port, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.address {
            PeerAddress::Tcp(address) => Some(address.ip().to_canonical()),
            PeerAddress::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            PeerAddress::Tcp(address) => write!(formatter, "{address}"),
            PeerAddress::Unix { uid: Some(uid) } => write!(formatter, "unix:uid={uid}"),
            PeerAddress::Unix { uid: None } => formatter.write_str("unix"),
        }
    }
}

/// What `NBD_OPT_LIST` tells about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    /// Its name, at most 4096 bytes.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
}

/// An export that a connection is about to serve.
#[derive(Clone)]
pub struct OpenedExport {
    /// The disk.
    pub export: Arc<dyn BlockExport>,
    /// Its proper name, which differs from the one that was asked if that was a default or an alias.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    /// Tells connections to finish what is in flight and close.
    pub withdrawn: CancellationToken,
}

impl fmt::Debug for OpenedExport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenedExport")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why an export is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is none of that name, or the peer must not know.
    #[error("no such export")]
    Unknown,
    /// There is one, and this peer may not use it.
    #[error("export is not for this peer")]
    Forbidden,
    /// The server or the export is going away.
    #[error("shutting down")]
    ShuttingDown,
}

/// A fixed set of exports, open to every peer.
#[derive(Debug, Default)]
pub struct StaticDirectory {
    exports: RwLock<BTreeMap<String, OpenedExport>>,
}

impl StaticDirectory {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows `export` as `name`. What had the name is withdrawn.
    pub fn add(
        &self,
        name: impl Into<String>,
        description: impl Into<String>,
        export: Arc<dyn BlockExport>,
    ) {
        let name = name.into();
        let opened = OpenedExport {
            export,
            name: name.clone(),
            description: description.into(),
            withdrawn: CancellationToken::new(),
        };
        if let Some(old) = self.exports.write().insert(name, opened) {
            old.withdrawn.cancel();
        }
    }

    /// Removes `name`: its connections finish what is in flight and close. Says whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        let removed = self.exports.write().remove(name);
        if let Some(export) = &removed {
            export.withdrawn.cancel();
        }
        removed.is_some()
    }
}

impl ExportDirectory for StaticDirectory {
    fn list(&self, _: &Peer) -> Vec<ExportSummary> {
        let summary = |export: &OpenedExport| ExportSummary {
            name: export.name.clone(),
            description: export.description.clone(),
        };
        self.exports.read().values().map(summary).collect()
    }

    /// The empty name finds the only export there is.
    fn open(&self, name: &str, _: &Peer) -> Result<OpenedExport, OpenError> {
        let exports = self.exports.read();
        let found = match (exports.get(name), exports.len()) {
            (None, 1) if name.is_empty() => exports.values().next(),
            (found, _) => found,
        };
        found.cloned().ok_or(OpenError::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use export::MemoryDisk;

    #[test]
    fn the_only_export_is_the_default() {
        let directory = StaticDirectory::new();
        let peer = Peer::new(PeerAddress::Unix { uid: None });
        assert_eq!(directory.open("", &peer).unwrap_err(), OpenError::Unknown);
        directory.add("a", "", Arc::new(MemoryDisk::new(512)));
        let opened = directory.open("", &peer).unwrap();
        assert_eq!(opened.name, "a");
        directory.add("b", "", Arc::new(MemoryDisk::new(512)));
        assert_eq!(directory.open("", &peer).unwrap_err(), OpenError::Unknown);
        assert!(directory.remove("a") && !directory.remove("a"));
        assert!(opened.withdrawn.is_cancelled());
    }
}
