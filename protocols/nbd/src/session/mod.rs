//! The two state machines of a connection, without its socket.
//!
//! [`Handshake`] takes bytes and gives bytes until an export is chosen; [`Transmission`] then takes requests and
//! queues replies.

mod context;
mod handshake;
mod memory;
mod reply;
mod task;
mod transmission;

pub use context::Context;
pub use handshake::{Chosen, Handshake, Step, TlsMode};
pub use memory::Memory;
pub use transmission::{Transmission, TransmissionLimits};
