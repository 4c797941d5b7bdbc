//! Client and server over real sockets, with streams kept in memory.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod hostile;
mod memory_store;
mod resuming;
mod rig;
mod streams;
