//! An NBD server over [`export::BlockExport`], and a small blocking client.
//!
//! Serves fixed newstyle negotiation with TLS, structured replies, extended headers, meta contexts and every command
//! of the protocol that a disk can answer; docs/protocols/nbd.md says what exactly. Names are those of the protocol
//! document, <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, cited as "NBD protocol".
//!
//! [`Server`] finds exports through an [`ExportDirectory`], so that they come and go while it runs. One task moves
//! the bytes of one connection; [`session`] holds its two state machines, which know no socket. Requests that memory
//! can answer are answered at once; the rest go to the one [`export::BlockingPool`] and come back in any order.

#![forbid(unsafe_code)]

pub mod client;
mod directory;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod metrics;
mod server;
pub mod session;
pub mod wire;

pub use directory::{
    ExportDirectory, ExportSummary, OpenError, OpenedExport, Peer, PeerAddress, StaticDirectory,
};
pub use error::{ConnectionError, SessionError, StartError};
pub use metrics::Metrics;
pub use server::{BoundAddress, Endpoint, Limits, Server, ServerConfig, Tls};
