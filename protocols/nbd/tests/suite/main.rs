//! The server against real clients, hostile peers and its own client.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "a test says that something failed by panicking, and which program it did without"
)]

mod support;

mod clients;
mod handshake;
mod hostile;
mod own_client;
mod server;
mod tls;
mod transmission;
