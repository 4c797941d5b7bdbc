//! Why the client failed.

use std::io;

use super::address::BadUri;
use crate::wire::{Malformed, ReplyType, Status};

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address makes no sense.
    #[error("bad address")]
    Address(#[from] BadUri),
    /// The server could not be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("connection broke")]
    Socket(#[from] io::Error),
    /// The server refused an option of the handshake.
    #[error("server refused with {reply:?}: {message}")]
    Refused {
        /// How.
        reply: ReplyType,
        /// What it said.
        message: String,
    },
    /// A request failed.
    #[error("request failed with {0:?}")]
    Failed(Status),
    /// The server sent what it must not.
    #[error("server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server sent a message of a wrong form.
    #[error("server broke the protocol")]
    Malformed(#[from] Malformed),
}
