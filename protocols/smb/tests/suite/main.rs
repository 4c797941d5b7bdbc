//! A real `smbd` under our hand, used by Samba's own client.
#![expect(
    clippy::unwrap_used,
    reason = "a test says that something failed by panicking"
)]

mod access;
mod content;
mod lifecycle;
mod support;
