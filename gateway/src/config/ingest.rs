//! The `[ingest]` table.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError, Span};

/// Streams of databases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Addresses that it listens on, with TLS. None: streams come over unix sockets alone.
    pub listen: Vec<SocketAddr>,
    /// A unix socket for everybody on this machine who has a token; the one in the state folder comes besides.
    pub socket: Option<PathBuf>,
    /// Connections at once.
    pub connections: usize,
    /// Content of one session that may be under way.
    pub window: ByteSize,
    /// How long a session waits for a client whose connection broke.
    pub resume: Span,
}

impl IngestConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rule = if self.connections == 0 {
            "[ingest] connections is 0, so nobody could bring a stream"
        } else if !(WINDOW_BYTES_MIN..=WINDOW_BYTES_MAX).contains(&self.window.bytes()) {
            "[ingest] window must be from 1MiB to 64MiB"
        } else if self
            .socket
            .as_ref()
            .is_some_and(|socket| !socket.is_absolute())
        {
            "[ingest] socket must be a path from the root"
        } else {
            return Ok(());
        };
        Err(ConfigError::Contradiction(rule))
    }
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            socket: None,
            connections: 256,
            window: ByteSize::mebibytes(4),
            resume: Span::seconds(120),
        }
    }
}

const WINDOW_BYTES_MIN: u64 = 1 << 20;
const WINDOW_BYTES_MAX: u64 = 64 << 20;
