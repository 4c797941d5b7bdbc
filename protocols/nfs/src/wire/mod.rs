//! Bytes on the wire to values and back. Lengths that a peer sends are compared with a constant before they are used.
//!
//! What of the standards is supported: `docs/protocols/nfs.md`.

pub(crate) mod mount;
pub(crate) mod nfs3;
pub(crate) mod portmap;
pub(crate) mod rpc;
pub(crate) mod xdr;

pub use nfs3::Procedure;
pub use xdr::Malformed;
