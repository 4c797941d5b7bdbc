//! Where the daemon is and who asks.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where the daemon takes streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Over a network.
    Tcp {
        /// `host:port`.
        address: String,
        /// SHA-256 of the daemon's certificate.
        fingerprint: [u8; 32],
    },
    /// A socket on this machine.
    Unix(PathBuf),
}

/// How to connect.
#[derive(Clone)]
pub struct Settings {
    /// Where to.
    pub place: Place,
    /// What lets this client in. Over the unix socket the daemon's own user and root need none.
    pub token: Option<String>,
    /// The workload, if the token does not say it.
    pub workload: Option<String>,
    /// What this client is, for the daemon's log.
    pub client: String,
    /// Longest wait for a connection to be made.
    pub connect: Duration,
    /// Longest silence of a daemon that is waited for.
    pub silence: Duration,
    /// How long to try again after the connection broke.
    pub resume: Duration,
}

impl Settings {
    /// Usual times, without a token.
    pub fn new(place: Place, client: impl Into<String>) -> Self {
        Self {
            place,
            token: None,
            workload: None,
            client: client.into(),
            connect: Duration::from_secs(15),
            silence: Duration::from_secs(60),
            resume: Duration::from_secs(120),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => formatter.write_str(address),
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("place", &self.place)
            .field("workload", &self.workload)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
