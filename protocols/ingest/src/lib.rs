//! Streams in and out: the protocol between the daemon and programs that have backups of databases to bring.
//!
//! `docs/formats/ingest.md` specifies it. [`Client`] blocks, starts no thread and needs no runtime: it runs in a database's
//! process. The daemon's side is behind the feature `server`.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod tls;
mod wire;

#[cfg(feature = "server")]
mod server;

pub use client::{Client, ClientError, Place, Settings};
pub use tls::pinned;
pub use wire::{
    ABOUT_BYTES_MAX, About, Code, Entry, Listed, Malformed, NAME_BYTES_MAX, Refusal, SessionId,
    StreamKind,
};

#[cfg(feature = "server")]
pub use server::{
    BoundAddress, Credentials, Endpoint, Metrics, Peer, Server, ServerConfig, StagedStream,
    StartError, StreamContent, StreamStore, StreamWorkload,
};

/// Readers as fuzz targets call them: any bytes in, no panic.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::connection::fuzz_frames;
}
