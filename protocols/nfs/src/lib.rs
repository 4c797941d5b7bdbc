//! An NFS version 3 server over [`FileExport`](export::FileExport), with the MOUNT and port mapper programs.
//!
//! What is served, refused and done differently: `docs/protocols/nfs.md`. Why it is our own: `docs/design/0003-own-nfs-server.md`.
//!
//! [`Server::start`] listens; an [`ExportDirectory`] says what there is and for whom. Inside, `wire` turns bytes into
//! values, `service` turns one call into one answer, `session` is a connection without its socket, and `server` has the
//! sockets. [`client`] is a small blocking client.

#![forbid(unsafe_code)]

mod access;
mod address_list;
pub mod client;
mod connection;
mod duplicates;
mod error;
mod exports;
mod fuzz;
mod handle;
mod metrics;
#[cfg(feature = "nfsserve")]
pub mod nfsserve_adapter;
mod rpcbind;
mod server;
mod service;
mod session;
mod wire;

pub use address_list::{AddressList, BadAddress};
pub use duplicates::DuplicateLimits;
pub use error::{ServerError, Status, status};
pub use exports::{Export, ExportDirectory, ExportOptions, Refusal, Squash, StaticDirectory};
#[doc(hidden)]
pub use fuzz::fuzz_record;
pub use handle::HandleKey;
pub use metrics::{Counter, Metrics};
pub use server::{Limits, Portmap, Server, ServerConfig};
pub use session::Window;
pub use wire::{Malformed, Procedure};
