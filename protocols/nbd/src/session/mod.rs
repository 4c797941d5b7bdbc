//! The two state machines of a connection, without its socket.
//!
//! [`Handshake`] takes bytes and gives bytes until an export is chosen; [`Transmission`] then takes requests and
//! queues replies.

mod context;
mod handshake;
mod reply;
mod task;
mod transmission;

pub use context::Context;
pub use handshake::{Chosen, Handshake, Step, TlsMode};
pub use transmission::{Transmission, TransmissionLimits};
