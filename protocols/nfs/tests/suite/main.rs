//! The server against real clients, our own client, and hostile peers.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod attacks;
mod exports;
mod hostile;
mod peers;
mod procedures;
mod repeats;
mod support;
mod windows;
