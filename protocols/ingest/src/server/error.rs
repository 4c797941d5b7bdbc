//! Why the server did not start.

use std::io;
use std::path::PathBuf;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Where the socket should be is something else.
    #[error("{0} is no socket; remove it, or set another path")]
    NotSocket(PathBuf),
    /// Another process listens there.
    #[error("another process listens on {0}; stop that, or set another path")]
    InUse(PathBuf),
    /// The system refused a thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}
