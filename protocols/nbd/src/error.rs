//! Why a connection ended or a server did not start, and which error number a peer is told.

use std::io;
use std::path::PathBuf;

use export::ExportError;

use crate::wire::{Malformed, Status};

/// What a peer did wrong; the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Bytes are not what the protocol says.
    #[error("malformed {what}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What is wrong with it.
        source: Malformed,
    },
    /// Client flags that nobody defined.
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    /// More options than any client needs.
    #[error("too many options")]
    TooManyOptions,
    /// An option larger than any client needs.
    #[error("option of {0} bytes is too large")]
    OptionTooLarge(u32),
    /// Bytes behind `NBD_OPT_STARTTLS` that came before the reply: somebody between may have put them there.
    #[error("plaintext behind the request to start TLS")]
    PlaintextBeforeTls,
    /// `NBD_OPT_EXPORT_NAME` cannot be refused but by closing.
    #[error("export refused")]
    Refused,
    /// A payload that is too long to skip.
    #[error("payload of {0} bytes is too large")]
    PayloadTooLarge(u64),
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The peer broke the protocol.
    #[error("peer broke the protocol")]
    Session(#[from] SessionError),
    /// The socket failed.
    #[error("socket failed")]
    Socket(#[source] io::Error),
    /// TLS could not be agreed on.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The peer did not choose an export in time.
    #[error("handshake took too long")]
    HandshakeTimeout,
    /// The peer kept memory that others wait for, and neither sent the rest of a payload nor took its replies.
    #[error("peer stood still with {held_bytes} bytes of memory that others wait for")]
    Standstill {
        /// What it kept.
        held_bytes: u64,
    },
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A path for a socket holds something else.
    #[error("{} exists and is not a socket; remove it or choose another path", .0.display())]
    NotSocket(PathBuf),
    /// Somebody listens on the socket.
    #[error("another server is listening on {}", .0.display())]
    InUse(PathBuf),
}

/// The error number that a peer is told. The text stays here.
pub(crate) fn status(error: &ExportError) -> Status {
    match error {
        ExportError::ReadOnly | ExportError::NotPermitted => Status::Permission,
        ExportError::OutOfRange { .. } | ExportError::Invalid => Status::Invalid,
        ExportError::NotSupported => Status::NotSupported,
        ExportError::NoSpace { .. } => Status::NoSpace,
        ExportError::ShuttingDown => Status::Shutdown,
        _ => Status::Io,
    }
}

/// Whether an error is the storage's and must be logged here, where it stops.
pub(crate) fn is_storage_fault(error: &ExportError) -> bool {
    status(error) == Status::Io
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_has_its_number() {
        let detail: std::sync::Arc<str> = "x".into();
        let check =
            |error: ExportError, wanted: Status| assert_eq!(status(&error), wanted, "{error}");
        check(ExportError::ReadOnly, Status::Permission);
        check(
            ExportError::OutOfRange {
                offset: 1,
                length: 2,
            },
            Status::Invalid,
        );
        check(
            ExportError::NoSpace {
                detail: detail.clone(),
            },
            Status::NoSpace,
        );
        check(
            ExportError::Corrupt {
                detail: detail.clone(),
            },
            Status::Io,
        );
        check(ExportError::Storage { detail }, Status::Io);
        check(ExportError::ShuttingDown, Status::Shutdown);
        check(ExportError::NotSupported, Status::NotSupported);
    }
}
