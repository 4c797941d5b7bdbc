//! A small client that blocks: one request at a time, over TCP or a unix socket.
//!
//! For tools, tests and sources of backups; it uses no async runtime and no TLS. Servers are not trusted: lengths are
//! compared with what was asked before anything is allocated.

mod address;
mod error;
mod negotiation;
mod transmission;

pub use address::{Address, BadUri};
pub use error::ClientError;

use std::time::Duration;

use crate::wire::{BlockSizes, Dialect, transmission_flags};
use address::Stream;
use negotiation::Negotiation;

/// How to connect.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// Names of meta contexts that [`Client::block_status`] shall show, where the server has them.
    pub contexts: Vec<String>,
    /// Whether to ask for extended headers.
    pub extended_headers: bool,
    /// Longest wait for the server, in connecting and in each answer; `None` waits for ever.
    pub timeout: Option<Duration>,
}

/// One export of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSummary {
    /// Its name.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
}

/// What a server tells about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteExport {
    /// Capacity.
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Its proper name, if the server tells.
    pub name: Option<String>,
    /// A text for people, if the server tells.
    pub description: Option<String>,
    /// Units of requests, if the server tells.
    pub block_sizes: Option<BlockSizes>,
}

impl RemoteExport {
    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.flags & transmission_flags::READ_ONLY != 0
    }

    /// Whether several connections may be used as one.
    pub fn can_multi_conn(&self) -> bool {
        self.flags & transmission_flags::CAN_MULTI_CONN != 0
    }
}

/// The extents of one meta context: its name, then lengths and flags.
pub type StatusExtents = (String, Vec<(u64, u64)>);

/// A connection to one export.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    export: RemoteExport,
    dialect: Dialect,
    contexts: Vec<(u32, String)>,
    cookie: u64,
}

impl Client {
    /// Names the exports of a server.
    ///
    /// # Errors
    /// If the server cannot be reached or does not want to tell.
    pub fn list(
        address: &Address,
        options: &ConnectOptions,
    ) -> Result<Vec<RemoteSummary>, ClientError> {
        let mut negotiation = Negotiation::start(Stream::connect(address, options.timeout)?)?;
        let summaries = negotiation.list()?;
        negotiation.abort()?;
        Ok(summaries)
    }

    /// Describes one export; the empty name asks for the default.
    ///
    /// # Errors
    /// If the server cannot be reached or has no such export.
    pub fn info(
        address: &Address,
        name: &str,
        options: &ConnectOptions,
    ) -> Result<RemoteExport, ClientError> {
        let mut negotiation = Negotiation::start(Stream::connect(address, options.timeout)?)?;
        let export = negotiation.info(name)?;
        negotiation.abort()?;
        Ok(export)
    }

    /// Connects to one export; the empty name asks for the default.
    ///
    /// # Errors
    /// If the server cannot be reached or has no such export.
    pub fn connect(
        address: &Address,
        name: &str,
        options: &ConnectOptions,
    ) -> Result<Self, ClientError> {
        let mut negotiation = Negotiation::start(Stream::connect(address, options.timeout)?)?;
        let dialect = negotiation.dialect(options.extended_headers)?;
        let contexts = match dialect {
            Dialect::Simple => Vec::new(),
            _ if options.contexts.is_empty() => Vec::new(),
            _ => negotiation.set_meta_context(name, &options.contexts)?,
        };
        let (export, stream) = negotiation.go(name)?;
        Ok(Self {
            stream,
            export,
            dialect,
            contexts,
            cookie: 0,
        })
    }

    /// What the server told about the export.
    pub fn export(&self) -> &RemoteExport {
        &self.export
    }

    /// The form of requests and replies that was agreed on.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The meta contexts that the server shows.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(|(_, name)| name.as_str())
    }
}
