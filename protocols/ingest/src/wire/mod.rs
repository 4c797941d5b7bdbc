//! Bytes and values of the protocol (`docs/formats/ingest.md`).

mod entry;
mod frame;
mod message;

pub use entry::{About, Entry, StreamKind};
#[cfg(feature = "server")]
pub(crate) use frame::DATA_BYTES_MAX;
pub use frame::Malformed;
pub(crate) use frame::{Frame, HEAD_BYTES, Head, Kind, MAGIC};
#[cfg(feature = "server")]
pub(crate) use message::UnderWay;
pub use message::{ABOUT_BYTES_MAX, Code, Listed, NAME_BYTES_MAX, Refusal, SessionId};
pub(crate) use message::{
    Describe, Described, Get, Hello, List, NAMES_AT_ONCE, Put, Remove, Removed, Welcome,
};
