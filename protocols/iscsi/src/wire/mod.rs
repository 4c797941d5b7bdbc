//! Bytes on the wire (docs/protocols/iscsi.md; RFC 7143, sections 6 and 11).
//!
//! Every PDU begins with 48 bytes, the basic header segment; each kind has its own view of them. Everything is
//! big-endian. Lengths of a peer are compared with limits by whoever reads them from a socket, before anything is
//! allocated.

mod digest;
mod header;
mod request;
mod response;
mod serial;
mod text;

pub use digest::{DIGEST_LENGTH, Digesting, Digests, digest};
pub use header::{HEADER_LENGTH, Header, Pdu, U24, opcode, padding};
pub use request::{
    DataOut, LoginFlags, LoginRequest, LogoutRequest, NopOut, ScsiCommand, Snack,
    TaskManagementRequest, TextRequest, additional_headers,
};
pub use response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse,
    TaskManagementResponse, TextResponse, async_event, reject_reason,
};
pub use serial::precedes;
pub use text::{
    BinaryValue, Malformed, Text, decode_binary, decode_number, encode_hex, parse_text,
};

/// The tag that stands for none (RFC 7143, 11.2.1.8 and 11.7.4).
pub const NO_TAG: u32 = 0xffff_ffff;
