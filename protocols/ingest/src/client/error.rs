//! Why the client failed.

use crate::wire::{Code, Malformed, Refusal};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The daemon cannot be reached.
    #[error(
        "cannot reach the Holdfast daemon at {place}: {reason}; check that it runs, that [ingest] listens there, and the network between"
    )]
    Connect {
        /// Where.
        place: String,
        /// What the system said.
        reason: String,
    },
    /// The daemon is not the one that was expected, or speaks no TLS.
    #[error(
        "the daemon at {place} is not trusted: {reason}; compare the fingerprint with what `holdfast serve` prints"
    )]
    Untrusted {
        /// Where.
        place: String,
        /// What TLS said.
        reason: String,
    },
    /// The connection broke and could not be made again in time.
    #[error("the connection to the Holdfast daemon broke: {0}")]
    Broken(String),
    /// The daemon refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The daemon sent what it must not.
    #[error("the daemon does not keep to the protocol: {0}; its version may not fit this one's")]
    Protocol(#[from] Malformed),
    /// What came is not what was sent.
    #[error("the stream {0} changed on its way: its checksum is wrong")]
    Checksum(String),
    /// The call makes no sense now.
    #[error("{0}")]
    Misused(&'static str),
    /// The session has ended.
    #[error("the session has ended")]
    Closed,
}

impl ClientError {
    /// Whether trying again may help, as it was the connection that failed.
    pub fn is_of_connection(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Broken(_) | Self::Closed)
            || self.code() == Some(Code::Busy)
    }

    /// The daemon's reason, if it was the daemon that refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}
